/* SPDX-License-Identifier: Apache-2.0
 * CUDA's words for a C++ compiler of the processor: attributes, indices, vectors, dim3 and float functions. A __shared__ variable is one
 * of the thread of the process, whose content belongs to the block that runs (engine.h).
 */
#ifndef HATTN_TESTS_SIMT_LANGUAGE_CUH
#define HATTN_TESTS_SIMT_LANGUAGE_CUH

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "tests/simt/engine.h"

/* ---- attributes ---- */

#define __host__
#define __device__
#define __global__
#define __shared__ thread_local
#define __noinline__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
#define __launch_bounds__(...)

/* ---- indices ---- */

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define gridDim (::simt::grid_size())

#define __syncthreads() ::simt::block_barrier({__FILE__, __LINE__})

/* ---- vectors ---- */

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

using dim3 = simt::Size;

/* ---- functions ---- */

using std::isfinite;
using std::isnan;

template <class X, class Y>
constexpr std::common_type_t<X, Y> min(X x, Y y)
{
    return static_cast<std::common_type_t<X, Y>>(y) < x ? y : x;
}

template <class X, class Y>
constexpr std::common_type_t<X, Y> max(X x, Y y)
{
    return x < static_cast<std::common_type_t<X, Y>>(y) ? y : x;
}

#endif
