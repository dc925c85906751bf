/* SPDX-License-Identifier: Apache-2.0
 * Bits of words and of floats, and arithmetic that one instruction does.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_NUMBERS_CUH
#define HATTN_KERNELS_CUDA_DEVICE_NUMBERS_CUH

#include <cstdint>
#include <cstring>

#include "kernels_cuda/device/vendor.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

__device__ inline uint32_t bits_of(float x) { return __float_as_uint(x); }

__device__ inline float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }

__device__ inline int count_ones(uint32_t x)
{
#ifdef HATTN_PORTABLE
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    return static_cast<int>(((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
#else
    return __popc(x);
#endif
}

/* The number of the lowest bit that is set, of a word that is not 0. */
__device__ inline int lowest_one(uint32_t x)
{
#ifdef HATTN_PORTABLE
    return count_ones((x & (0 - x)) - 1);
#else
    return __ffs(static_cast<int>(x)) - 1;
#endif
}

/* Bits up to the highest that is set; 0 has none. */
__device__ inline int bit_width(uint32_t x)
{
#ifdef HATTN_PORTABLE
    int width = 0;
    for (; x; x >>= 1)
        width++;
    return width;
#else
    return 32 - __clz(static_cast<int>(x));
#endif
}

/* Byte i of the result is the byte of `low` (0 to 3) or `high` (4 to 7) that hexadecimal digit i of `which` names. */
__device__ inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t which)
{
#ifdef HATTN_PORTABLE
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++)
        result |= static_cast<uint32_t>(bytes >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
#else
    return __byte_perm(low, high, which);
#endif
}

/* Elements 2i, 2i+1 of `low` and `high` beside each other: their low halves, or their high ones. */
__device__ inline uint32_t low_halves(uint32_t low, uint32_t high) { return permute_bytes(low, high, 0x5410); }

__device__ inline uint32_t high_halves(uint32_t low, uint32_t high) { return permute_bytes(low, high, 0x7632); }

/* All ones in each half of x that is y's. */
__device__ inline uint32_t equal_halves(uint32_t x, uint32_t y)
{
#ifdef HATTN_PORTABLE
    const uint32_t difference = x ^ y;
    return (difference & 0xffffu ? 0u : 0xffffu) | (difference >> 16 ? 0u : 0xffff0000u);
#else
    return __vcmpeq2(x, y);
#endif
}

/* The upper word of a product. */
__device__ inline uint32_t high_product(uint32_t x, uint32_t y)
{
#ifdef HATTN_PORTABLE
    return static_cast<uint32_t>(static_cast<uint64_t>(x) * y >> 32);
#else
    return __umulhi(x, y);
#endif
}

/* Division of 0..2^31-1. */
__device__ inline uint32_t divide(uint32_t x, const hattn_cuda_divisor &divisor)
{
    return (high_product(x, divisor.magic) + x) >> divisor.shift;
}

/* e^x to about 2 units for x near 0 and abs(x) units otherwise, by the device's base-2 exponential. */
__device__ inline float fast_exp(float x)
{
#ifdef HATTN_PORTABLE
    return expf(x);
#else
    return __expf(x);
#endif
}

/* Never part of a fused multiply-add. */
/* 1 / x, off by 2^-22 of it at most. */
__device__ inline float fast_inverse(float x)
{
#ifdef HATTN_PORTABLE
    return 1.0f / x;
#else
    return __fdividef(1.0f, x);
#endif
}

__device__ inline float rounded_product(float x, float y) { return __fmul_rn(x, y); }

/* Has x, an integer or a pointer, computed here and not when it is first needed: before a wait, above all. */
template <class T>
__device__ inline void compute_now(T &x)
{
#ifndef HATTN_PORTABLE
    if constexpr (sizeof(T) == 8)
        asm volatile("" : "+l"(x));
    else
        asm volatile("" : "+r"(x));
#else
    (void)x;
#endif
}

} // namespace hattn

#endif
