/* SPDX-License-Identifier: Apache-2.0
 * CUDA's words for clang's HIP: attributes, indices, vectors, dim3 and float functions, so that kernels are built without ROCm.
 * Float functions become the compiler's own expansions: there is no device library.
 */
#ifndef HATTN_KERNELS_HIP_LANGUAGE_CUH
#define HATTN_KERNELS_HIP_LANGUAGE_CUH

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

/* ---- attributes ---- */

#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
/* Here all is inlined: what a call refers to would be copied to memory (third_party/hip.bzl). */
#define __noinline__ __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
/* The blocks of a multiprocessor, where they are named, are CUDA's business. */
#if defined(__gfx942__) && !defined(HATTN_ALL_REGISTERS)
/* Twice as many: with 256 registers at most, results of products are not put among others. gfx90a would spill, and so would what is
 * built with HATTN_ALL_REGISTERS (BUILD); shared memory leaves room for one wave of a SIMD there anyway. */
#define __launch_bounds__(threads, ...) \
    __attribute__((amdgpu_flat_work_group_size(threads, threads), amdgpu_num_vgpr(128)))
#else
#define __launch_bounds__(threads, ...) __attribute__((amdgpu_flat_work_group_size(threads, threads)))
#endif

/* ---- indices: of code object version 5, whose hidden arguments start with the number of blocks ---- */

struct HattnThreadIndex {
    __declspec(property(get = get_x)) unsigned x;
    static constexpr unsigned y = 0; /* blocks have one dimension */
    __device__ static unsigned get_x() { return __builtin_amdgcn_workitem_id_x(); }
};

struct HattnBlockIndex {
    __declspec(property(get = get_x)) unsigned x;
    __declspec(property(get = get_y)) unsigned y;
    __declspec(property(get = get_z)) unsigned z;
    __device__ static unsigned get_x() { return __builtin_amdgcn_workgroup_id_x(); }
    __device__ static unsigned get_y() { return __builtin_amdgcn_workgroup_id_y(); }
    __device__ static unsigned get_z() { return __builtin_amdgcn_workgroup_id_z(); }
};

struct HattnGridDimensions {
    __declspec(property(get = get_x)) unsigned x;
    __declspec(property(get = get_y)) unsigned y;
    __declspec(property(get = get_z)) unsigned z;
    __device__ static unsigned get(int i)
    {
        return ((const __attribute__((address_space(4))) unsigned *)__builtin_amdgcn_implicitarg_ptr())[i];
    }
    __device__ static unsigned get_x() { return get(0); }
    __device__ static unsigned get_y() { return get(1); }
    __device__ static unsigned get_z() { return get(2); }
};

static constexpr HattnThreadIndex threadIdx;
static constexpr HattnBlockIndex blockIdx;
static constexpr HattnGridDimensions gridDim;

__device__ inline void __syncthreads()
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

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

__host__ __device__ inline float2 make_float2(float x, float y) { return {x, y}; }

__host__ __device__ inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

/* Clang's stubs of kernels would launch by it, but nothing calls a stub. */
extern "C" int hipLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               void *stream);

/* ---- functions ---- */

template <class X, class Y>
__device__ constexpr std::common_type_t<X, Y> min(X x, Y y)
{
    return static_cast<std::common_type_t<X, Y>>(y) < x ? y : x;
}

template <class X, class Y>
__device__ constexpr std::common_type_t<X, Y> max(X x, Y y)
{
    return x < static_cast<std::common_type_t<X, Y>>(y) ? y : x;
}

__device__ inline int abs(int x) { return x < 0 ? -x : x; }
__device__ inline void *memcpy(void *to, const void *from, size_t size) { return __builtin_memcpy(to, from, size); }
__device__ inline void *memset(void *to, int byte, size_t size) { return __builtin_memset(to, byte, size); }
__device__ inline float expf(float x) { return __builtin_expf(x); }
__device__ inline float logf(float x) { return __builtin_logf(x); }
__device__ inline float sqrtf(float x) { return __builtin_sqrtf(x); }
__device__ inline float fabsf(float x) { return __builtin_fabsf(x); }
__device__ inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
__device__ inline float fminf(float x, float y) { return __builtin_fminf(x, y); }
__device__ inline float fmaxf(float x, float y) { return __builtin_fmaxf(x, y); }
__device__ inline float rintf(float x) { return __builtin_rintf(x); }
__device__ inline bool isnan(float x) { return __builtin_isnan(x); }
__device__ inline bool isfinite(float x) { return __builtin_isfinite(x); }

/* What 1 + x loses of a small x is made good by the ratio of x to what is left of it. */
__device__ inline float log1pf(float x)
{
    const float sum = 1.0f + x, kept = sum - 1.0f;
    return kept == 0.0f ? x : kept == x ? logf(sum) : logf(sum) * (x / kept);
}

/* To about 2 units: an odd polynomial (Taylor's) where 1 - 2 / (e^2x + 1) would lose digits. */
__device__ inline float tanhf(float x)
{
    const float a = __builtin_fabsf(x), s = x * x;
    if (a < 0.35f) {
        float p = 21844.0f / 6081075.0f;
        p = fmaf(p, -s, 1382.0f / 155925.0f);
        p = fmaf(p, -s, 62.0f / 2835.0f);
        p = fmaf(p, -s, 17.0f / 315.0f);
        p = fmaf(p, -s, 2.0f / 15.0f);
        p = fmaf(p, -s, 1.0f / 3.0f);
        return fmaf(-s * p, x, x);
    }
    return __builtin_copysignf(1.0f - 2.0f / (__builtin_expf(2.0f * a) + 1.0f), x);
}

#endif
