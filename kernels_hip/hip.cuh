/* SPDX-License-Identifier: Apache-2.0
 * The dialect in HIP, for clang alone: the sections of kernels_cuda/device/cuda.cuh and cuda_fast.cuh in their order. A warp is
 * 32 lanes: of waves of 64 a half, and lanes are numbered as threads are, which come 32 to a warp.
 */
#ifndef HATTN_KERNELS_HIP_HIP_CUH
#define HATTN_KERNELS_HIP_HIP_CUH

#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels_hip/language.cuh"
#include "kernels_hip/runtime.h"

/* ---- types ---- */

namespace hattn::vendor {

using float16 = _Float16;
struct bfloat16 {
    uint16_t bits;
};

/* ---- the runtime ---- */

using Error = int;
using Stream = void *;
constexpr Error kSuccess = 0, kNoSuchKernel = HATTN_HIP_NO_SUCH_KERNEL, kInvalidConfiguration = 9;

inline const char *error_text(Error error) { return hattn_hip_error_text(error); }

inline Error last_error() { return hattn_hip_last_error(); }

inline void forget_last_error() { hattn_hip_forget_last_error(); }

inline Error count_devices(int *count) { return hattn_hip_count_devices(count); }

inline Error current_device(int *device) { return hattn_hip_current_device(device); }

inline Error use_device(int device) { return hattn_hip_use_device(device); }

constexpr char kTargets[] = HATTN_HIP_TARGETS;
constexpr size_t kMostShared = HATTN_HIP_MOST_SHARED;

using Properties = hattn_hip_properties;

template <class F>
inline Error with_properties(int device, F f)
{
    Properties found;
    const Error error = hattn_hip_get_properties(device, &found);
    if (!error)
        f(found);
    return error;
}

inline Error zero(void *address, uint64_t bytes, Stream stream) { return hattn_hip_zero(address, bytes, stream); }

/* ---- launches ---- */

template <class Kernel>
inline Error static_shared(Kernel *kernel, size_t *bytes)
{
    return hattn_hip_static_shared(reinterpret_cast<const void *>(kernel), bytes);
}

inline Error most_shared(int *bytes) { return hattn_hip_most_shared(bytes); }

template <class Kernel>
inline Error allow_dynamic_shared(Kernel *, int)
{
    return kSuccess; /* all that there is */
}

template <class... Parameters, class... Arguments>
inline Error launch(dim3 grid, int threads, size_t shared_bytes, Stream stream, bool, void (*kernel)(Parameters...),
                    const Arguments &...arguments)
{
    /* Each as its parameter's own type, where the runtime reads it. */
    return [&](std::remove_cv_t<Parameters>... copies) {
        void *addresses[] = {&copies...};
        const uint32_t blocks[3] = {grid.x, grid.y, grid.z};
        return hattn_hip_launch(reinterpret_cast<const void *>(kernel), blocks, static_cast<uint32_t>(threads),
                                static_cast<uint32_t>(shared_bytes), stream, addresses);
    }(static_cast<std::remove_cv_t<Parameters>>(arguments)...);
}

/* There is none. */
template <class Kernel>
inline Error has_dependent_launch(Kernel *, bool *has)
{
    *has = false;
    return kSuccess;
}

__device__ inline void allow_dependents() {}

__device__ inline void wait_for_previous() {}

/* ---- lanes ---- */

/* Words of x from the thread of this wave that is `thread`, modulo the wave. */
template <class T>
__device__ inline T from_thread(T x, unsigned thread)
{
    static_assert(sizeof(T) % 4 == 0, "words");
    int words[sizeof(T) / 4];
    memcpy(words, &x, sizeof(x));
    for (int &word : words)
        word = __builtin_amdgcn_ds_bpermute(static_cast<int>(thread * 4), word);
    memcpy(&x, words, sizeof(x));
    return x;
}

template <class T>
__device__ inline T from_lane(T x, int lane)
{
    return from_thread(x, (threadIdx.x & ~31u) | (static_cast<unsigned>(lane) & 31));
}

template <class T>
__device__ inline T from_partner(T x, int mask)
{
    return from_thread(x, threadIdx.x ^ static_cast<unsigned>(mask));
}

template <class T>
__device__ inline T from_before(T x, int distance)
{
    const unsigned lane = threadIdx.x & 31, by = static_cast<unsigned>(distance);
    return from_thread(x, lane < by ? threadIdx.x : threadIdx.x - by);
}

template <class T>
__device__ inline T from_after(T x, int distance)
{
    const unsigned lane = threadIdx.x & 31, by = static_cast<unsigned>(distance);
    return from_thread(x, lane + by > 31 ? threadIdx.x : threadIdx.x + by);
}

/* A wave's accesses are in order: only the compiler has to be told. */
__device__ inline void warp_barrier()
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

#if __AMDGCN_WAVEFRONT_SIZE__ == 32
constexpr int kWarpsOfWave = 1;

__device__ inline bool any_of_wave(bool yes) { return yes; }
#else
constexpr int kWarpsOfWave = 2;

__device__ inline bool any_of_wave(bool yes) { return __builtin_amdgcn_ballot_w64(yes); }
#endif

/* ---- atomics and fences ---- */

__device__ inline uint32_t atomic_add(uint32_t *word, uint32_t amount)
{
    return __hip_atomic_fetch_add(word, amount, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

__device__ inline void atomic_add(uint64_t *word, uint64_t amount)
{
    __hip_atomic_fetch_add(word, amount, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

__device__ inline uint32_t atomic_exchange(uint32_t *word, uint32_t x)
{
    return __hip_atomic_exchange(word, x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

__device__ inline uint32_t atomic_read(const uint32_t *word)
{
    return __hip_atomic_load(word, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

__device__ inline void fence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }

__device__ inline void stop_device() { __builtin_trap(); }

__device__ inline int64_t cycles() { return static_cast<int64_t>(__builtin_readcyclecounter()); }

/* ---- numbers ---- */

__device__ inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

__device__ inline float float_of_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }

__device__ inline float to_float(float16 x) { return x; }

__device__ inline float to_float(bfloat16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }

__device__ inline float16 to_float16(float x) { return static_cast<float16>(x); }

__device__ inline bfloat16 to_bfloat16(float x)
{
    const uint32_t bits = bits_of(x), rounded = bits + 0x7fff + (bits >> 16 & 1); /* to nearest even */
    return {static_cast<uint16_t>(x != x ? 0x7fffu : rounded >> 16)};
}

__device__ inline float16 float16_of_bits(unsigned short bits) { return __builtin_bit_cast(float16, bits); }

__device__ inline uint32_t pack_float16(float low, float high)
{
    return __builtin_bit_cast(uint16_t, to_float16(low)) |
           static_cast<uint32_t>(__builtin_bit_cast(uint16_t, to_float16(high))) << 16;
}

__device__ inline uint32_t pack_bfloat16(float low, float high)
{
    return to_bfloat16(low).bits | static_cast<uint32_t>(to_bfloat16(high).bits) << 16;
}

__device__ inline uint32_t multiply_float16x2(uint32_t x, uint32_t y)
{
    using Pair = float16 __attribute__((ext_vector_type(2)));
    return __builtin_bit_cast(uint32_t, __builtin_bit_cast(Pair, x) * __builtin_bit_cast(Pair, y));
}

__device__ inline float rounded_product(float x, float y)
{
#pragma clang fp contract(off)
    return x * y;
}

} // namespace hattn::vendor

#include "kernels_cuda/device/plain.cuh"

#include "kernels_hip/instructions.cuh"

#include "kernels_hip/matrix.cuh"

#include "kernels_hip/hip_fast.cuh"

#endif
