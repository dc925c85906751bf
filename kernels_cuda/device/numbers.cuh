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

using vendor::bits_of;
using vendor::count_ones;
using vendor::float_of_bits;

/* The number of the lowest bit that is set, of a word that is not 0. */
using vendor::lowest_one;

/* Bits up to the highest that is set; 0 has none. */
using vendor::bit_width;

/* Byte i of the result is the byte of `low` (0 to 3) or `high` (4 to 7) that hexadecimal digit i of `which` names. */
using vendor::permute_bytes;

/* Elements 2i, 2i+1 of `low` and `high` beside each other: their low halves, or their high ones. */
__device__ inline uint32_t low_halves(uint32_t low, uint32_t high) { return permute_bytes(low, high, 0x5410); }

__device__ inline uint32_t high_halves(uint32_t low, uint32_t high) { return permute_bytes(low, high, 0x7632); }

/* All ones in each half of x that is y's. */
using vendor::equal_halves;

/* The upper word of a product. */
using vendor::high_product;

/* Division of 0..2^31-1. */
__device__ inline uint32_t divide(uint32_t x, const hattn_cuda_divisor &divisor)
{
    return (high_product(x, divisor.magic) + x) >> divisor.shift;
}

/* e^x to about 2 units for x near 0 and abs(x) units otherwise, by the device's base-2 exponential. */
using vendor::fast_exp;

/* 1 / x, off by 2^-22 of it at most. */
using vendor::fast_inverse;

/* Never part of a fused multiply-add. */
using vendor::rounded_product;

/* Has x, an integer or a pointer, computed here and not when it is first needed: before a wait, above all. */
using vendor::compute_now;

/* x, which all threads of a block have alike, as the device knows best to keep it. */
using vendor::uniform;

} // namespace hattn

#endif
