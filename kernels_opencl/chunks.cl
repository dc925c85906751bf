/* SPDX-License-Identifier: Apache-2.0
 * How the keys of a row are cut into chunks, a group for each: in front of score.cl and select.cl.
 */

/* A group of CPUs counts in 16 bits, each work-item its own keys: fewer than 2^16, as chunks of rows up to 2^20 are. */
#ifdef IS_CPU
typedef ushort counter;
#define BY_RANGES 1 /* a work-item's keys are neighbours; else neighbours' are */
#define AHEAD 1     /* keys of a work-item that are loaded together */
#else
typedef uint counter;
#define BY_RANGES 0
#define AHEAD 4
#endif

/* Keys of a chunk: at least 1024, as long as there are no more than num_chunks. */
int chunk_size(int length, int num_chunks)
{
    const int even = (length - 1) / num_chunks + 1;
    return max(1024, (even + 63) / 64 * 64);
}
