/* SPDX-License-Identifier: Apache-2.0
 * Products of matrices: c[16 x 8] += a[16 x 16] b[16 x 8] by a warp, how its lanes hold the three matrices, and how they get
 * them.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_MATRIX_CUH
#define HATTN_KERNELS_CUDA_DEVICE_MATRIX_CUH

#include "kernels_cuda/device/elements.cuh"
#include "kernels_cuda/device/warp.cuh"

namespace hattn {

/* Which elements a lane holds: as in the PTX manual's mma.m16n8k16. Lanes are four for each of 8 groups; a register
 * of a and of b is two neighbours of the inner dimension. */
struct Fragment {
    int group, pair; /* of 8, of 4 */

    __device__ Fragment() : group(lane_id() / 4), pair(lane_id() % 4) {}

    /* Element i (of 4) of c. */
    __device__ int row(int i) const { return group + i / 2 * 8; }

    __device__ int column(int i) const { return 2 * pair + i % 2; }

    /* Register r (of 4) of a: its row, and the first of its two places in the inner dimension. */
    __device__ int a_row(int r) const { return group + r % 2 * 8; }

    __device__ int a_inner(int r) const { return 2 * pair + r / 2 * 8; }

    /* Register r (of 2) of b. */
    __device__ int b_column() const { return group; }

    __device__ int b_inner(int r) const { return 2 * pair + r * 8; }

    /* For load_matrices<4> of a from rows in shared memory: the row that this lane points at, and which 16 bytes of
     * its 32. */
    __device__ static int a_source_row() { return lane_id() % 16; }

    __device__ static int a_source_chunk() { return lane_id() / 16; }

    /* For load_matrices of kBlocks b's side by side, whose columns are rows in shared memory; for load_transposed<4>
     * of a, too. */
    template <int kBlocks> /* 1 or 2 */
    __device__ static int b_source_row()
    {
        return kBlocks == 2 ? lane_id() % 8 + lane_id() / 16 * 8 : lane_id() % 8;
    }

    __device__ static int b_source_chunk() { return lane_id() / 8 % 2; }

    /* Over the lanes of a group, which have elements of the same rows of a and c, or of the same column of b. */
    __device__ static uint32_t group_or(uint32_t x)
    {
        x |= from_partner(x, 1);
        return x | from_partner(x, 2);
    }

    __device__ static float group_sum(float x)
    {
        x += from_partner(x, 1);
        return x + from_partner(x, 2);
    }

    __device__ static float group_max(float x)
    {
        x = fmaxf(x, from_partner(x, 1));
        return fmaxf(x, from_partner(x, 2));
    }

    /* Over those that have elements of the same columns. */
    __device__ static float column_sum(float x)
    {
        for (int offset = 4; offset < 32; offset <<= 1)
            x += from_partner(x, offset);
        return x;
    }

    __device__ static float column_max(float x)
    {
        for (int offset = 4; offset < 32; offset <<= 1)
            x = fmaxf(x, from_partner(x, offset));
        return x;
    }
};

/* c[16 x 8] += a[16 x 16] b[16 x 8], of float16 or bfloat16; c, a and b as Fragment says. All warps of a wave come to it
 * together, also those that have nothing to multiply (any_of_wave): AMD's instructions write registers of lanes that are off. */
using vendor::mma_16816;

/* Lane (g, t) holds elements (g, 2t), (g, 2t+1) of an 8 x 8 matrix of 16 bits, and gets those of its transpose. */
using vendor::transpose_8x8;

/* kCount (2 or 4) matrices of 8 x 8 of 16 bits in shared memory, whose rows lanes 8i .. 8i+7 point at for matrix i:
 * lane (g, t) gets elements (g, 2t), (g, 2t+1) of each ... */
using vendor::load_matrices;

/* ... or (2t, g), (2t+1, g). */
using vendor::load_transposed;

/* m16n8k256 of single bits, and + popcount. */
#if HATTN_HAS_MMA_B1
using vendor::mma_b1;
#endif

} // namespace hattn

#endif
