/* SPDX-License-Identifier: Apache-2.0
 * The dialect in CUDA. Every dialect has these sections in this order; what a name promises stands where the kernels get it,
 * in the headers beside this one. Words that are no functions (__global__, __device__, __shared__, __launch_bounds__, dim3, threadIdx,
 * __syncthreads, float4, fmaf ...) are CUDA's and have no prefix: another dialect brings them along.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_CUDA_CUH
#define HATTN_KERNELS_CUDA_DEVICE_CUDA_CUH

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* ---- types ---- */

namespace hattn::vendor {

using float16 = __half;
using bfloat16 = __nv_bfloat16;

/* ---- the runtime ---- */

using Error = cudaError_t;
using Stream = cudaStream_t;
constexpr Error kSuccess = cudaSuccess, kNoSuchKernel = cudaErrorInvalidDeviceFunction,
                kInvalidConfiguration = cudaErrorInvalidConfiguration;

inline const char *error_text(Error error) { return cudaGetErrorString(error); }

inline Error last_error() { return cudaPeekAtLastError(); }

inline void forget_last_error() { static_cast<void>(cudaGetLastError()); }

inline Error count_devices(int *count) { return cudaGetDeviceCount(count); }

inline Error current_device(int *device) { return cudaGetDevice(device); }

inline Error use_device(int device) { return cudaSetDevice(device); }

#ifndef HATTN_CUDA_LEAST /* of the build: what it is for at the least */
#define HATTN_CUDA_LEAST 80
#endif
#define HATTN_CUDA_TEXT(number) #number
#define HATTN_CUDA_TARGETS(least) "sm_" HATTN_CUDA_TEXT(least) " or later"
constexpr char kTargets[] = HATTN_CUDA_TARGETS(HATTN_CUDA_LEAST);
/* Bytes that a block may have on any target: kernels that need more of it are not compiled. */
constexpr size_t kMostShared = 227 << 10;

struct Properties {
    const char *name, *isa;
    bool has_kernels;
    int num_multiprocessors;
    size_t block_shared, multiprocessor_shared, reserved_shared;
    int64_t most_blocks;
};

/* Calls f with them: their name lives no longer. */
template <class F>
inline Error with_properties(int device, F f)
{
    cudaDeviceProp found;
    const Error error = cudaGetDeviceProperties(&found, device);
    if (error)
        return error;
    char isa[32];
    snprintf(isa, sizeof(isa), "sm_%d%d", found.major, found.minor);
    f(Properties{found.name, isa, found.major >= 8, found.multiProcessorCount, found.sharedMemPerBlockOptin,
                 found.sharedMemPerMultiprocessor, found.reservedSharedMemPerBlock, INT32_MAX});
    return kSuccess;
}

inline Error zero(void *address, uint64_t bytes, Stream stream) { return cudaMemsetAsync(address, 0, bytes, stream); }

/* Calls that may allocate and wait would end the captures of other threads, but of a thread that says that it knows better. */
class OutsideOfCaptures
{
public:
    OutsideOfCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
    ~OutsideOfCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
    OutsideOfCaptures(const OutsideOfCaptures &) = delete;
    OutsideOfCaptures &operator=(const OutsideOfCaptures &) = delete;

private:
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/* launch.h's hattn_cuda_scratch. Memory comes from the device's pool: cudaMalloc's would be released by waiting for all streams. */
inline Error make_scratch_stream(Stream *stream)
{
    const OutsideOfCaptures outside;
    return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
}

inline void end_scratch_stream(Stream stream)
{
    const OutsideOfCaptures outside;
    cudaStreamDestroy(stream);
}

inline Error allocate_scratch(uint64_t size, Stream stream, void **address)
{
    const OutsideOfCaptures outside;
    return cudaMallocAsync(address, size, stream);
}

inline void release_scratch(void *address, Stream stream)
{
    const OutsideOfCaptures outside;
    cudaFreeAsync(address, stream);
}

inline Error copy_and_wait(void *to, const void *from, uint64_t size, Stream stream)
{
    const OutsideOfCaptures outside;
    const Error error = cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream);
    return error ? error : cudaStreamSynchronize(stream);
}

/* ---- launches ---- */

/* Loads a kernel; its static shared memory. */
template <class Kernel>
inline Error static_shared(Kernel *kernel, size_t *bytes)
{
    cudaFuncAttributes attributes;
    const Error error = cudaFuncGetAttributes(&attributes, kernel);
    *bytes = attributes.sharedSizeBytes;
    return error;
}

/* Of a block on the current device. */
inline Error most_shared(int *bytes)
{
    int device = 0;
    const Error error = cudaGetDevice(&device);
    return error ? error : cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

template <class Kernel>
inline Error allow_dynamic_shared(Kernel *kernel, int bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

template <class... Parameters, class... Arguments>
inline Error launch(dim3 grid, int threads, size_t shared_bytes, Stream stream, bool is_dependent,
                    void (*kernel)(Parameters...), const Arguments &...arguments)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = static_cast<unsigned>(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = is_dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* Machine code for sm_90 and later waits for the kernel before it where it must; what is compiled from older PTX does
 * not. */
template <class Kernel>
inline Error has_dependent_launch(Kernel *kernel, bool *has)
{
    cudaFuncAttributes attributes;
    const Error error = cudaFuncGetAttributes(&attributes, kernel);
#ifdef HATTN_PORTABLE
    *has = false;
#else
    *has = !error && attributes.ptxVersion >= 90;
#endif
    return error;
}

__device__ inline void allow_dependents()
{
#if !defined(HATTN_PORTABLE) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void wait_for_previous()
{
#if !defined(HATTN_PORTABLE) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- lanes ---- */

constexpr unsigned kFullMask = 0xffffffffu;

template <class T>
__device__ inline T from_lane(T x, int lane)
{
    return __shfl_sync(kFullMask, x, lane, 32);
}

template <class T>
__device__ inline T from_partner(T x, int mask)
{
    return __shfl_xor_sync(kFullMask, x, mask, 32);
}

template <class T>
__device__ inline T from_before(T x, int distance)
{
    return __shfl_up_sync(kFullMask, x, distance, 32);
}

template <class T>
__device__ inline T from_after(T x, int distance)
{
    return __shfl_down_sync(kFullMask, x, distance, 32);
}

__device__ inline void warp_barrier() { __syncwarp(); }

constexpr int kWarpsOfWave = 1;

__device__ inline bool any_of_wave(bool yes) { return yes; }

/* ---- atomics and fences ---- */

__device__ inline uint32_t atomic_add(uint32_t *word, uint32_t amount) { return atomicAdd(word, amount); }

__device__ inline void atomic_add(uint64_t *word, uint64_t amount)
{
    atomicAdd(reinterpret_cast<unsigned long long *>(word), static_cast<unsigned long long>(amount));
}

__device__ inline uint32_t atomic_exchange(uint32_t *word, uint32_t x) { return atomicExch(word, x); }

__device__ inline uint32_t atomic_read(const uint32_t *word) { return atomicOr(const_cast<uint32_t *>(word), 0u); }

__device__ inline void fence() { __threadfence(); }

__device__ inline void stop_device() { __trap(); }

__device__ inline int64_t cycles() { return clock64(); }

/* ---- numbers ---- */

__device__ inline uint32_t bits_of(float x) { return __float_as_uint(x); }

__device__ inline float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }

__device__ inline float to_float(float16 x) { return __half2float(x); }

__device__ inline float to_float(bfloat16 x) { return __bfloat162float(x); }

__device__ inline float16 to_float16(float x) { return __float2half_rn(x); }

__device__ inline bfloat16 to_bfloat16(float x) { return __float2bfloat16_rn(x); }

__device__ inline float16 float16_of_bits(unsigned short bits) { return __ushort_as_half(bits); }

__device__ inline uint32_t pack_float16(float low, float high)
{
    uint32_t bits;
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&bits, &pair, sizeof(bits));
    return bits;
}

__device__ inline uint32_t pack_bfloat16(float low, float high)
{
    uint32_t bits;
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&bits, &pair, sizeof(bits));
    return bits;
}

__device__ inline uint32_t multiply_float16x2(uint32_t x, uint32_t y)
{
    __half2 value, factor;
    memcpy(&value, &x, sizeof(value));
    memcpy(&factor, &y, sizeof(factor));
    value = __hmul2(value, factor);
    memcpy(&x, &value, sizeof(x));
    return x;
}

__device__ inline float rounded_product(float x, float y) { return __fmul_rn(x, y); }

} // namespace hattn::vendor

#include "kernels_cuda/device/plain.cuh"

#ifdef HATTN_PORTABLE
#define HATTN_HAS_E4M3 0
#define HATTN_HAS_MMA_B1 0
namespace hattn::vendor {
using namespace plain;
}
#else
#include "kernels_cuda/device/cuda_fast.cuh"
#endif

#endif
