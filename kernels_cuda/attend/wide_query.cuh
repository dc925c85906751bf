/* SPDX-License-Identifier: Apache-2.0
 * Queries of attend_wide.cuh, as its products take them from shared memory.
 *
 * q of another type than fp16 with a cache that is fp16 or fp8: each head is scaled by a power of two, so that its
 * largest element is near 2^15; its 8 (bf16) bits are then exact. fp32 (kSplit) takes two columns a head, x = high +
 * low with 22 bits, and so do the weights: low parts are kept times 2^11, so that they are normal numbers. That is as
 * good as fp32 products.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_WIDE_QUERY_CUH
#define HATTN_KERNELS_CUDA_ATTEND_WIDE_QUERY_CUH

#include "kernels_cuda/attend/attend.cuh"

namespace hattn {

/* T: float16 or bfloat16, of the products. kBytes: caches are fp8. */
template <class T, bool kBytes, bool kSplit>
struct WideQuery {
    /* By a warp, into columns of `all` elements (low: with kSplit). Returns what the products are to be multiplied by. */
    __device__ static float store(const hattn_problem &p, const void *q, T *high, T *low, int all)
    {
        const int dtype = p.q.dtype, dims = p.head_dim_qk;
        if (!kSplit && dtype == (std::is_same_v<T, float16> ? HATTN_F16 : HATTN_BF16) &&
            reinterpret_cast<uintptr_t>(q) % 16 == 0) {
            copy(static_cast<const T *>(q), dims, high, all);
            return 1.0f;
        }
        float x[kElements];
        PowerOfTwo scale = {1.0f, 1.0f};
        if (dtype == HATTN_F32)
            load(x, static_cast<const float *>(q), dims);
        else if (dtype == HATTN_F16)
            load(x, static_cast<const float16 *>(q), dims);
        else
            load(x, static_cast<const bfloat16 *>(q), dims);
        if (std::is_same_v<T, float16> && dtype != HATTN_F16) {
            float largest = 0.0f;
#pragma unroll
            for (const float y : x)
                largest = fmaxf(largest, fabsf(y));
            scale = near_largest_half(warp_max(largest));
        }
#pragma unroll
        for (int k = 0; k < kElements; k++) {
            const int e = lane_id() + 32 * k;
            if (e >= all)
                break;
            high[place(e)] = from_float<T>(x[k] * scale.factor);
            if (kSplit)
                low[place(e)] = from_float<T>(x[k] * scale.factor - to_float(high[place(e)]));
        }
        return scale.inverse;
    }

private:
    static constexpr int kElements = (kMaxDim + 31) / 32; /* of a lane */

    /* Where element e of q lies. fp8: of each 4 neighbours two go to the low half of their 16, two to the high half. */
    __device__ static int place(int e) { return kBytes ? (e & ~15) | (e & 2) << 2 | (e & 12) >> 1 | (e & 1) : e; }

    /* On its way while positions are found: add_rows waits for it with its first tile. */
    __device__ static void copy(const T *q, int dims, T *column, int all)
    {
#pragma unroll 1
        for (int e = lane_id() * (kBytes ? 2 : 8); e < dims; e += 32 * (kBytes ? 2 : 8)) {
            if (kBytes)
                copy_async4(column + place(e), q + e);
            else
                copy_async16(column + e, q + e, true);
        }
#pragma unroll 1
        for (int e = dims + lane_id(); e < all; e += 32)
            column[e] = from_float<T>(0.0f);
    }

    /* Element lane_id() + 32 k into x[k], zeros past the last: all loads in flight together. */
    template <class Q>
    __device__ static void load(float (&x)[kElements], const Q *q, int dims)
    {
#pragma unroll
        for (int k = 0; k < kElements; k++) {
            const int e = lane_id() + 32 * k;
            x[k] = e < dims ? to_float(q[e]) : 0.0f;
        }
    }
};

} // namespace hattn

#endif
