/* SPDX-License-Identifier: Apache-2.0
 * Tensor cores: c[16 x 8] += a[16 x 16] b[16 x 8] by a warp, how its lanes hold the three matrices, and how they get
 * them.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_MATRIX_CUH
#define HATTN_KERNELS_CUDA_DEVICE_MATRIX_CUH

#include "kernels_cuda/device/elements.cuh"
#include "kernels_cuda/device/warp.cuh"

/* Whether there are products of single bits. Blackwell (sm_100, sm_120) has none: each would be a call of 120
 * instructions. */
#if defined(HATTN_PORTABLE) || __CUDA_ARCH__ >= 1000
#define HATTN_HAS_MMA_B1 0
#else
#define HATTN_HAS_MMA_B1 1
#endif

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

#ifdef HATTN_PORTABLE

/* Element i (0 or 1) of a register of two. */
template <class T>
__device__ inline float half_of(uint32_t bits, int i)
{
    T pair[2];
    memcpy(pair, &bits, sizeof(bits));
    return to_float(pair[i]);
}

/* c[16 x 8] += a[16 x 16] b[16 x 8]; a, b, c distributed over the warp. Not inlined: it stands in loops that are
 * unrolled. */
template <class T>
__device__ __noinline__ void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1)
{
    const auto [g, t] = Fragment();
    for (int k = 0; k < 4; k++) { /* the quarter of the inner dimension that lane 4x + k holds */
        const uint32_t r0 = from_lane(a0, 4 * g + k), r1 = from_lane(a1, 4 * g + k);
        const uint32_t r2 = from_lane(a2, 4 * g + k), r3 = from_lane(a3, 4 * g + k);
        for (int n = 0; n < 2; n++) {
            const uint32_t s0 = from_lane(b0, 4 * (2 * t + n) + k), s1 = from_lane(b1, 4 * (2 * t + n) + k);
            for (int i = 0; i < 2; i++) {
                c[n] += half_of<T>(r0, i) * half_of<T>(s0, i) + half_of<T>(r2, i) * half_of<T>(s1, i);
                c[n + 2] += half_of<T>(r1, i) * half_of<T>(s0, i) + half_of<T>(r3, i) * half_of<T>(s1, i);
            }
        }
    }
}

/* Lane (g, t) holds elements (g, 2t), (g, 2t+1) of an 8 x 8 matrix of 16 bits, and gets those of its transpose. */
__device__ inline uint32_t transpose_8x8(uint32_t x)
{
    const auto [g, t] = Fragment();
    const uint32_t low = from_lane(x, 4 * (2 * t) + g / 2), high = from_lane(x, 4 * (2 * t + 1) + g / 2);
    return (low >> g % 2 * 16 & 0xffff) | (high >> g % 2 * 16) << 16;
}

template <int kCount>
__device__ inline void load_matrices(uint32_t (&x)[kCount], const void *row)
{
    const auto [g, t] = Fragment();
    for (int i = 0; i < kCount; i++) {
        const uint64_t address = from_lane(reinterpret_cast<uint64_t>(row), 8 * i + g);
        x[i] = reinterpret_cast<const uint32_t *>(address)[t];
    }
}

template <int kCount>
__device__ inline void load_transposed(uint32_t (&x)[kCount], const void *row)
{
    const auto [g, t] = Fragment();
    for (int i = 0; i < kCount; i++) {
        const uint64_t low = from_lane(reinterpret_cast<uint64_t>(row), 8 * i + 2 * t);
        const uint64_t high = from_lane(reinterpret_cast<uint64_t>(row), 8 * i + 2 * t + 1);
        x[i] = reinterpret_cast<const uint16_t *>(low)[g] |
               static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(high)[g]) << 16;
    }
}

#else

template <class T>
__device__ inline void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                 uint32_t b1)
{
    if constexpr (std::is_same_v<T, __half>)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint32_t transpose_8x8(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(y) : "r"(x));
    return y;
}

/* kCount matrices of 8 x 8 of 16 bits in shared memory, whose rows lanes 8i .. 8i+7 point at for matrix i: lane (g,
 * t) gets elements (g, 2t), (g, 2t+1) of each ... */
template <int kCount> /* 2 or 4 */
__device__ inline void load_matrices(uint32_t (&x)[kCount], const void *row)
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kCount == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
                     : "=r"(x[0]), "=r"(x[1])
                     : "r"(address)
                     : "memory");
}

/* ... or (2t, g), (2t+1, g). */
template <int kCount>
__device__ inline void load_transposed(uint32_t (&x)[kCount], const void *row)
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kCount == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
                     : "=r"(x[0]), "=r"(x[1])
                     : "r"(address)
                     : "memory");
}

#endif

#if HATTN_HAS_MMA_B1

/* m16n8k256 of single bits, and + popcount. */
__device__ inline void mma_b1(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif

} // namespace hattn

#endif
