/* SPDX-License-Identifier: Apache-2.0
 * The instructions that matrix.cuh is written over: moves between near lanes, and products.
 */
#ifndef HATTN_KERNELS_HIP_INSTRUCTIONS_CUH
#define HATTN_KERNELS_HIP_INSTRUCTIONS_CUH

namespace hattn::amd {

/* Four 16-bit elements of the inner dimension, or any two words. */
struct Quarter {
    uint32_t low, high;
};

template <int kControl>
__device__ inline uint32_t by_dpp(uint32_t x)
{
    return static_cast<uint32_t>(__builtin_amdgcn_mov_dpp(static_cast<int>(x), kControl, 0xf, 0xf, true));
}

template <int kControl>
__device__ inline Quarter by_dpp(Quarter x)
{
    return {by_dpp<kControl>(x.low), by_dpp<kControl>(x.high)};
}

/* x of lane k0, k1, k2 or k3 of the four that this one is among. */
template <int k0, int k1, int k2, int k3>
__device__ inline Quarter from_quad(Quarter x)
{
    return by_dpp<k0 | k1 << 2 | k2 << 4 | k3 << 6>(x);
}

/* x of the lane whose number differs in kMask, 1 or (from gfx10 on) 4. */
template <int kMask>
__device__ inline Quarter from_near(Quarter x)
{
    if constexpr (kMask == 1)
        return from_quad<1, 0, 3, 2>(x);
    else
        return by_dpp<0x160 + kMask>(x);
}

template <int kCount>
using Sums = float __attribute__((ext_vector_type(kCount)));
template <int kCount>
using Halves = _Float16 __attribute__((ext_vector_type(kCount)));
template <int kCount>
using Shorts = short __attribute__((ext_vector_type(kCount)));

/* Sixteen products of 4 x 4 x 4 in a wave of 64: sums (4 rows) += a b, of four blocks a from block kBlock. */
template <class T, int kBlock>
__device__ void mfma_4x4x4(Sums<4> &sums, Quarter a, Quarter b);

/* 16 x 16 x 16 in a wave of 32. */
template <class T, int kQuarters> /* of a lane: 4 in gfx11, 2 in gfx12 */
__device__ Sums<8> wmma(const Quarter (&a)[kQuarters], const Quarter (&b)[kQuarters]);

#if defined(__gfx90a__) || defined(__gfx942__)

template <class T, int kBlock>
__device__ inline void mfma_4x4x4(Sums<4> &sums, Quarter a, Quarter b)
{
    if constexpr (!std::is_same_v<T, vendor::float16>) {
        sums = __builtin_amdgcn_mfma_f32_4x4x4bf16_1k(__builtin_bit_cast(Shorts<4>, a),
                                                      __builtin_bit_cast(Shorts<4>, b), sums, 2, kBlock, 0);
    } else {
        const auto x = __builtin_bit_cast(Halves<4>, a), y = __builtin_bit_cast(Halves<4>, b);
#ifdef __gfx90a__ /* whose products of fp16 take subnormal numbers for 0 (AMD, "MI200 MFMA behavior specifics") */
        for (int i = 0; i < 4; i++)
            sums = __builtin_amdgcn_mfma_f32_4x4x1f32(x[i], y[i], sums, 2, kBlock, 0);
#else
        sums = __builtin_amdgcn_mfma_f32_4x4x4f16(x, y, sums, 2, kBlock, 0);
#endif
    }
}

#elif defined(__GFX11__) || defined(__GFX12__)

template <class T, int kQuarters>
__device__ inline Sums<8> wmma(const Quarter (&a)[kQuarters], const Quarter (&b)[kQuarters])
{
    constexpr int kCount = 4 * kQuarters;
    Sums<8> sums = {};
    if constexpr (std::is_same_v<T, vendor::float16>) {
        const auto x = __builtin_bit_cast(Halves<kCount>, a), y = __builtin_bit_cast(Halves<kCount>, b);
#ifdef __GFX11__
        sums = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(x, y, sums);
#else
        sums = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(x, y, sums);
#endif
    } else {
        const auto x = __builtin_bit_cast(Shorts<kCount>, a), y = __builtin_bit_cast(Shorts<kCount>, b);
#ifdef __GFX11__
        sums = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(x, y, sums);
#else
        sums = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(x, y, sums);
#endif
    }
    /* Else the compiler takes what is chosen of them by a lane's bits for an index, and compares with all there are. */
    for (int r = 0; r < 8; r++) {
        float x = sums[r];
        asm("" : "+v"(x));
        sums[r] = x;
    }
    return sums;
}

#endif

} // namespace hattn::amd

#endif
