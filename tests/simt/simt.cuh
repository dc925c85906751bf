/* SPDX-License-Identifier: Apache-2.0
 * The dialect for the engine of this folder: the sections of kernels_cuda/device/cuda.cuh in their order. A C++ compiler of the processor
 * makes functions of the kernels.
 */
#ifndef HATTN_TESTS_SIMT_SIMT_CUH
#define HATTN_TESTS_SIMT_SIMT_CUH

#include "tests/simt/language.cuh"
#include "tests/simt/runtime.h"

/* ---- types ---- */

namespace hattn::vendor {

struct float16 {
    uint16_t bits;
};
struct bfloat16 {
    uint16_t bits;
};

/* ---- the runtime ---- */

using Error = int;
using Stream = void *;
constexpr Error kSuccess = simt::SUCCESS, kNoSuchKernel = simt::NO_SUCH_KERNEL,
                kInvalidConfiguration = simt::INVALID_CONFIGURATION;

inline const char *error_text(Error error) { return simt::error_text(error); }

/* Errors are what calls return: none is left to be read. */
inline Error last_error() { return kSuccess; }

inline void forget_last_error() {}

inline Error count_devices(int *count)
{
    *count = 1;
    return kSuccess;
}

inline Error current_device(int *device)
{
    *device = 0;
    return kSuccess;
}

inline Error use_device(int device) { return device ? simt::INVALID_DEVICE : kSuccess; }

constexpr char kTargets[] = "lanes as fibers";
constexpr size_t kMostShared = simt::kBlockShared;

struct Properties {
    const char *name, *isa;
    bool has_kernels;
    int num_multiprocessors;
    size_t block_shared, multiprocessor_shared, reserved_shared;
    int64_t most_blocks;
};

template <class F>
inline Error with_properties(int device, F f)
{
    if (device)
        return simt::INVALID_DEVICE;
    f(Properties{"a processor", kTargets, true, simt::config().multiprocessors, simt::kBlockShared,
                 simt::kMultiprocessorShared, simt::kReservedShared, INT32_MAX});
    return kSuccess;
}

inline Error zero(void *address, uint64_t bytes, Stream)
{
    memset(address, 0, bytes);
    return kSuccess;
}

/* ---- launches ---- */

/* Nobody counts a kernel's own variables here. */
template <class Kernel>
inline Error static_shared(Kernel *, size_t *bytes)
{
    *bytes = 0;
    return kSuccess;
}

inline Error most_shared(int *bytes)
{
    *bytes = static_cast<int>(simt::kBlockShared);
    return kSuccess;
}

template <class Kernel>
inline Error allow_dynamic_shared(Kernel *, int)
{
    return kSuccess;
}

template <class... Parameters, class... Arguments>
inline Error launch(dim3 grid, int threads, size_t shared_bytes, Stream, bool, void (*kernel)(Parameters...),
                    const Arguments &...arguments)
{
    return simt::launch(grid, threads, shared_bytes, kernel, static_cast<std::remove_cv_t<Parameters>>(arguments)...);
}

template <class Kernel>
inline Error has_dependent_launch(Kernel *, bool *has)
{
    *has = false;
    return kSuccess;
}

inline void allow_dependents() {}

inline void wait_for_previous() {}

/* ---- lanes ---- */

/* Calls f with what all lanes brought, and this lane's number. */
template <class T, class F>
inline auto of_brought(const simt::Brought *all, F f)
{
    static_assert(sizeof(T) <= sizeof(simt::Brought) && std::is_trivially_copyable_v<T>, "brought as bytes");
    return f(
        [all](unsigned lane) {
            T brought;
            memcpy(&brought, all[lane].bytes, sizeof(brought));
            return brought;
        },
        threadIdx.x & 31);
}

template <class T, class F>
inline auto together(const char *kind, const T &x, simt::Place place, F f)
{
    return of_brought<T>(simt::meet(kind, &x, sizeof(x), place), f);
}

/* The same, of both warps of a wave, which each have what their own brought. */
template <class T, class F>
inline auto together_in_wave(const char *kind, const T &x, simt::Place place, F f)
{
    return of_brought<T>(simt::meet_in_wave(kind, &x, sizeof(x), place), f);
}

template <class T>
inline T from_lane(T x, int lane, simt::Place place = SIMT_HERE)
{
    return together("from_lane", x, place, [lane](auto of, unsigned) { return of(static_cast<unsigned>(lane) & 31); });
}

template <class T>
inline T from_partner(T x, int mask, simt::Place place = SIMT_HERE)
{
    return together("from_partner", x, place,
                    [mask](auto of, unsigned own) { return of((own ^ static_cast<unsigned>(mask)) & 31); });
}

template <class T>
inline T from_before(T x, int distance, simt::Place place = SIMT_HERE)
{
    const unsigned by = static_cast<unsigned>(distance);
    return together("from_before", x, place, [by](auto of, unsigned own) { return of(own < by ? own : own - by); });
}

template <class T>
inline T from_after(T x, int distance, simt::Place place = SIMT_HERE)
{
    const unsigned by = static_cast<unsigned>(distance);
    return together("from_after", x, place, [by](auto of, unsigned own) { return of(own + by > 31 ? own : own + by); });
}

inline void warp_barrier(simt::Place place = SIMT_HERE) { simt::meet("warp_barrier", "", 0, place); }

constexpr int kWarpsOfWave = 2; /* at most */

inline bool any_of_wave(bool yes, simt::Place place = SIMT_HERE) { return simt::any_of_wave(yes, place); }

/* ---- atomics and fences ---- */

/* On hardware, others' come between any two. */
template <class T>
inline T fetch_add(T *word, T amount)
{
    simt::maybe_switch();
    const T before = *word;
    *word = before + amount;
    return before;
}

inline uint32_t atomic_add(uint32_t *word, uint32_t amount) { return fetch_add(word, amount); }

inline void atomic_add(uint64_t *word, uint64_t amount) { fetch_add(word, amount); }

inline uint32_t atomic_exchange(uint32_t *word, uint32_t x)
{
    simt::maybe_switch();
    const uint32_t before = *word;
    *word = x;
    return before;
}

inline uint32_t atomic_read(const uint32_t *word, simt::Place place = SIMT_HERE)
{
    simt::look(place);
    return *static_cast<const volatile uint32_t *>(word);
}

inline void fence()
{
    simt::fence();
    simt::maybe_switch();
}

inline void stop_device(simt::Place place = SIMT_HERE) { simt::stop("stop_device", place); }

inline int64_t cycles() { return 0; }

/* ---- numbers ---- */

inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* As a number of the same bits 112 powers of two below, which is exact, subnormal or not. */
inline float to_float(float16 x)
{
    const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
    const uint32_t special = magnitude >= 0x0f800000u ? 0x70000000u : 0; /* infinity and NaN */
    return float_of_bits(special ? magnitude | special | sign : bits_of(float_of_bits(magnitude) * 0x1p112f) | sign);
}

inline float to_float(bfloat16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }

/* To nearest even: the sum with a number 2^24 (for subnormals 2^-1) larger loses just the bits that fp16 has no room for. */
inline float16 to_float16(float x)
{
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000)
        half = 0x7fff;
    else if (magnitude >= 0x477ff000) /* 65520 */
        half = 0x7c00;
    else if (magnitude < 0x38800000) /* 2^-14 */
        half = bits_of(float_of_bits(magnitude) + 0.5f) - bits_of(0.5f);
    else
        half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    return {static_cast<uint16_t>(sign | half)};
}

inline bfloat16 to_bfloat16(float x)
{
    const uint32_t bits = bits_of(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return {static_cast<uint16_t>(x != x ? 0x7fffu : rounded >> 16)};
}

inline float16 float16_of_bits(unsigned short bits) { return {bits}; }

inline uint32_t pack_float16(float low, float high)
{
    return to_float16(low).bits | static_cast<uint32_t>(to_float16(high).bits) << 16;
}

inline uint32_t pack_bfloat16(float low, float high)
{
    return to_bfloat16(low).bits | static_cast<uint32_t>(to_bfloat16(high).bits) << 16;
}

/* Products have 22 bits. */
inline uint32_t multiply_float16x2(uint32_t x, uint32_t y)
{
    const auto half = [](uint32_t bits) { return to_float(float16{static_cast<uint16_t>(bits)}); };
    return pack_float16(half(x) * half(y), half(x >> 16) * half(y >> 16));
}

inline float rounded_product(float x, float y) { return x * y; } /* -ffp-contract=off */

} // namespace hattn::vendor

#include "kernels_cuda/device/plain.cuh"

#include "tests/simt/amd.cuh"

#include "kernels_hip/matrix.cuh"

#include "tests/simt/simt_fast.cuh"

#endif
