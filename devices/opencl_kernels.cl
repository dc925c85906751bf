/* SPDX-License-Identifier: Apache-2.0
 * Kernels that fill a device's memory, or only move it: what its ceilings are measured with.
 */
typedef __global uchar *bytes;

ulong mixed(ulong counter) /* random_word.h */
{
    ulong z = counter * 0x9e3779b97f4a7c15UL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebUL;
    return z ^ (z >> 31);
}

/* Between what is timed. */
__kernel void do_nothing(void) {}

/* By bytes: the start need not be a word's. */
__kernel void fill_words(bytes data, ulong at, ulong size, ulong keep, ulong set, ulong seed)
{
    const ulong first = mixed(seed);
    for (ulong i = get_global_id(0); i * 8 < size; i += get_global_size(0)) {
        const ulong word = (mixed(first + i) & keep) | set;
        for (ulong byte = i * 8; byte < size && byte < i * 8 + 8; byte++)
            data[at + byte] = (uchar)(word >> 8 * (byte % 8));
    }
}

/* Sums that no data gives go to `result`, so that no load is optimised away. */
__kernel void read_pieces(bytes data, ulong at, ulong num_pieces, bytes result, ulong result_at)
{
    __global const uint4 *pieces = (__global const uint4 *)(data + at);
    uint4 sum = 0;
    const ulong step = get_global_size(0);
    ulong i = get_global_id(0);
    for (; i + 3 * step < num_pieces; i += 4 * step)
        sum ^= pieces[i] ^ pieces[i + step] ^ pieces[i + 2 * step] ^ pieces[i + 3 * step];
    for (; i < num_pieces; i += step)
        sum ^= pieces[i];
    if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x9e3779b9u)
        result[result_at] = 1;
}

__kernel void copy_pieces(bytes to, ulong to_at, bytes from, ulong from_at, ulong num_pieces)
{
    for (ulong i = get_global_id(0); i < num_pieces; i += get_global_size(0))
        ((__global uint4 *)(to + to_at))[i] = ((__global const uint4 *)(from + from_at))[i];
}

/* Four neighbouring work-items read a row. */
__kernel void gather_rows(bytes data, ulong at, ulong pieces, bytes rows, ulong rows_at, ulong num_rows, bytes result,
                          ulong result_at)
{
    __global const uint *list = (__global const uint *)(rows + rows_at);
    uint4 sum = 0;
    for (ulong i = get_global_id(0) / 4; i < num_rows; i += get_global_size(0) / 4) {
        __global const uint4 *row = (__global const uint4 *)(data + at) + list[i] * pieces;
        for (ulong column = get_global_id(0) % 4; column < pieces; column += 4)
            sum ^= row[column];
    }
    if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x9e3779b9u)
        result[result_at] = 1;
}
