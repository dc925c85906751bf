/* SPDX-License-Identifier: Apache-2.0
 * Elements of tensors: conversions, and the switch from a dtype to a type.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_ELEMENTS_CUH
#define HATTN_KERNELS_CUDA_DEVICE_ELEMENTS_CUH

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "api/hattn.h"
#include "kernels_cuda/device/numbers.cuh"

namespace hattn {

struct fp8_e4m3 {
    uint8_t bits;
};

__device__ inline float to_float(float x) { return x; }

using vendor::to_float;

/* Bytes 2i, 2i+1 of four e4m3 numbers (OCP: bias 7, no infinities, 0x7f and 0xff are NaN), moved into the places of
 * fp16: their values times 2^-8, exact, subnormals too; NaN becomes a number. */
__device__ inline uint32_t halves_of_e4m3(uint32_t x, int i)
{
    const uint32_t shifted = permute_bytes(x, 0, i ? 0x3424 : 0x1404) >> 1; /* the sign is one place too low */
    return shifted + (shifted & 0x40004000u);
}

__device__ inline float to_float(fp8_e4m3 x)
{
    if ((x.bits & 0x7f) == 0x7f)
        return float_of_bits(0x7fffffff);
    const unsigned short as_half = static_cast<unsigned short>((x.bits & 0x80) << 8 | (x.bits & 0x7f) << 7);
    return to_float(vendor::float16_of_bits(as_half)) * 256.0f;
}

/* Two e4m3 values, the low 16 bits of x, as two fp16: exact, NaN stays NaN. */
__device__ inline uint32_t half2_of_e4m3(uint32_t x)
{
#if HATTN_HAS_E4M3
    return vendor::half2_of_e4m3(x);
#else
    const uint32_t small = halves_of_e4m3(x, 0), scale = 0x5c005c00 /* 2^8 */,
                   nan = equal_halves(small & 0x7fff7fff, 0x3f803f80);
    return vendor::multiply_float16x2(small, scale) | nan;
#endif
}

/* Calls f with a null pointer of the dtype's element type: the host's switch from a number to a kernel's type. */
template <class F>
inline auto with_dtype(int32_t dtype, F f)
{
    switch (dtype) {
    case HATTN_F16: return f(static_cast<const float16 *>(nullptr));
    case HATTN_BF16: return f(static_cast<const bfloat16 *>(nullptr));
    case HATTN_F8_E4M3: return f(static_cast<const fp8_e4m3 *>(nullptr));
    default: return f(static_cast<const float *>(nullptr));
    }
}

/* The same for what cannot be fp8. */
template <class F>
inline auto with_float_dtype(int32_t dtype, F f)
{
    switch (dtype) {
    case HATTN_F16: return f(static_cast<const float16 *>(nullptr));
    case HATTN_BF16: return f(static_cast<const bfloat16 *>(nullptr));
    default: return f(static_cast<const float *>(nullptr));
    }
}

__device__ inline float load_element(const void *data, int32_t dtype, int64_t index)
{
    switch (dtype) {
    case HATTN_F16: return to_float(static_cast<const float16 *>(data)[index]);
    case HATTN_BF16: return to_float(static_cast<const bfloat16 *>(data)[index]);
    case HATTN_F8_E4M3: return to_float(static_cast<const fp8_e4m3 *>(data)[index]);
    default: return static_cast<const float *>(data)[index];
    }
}

/* Rounds to nearest even. */
template <class T>
__device__ inline T from_float(float x)
{
    if constexpr (std::is_same_v<T, float16>)
        return vendor::to_float16(x);
    else if constexpr (std::is_same_v<T, bfloat16>)
        return vendor::to_bfloat16(x);
    else
        return x;
}

__device__ inline void store_element(void *data, int32_t dtype, int64_t index, float value)
{
    if (dtype == HATTN_F16)
        static_cast<float16 *>(data)[index] = from_float<float16>(value);
    else if (dtype == HATTN_BF16)
        static_cast<bfloat16 *>(data)[index] = from_float<bfloat16>(value);
    else
        static_cast<float *>(data)[index] = value;
}

template <class T>
__device__ inline uint32_t pack2(float low, float high)
{
    if constexpr (std::is_same_v<T, float16>)
        return vendor::pack_float16(low, high);
    else
        return vendor::pack_bfloat16(low, high);
}

/* Stores four neighbours of a row of q's kind of output. */
__device__ inline void store_elements(void *data, int32_t dtype, int64_t index, float4 x)
{
    char *to = static_cast<char *>(data) + index * (dtype == HATTN_F32 ? 4 : 2);
    const uintptr_t address = reinterpret_cast<uintptr_t>(to);
    if (dtype == HATTN_F32 && address % sizeof(float4) == 0) {
        *reinterpret_cast<float4 *>(to) = x;
    } else if (dtype != HATTN_F32 && address % sizeof(uint2) == 0) {
        const bool half = dtype == HATTN_F16;
        const uint32_t low = half ? pack2<float16>(x.x, x.y) : pack2<bfloat16>(x.x, x.y),
                       high = half ? pack2<float16>(x.z, x.w) : pack2<bfloat16>(x.z, x.w);
        *reinterpret_cast<uint2 *>(to) = make_uint2(low, high);
    } else { /* rows may start anywhere */
#pragma unroll 1
        for (int i = 0; i < 4; i++)
            store_element(data, dtype, index + i, i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w);
    }
}

} // namespace hattn

#endif
