/* SPDX-License-Identifier: Apache-2.0
 * Elements of tensors: conversions, and the switch from a dtype to a type.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_ELEMENTS_CUH
#define HATTN_KERNELS_CUDA_DEVICE_ELEMENTS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "api/hattn.h"

namespace hattn {

struct fp8_e4m3 {
    uint8_t bits;
};

__device__ inline float to_float(float x) { return x; }

__device__ inline float to_float(__half x) { return __half2float(x); }

__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

/* OCP E4M3: bias 7, no infinities, 0x7f and 0xff are NaN. Its bits, moved into fp16's places, are its value times 2^-8, and
 * subnormals come out right by themselves. */
__device__ inline float to_float(fp8_e4m3 x)
{
    if ((x.bits & 0x7f) == 0x7f)
        return __int_as_float(0x7fffffff);
    const unsigned short as_half = static_cast<unsigned short>((x.bits & 0x80) << 8 | (x.bits & 0x7f) << 7);
    return __half2float(__ushort_as_half(as_half)) * 256.0f;
}

/* Calls f with a null pointer of the dtype's element type: the host's switch from a number to a kernel's type. */
template <class F>
inline auto with_dtype(int32_t dtype, F f)
{
    switch (dtype) {
    case HATTN_F16: return f(static_cast<const __half *>(nullptr));
    case HATTN_BF16: return f(static_cast<const __nv_bfloat16 *>(nullptr));
    case HATTN_F8_E4M3: return f(static_cast<const fp8_e4m3 *>(nullptr));
    default: return f(static_cast<const float *>(nullptr));
    }
}

/* The same for what cannot be fp8. */
template <class F>
inline auto with_float_dtype(int32_t dtype, F f)
{
    switch (dtype) {
    case HATTN_F16: return f(static_cast<const __half *>(nullptr));
    case HATTN_BF16: return f(static_cast<const __nv_bfloat16 *>(nullptr));
    default: return f(static_cast<const float *>(nullptr));
    }
}

__device__ inline float load_element(const void *data, int32_t dtype, int64_t index)
{
    switch (dtype) {
    case HATTN_F16: return to_float(static_cast<const __half *>(data)[index]);
    case HATTN_BF16: return to_float(static_cast<const __nv_bfloat16 *>(data)[index]);
    case HATTN_F8_E4M3: return to_float(static_cast<const fp8_e4m3 *>(data)[index]);
    default: return static_cast<const float *>(data)[index];
    }
}

/* Rounds to nearest even. */
template <class T>
__device__ inline T from_float(float x)
{
    if constexpr (std::is_same_v<T, __half>)
        return __float2half_rn(x);
    else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __float2bfloat16_rn(x);
    else
        return x;
}

__device__ inline void store_element(void *data, int32_t dtype, int64_t index, float value)
{
    if (dtype == HATTN_F16)
        static_cast<__half *>(data)[index] = from_float<__half>(value);
    else if (dtype == HATTN_BF16)
        static_cast<__nv_bfloat16 *>(data)[index] = from_float<__nv_bfloat16>(value);
    else
        static_cast<float *>(data)[index] = value;
}

template <class T>
__device__ inline uint32_t pack2(float low, float high)
{
    uint32_t bits;
    if constexpr (std::is_same_v<T, __half>) {
        const __half2 pair = __floats2half2_rn(low, high);
        memcpy(&bits, &pair, sizeof(bits));
    } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        memcpy(&bits, &pair, sizeof(bits));
    }
    return bits;
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
        const uint32_t low = half ? pack2<__half>(x.x, x.y) : pack2<__nv_bfloat16>(x.x, x.y),
                       high = half ? pack2<__half>(x.z, x.w) : pack2<__nv_bfloat16>(x.z, x.w);
        *reinterpret_cast<uint2 *>(to) = make_uint2(low, high);
    } else { /* rows may start anywhere */
#pragma unroll 1
        for (int i = 0; i < 4; i++)
            store_element(data, dtype, index + i, i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w);
    }
}

} // namespace hattn

#endif
