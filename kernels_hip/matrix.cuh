/* SPDX-License-Identifier: Apache-2.0
 * c[16 x 8] += a[16 x 16] b[16 x 8] of a warp by AMD's instructions, between the fragments that
 * kernels_cuda/device/matrix.cuh names: lane 4g + t has of a its quarter t (places 2t, 2t+1, 2t+8, 2t+9 of the inner
 * dimension) of rows g and g + 8, of b that of column g, of c columns 2t, 2t+1 of both rows. What is said of lanes
 * is said of their bits: a swap makes the bit of a lane's number and that of a register's change places.
 *
 * Over instructions that the including dialect has (instructions.cuh), so that a processor can run it.
 */
#ifndef HATTN_KERNELS_HIP_MATRIX_CUH
#define HATTN_KERNELS_HIP_MATRIX_CUH

namespace hattn::amd {

using vendor::bits_of;
using vendor::float_of_bits;
using vendor::from_lane;

template <int kBit>
__device__ inline void swap_with_lane_bit(Quarter (&x)[2])
{
    const bool is_set = threadIdx.x >> kBit & 1;
    const Quarter first = from_near<1 << kBit>(x[1]), second = from_near<1 << kBit>(x[0]);
    x[0] = is_set ? first : x[0];
    x[1] = is_set ? x[1] : second;
}

__device__ inline Quarter quarter_of(float low, float high) { return {bits_of(low), bits_of(high)}; }

/* MFMA of 4 x 4 x 4, sixteen in a wave: with the first operand of one of each four for all four, 16 lanes multiply
 * their own 16 columns by 4 rows. So nothing leaves its 16 lanes, not even what is no number. Both warps of a wave have
 * to be here: registers of lanes that are off would be written, too, and they may hold what these lanes need later (a
 * sum that left a loop which the other warp is still in). b's columns are the instruction's rows, twice 4; a's rows are
 * its columns, each in two lanes, since a row of 16 lanes has 8 of them. */
template <class T>
__device__ inline void mma_by_mfma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                   uint32_t b1)
{
    const int lane = threadIdx.x & 31;
    Quarter half[2] = {{a0, a2}, {a1, a3}}, row[4];
    swap_with_lane_bit<0>(half); /* of row lane / 4 + 8 * bit 0, quarters 2 * bit 1 and one more */
    for (int i = 0; i < 2; i++) {
        row[i] = from_quad<0, 1, 0, 1>(half[i]);
        row[i + 2] = from_quad<2, 3, 2, 3>(half[i]);
    }
    float d[2][4];
    for (int i = 0; i < 2; i++) { /* columns 4i .. 4i + 3; quad q has quarter q */
        const Quarter column = from_lane(Quarter{b0, b1}, 16 * i + lane % 4 * 4 + lane / 4 % 4);
        Sums<4> sums = {};
        mfma_4x4x4<T, 0>(sums, column, row[0]);
        mfma_4x4x4<T, 1>(sums, column, row[1]);
        mfma_4x4x4<T, 2>(sums, column, row[2]);
        mfma_4x4x4<T, 3>(sums, column, row[3]);
        for (int r = 0; r < 4; r++)
            d[i][r] = sums[r];
    }
    Quarter x[2]; /* column 4 * bit 1 + 2 * its number + 0 and 1, and row 8 * bit 0 */
    for (int i = 0; i < 2; i++)
        x[i] = quarter_of(lane & 2 ? d[1][2 * i] : d[0][2 * i], lane & 2 ? d[1][2 * i + 1] : d[0][2 * i + 1]);
    swap_with_lane_bit<0>(x);
    for (int i = 0; i < 2; i++) {
        c[2 * i] += float_of_bits(x[i].low);
        c[2 * i + 1] += float_of_bits(x[i].high);
    }
}

/* WMMA of 16 x 16 x 16, once a warp, which is a wave. a's rows are the instruction's in such an order that what bit 4
 * of a lane is for c, it is for the result; of its columns, b's are there twice, as bit 3 of a lane says. kGeneration:
 * 11 or 12 (gfx11, gfx12). */
template <class T, int kGeneration>
__device__ inline void mma_by_wmma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                   uint32_t b1)
{
    const int lane = threadIdx.x & 31, column = lane % 4 * 2 + lane / 4 % 2;
    Quarter half[2] = {{a0, a2}, {a1, a3}};
    swap_with_lane_bit<0>(half);
    Sums<8> d;
    if constexpr (kGeneration == 11) {
        /* A lane has all of a row, and lane + 16 the same; register r is row 2r + lane / 16. */
        const int row = lane % 2 * 16 + (lane & 12) + lane / 2 % 2;
        Quarter rows[4], columns[4];
        for (int i = 0; i < 4; i++) {
            rows[i] = from_lane(half[i % 2], row + i / 2 * 2);
            columns[i] = from_lane(Quarter{b0, b1}, column * 4 + i);
        }
        d = wmma<T>(rows, columns);
    } else {
        /* A lane has half of a row, and lane + 16 the other; register r is row r + lane / 16 * 8. */
        const int row = lane / 8 % 2 * 16 + lane / 2 % 4 * 4 + lane / 16 * 2 + lane % 2;
        Quarter rows[2], columns[2];
        for (int i = 0; i < 2; i++) {
            rows[i] = from_lane(half[i], row);
            columns[i] = from_lane(Quarter{b0, b1}, column * 4 + lane / 16 * 2 + i);
        }
        d = wmma<T>(rows, columns);
    }
    Quarter x[2]; /* row 4 * bit 4 + 2 * bit 3 + its number, and 8 more, and column bit 2 */
    for (int i = 0; i < 2; i++)
        x[i] = quarter_of(lane & 8 ? d[4 + 2 * i] : d[2 * i], lane & 8 ? d[5 + 2 * i] : d[2 * i + 1]);
    swap_with_lane_bit<2>(x);
    for (int i = 0; i < 2; i++) {
        c[i] += float_of_bits(x[i].low);
        c[2 + i] += float_of_bits(x[i].high);
    }
}

} // namespace hattn::amd

#endif
