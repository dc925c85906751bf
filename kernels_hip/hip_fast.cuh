/* SPDX-License-Identifier: Apache-2.0
 * The dialect in HIP, where it is faster than kernels_cuda/device/plain.cuh: the sections of kernels_cuda/device/cuda_fast.cuh in their order.
 */
#ifndef HATTN_KERNELS_HIP_HIP_FAST_CUH
#define HATTN_KERNELS_HIP_HIP_FAST_CUH

namespace hattn::vendor {

/* ---- bits ---- */

__device__ inline int count_ones(uint32_t x) { return __builtin_popcount(x); }

__device__ inline int lowest_one(uint32_t x) { return __builtin_ctz(x); }

__device__ inline int bit_width(uint32_t x) { return x ? 32 - __builtin_clz(x) : 0; }

__device__ inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t which)
{
    const uint32_t bytes = (which & 0x7) | (which & 0x70) << 4 | (which & 0x700) << 8 | (which & 0x7000) << 12;
    return __builtin_amdgcn_perm(high, low, bytes);
}

using plain::equal_halves;
using plain::high_product; /* one instruction */

/* The hardware's base-2 exponential; results below 2^-126 are 0. */
__device__ inline float fast_exp(float x) { return __builtin_amdgcn_exp2f(x * 0x1.715476p+0f); }

__device__ inline float fast_inverse(float x) { return __builtin_amdgcn_rcpf(x); }

using plain::compute_now;

/* Once a wave instead of once a lane: the compiler keeps in all lanes what was loaded into one register of each. */
template <class T>
__device__ inline T uniform(T x)
{
    static_assert(sizeof(T) % 4 == 0, "words");
    int words[sizeof(T) / 4];
    memcpy(words, &x, sizeof(x));
    for (int &word : words)
        word = __builtin_amdgcn_readfirstlane(word);
    memcpy(&x, words, sizeof(x));
    return x;
}

#define HATTN_HAS_E4M3 0

/* ---- over a warp ---- */

#if __AMDGCN_WAVEFRONT_SIZE__ == 32
__device__ inline uint32_t ballot(bool yes) { return __builtin_amdgcn_ballot_w32(yes); }
#else
/* The warp's half. */
__device__ inline uint32_t ballot(bool yes)
{
    return static_cast<uint32_t>(__builtin_amdgcn_ballot_w64(yes) >> (threadIdx.x & 32));
}
#endif

__device__ inline bool all_alike(uint32_t x) { return ballot(x == from_lane(x, 0)) == 0xffffffffu; }

using plain::warp_largest;
using plain::warp_least;
using plain::warp_max_magnitude;
using plain::warp_or;
using plain::warp_total;

/* ---- loads and copies ---- */

__device__ inline int32_t load_now(const int32_t *address)
{
    return __hip_atomic_load(address, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

/* As words or halves of 8 bytes, so that the compiler knows how caches are passed. */
template <class T>
__device__ inline T load_l2(const T *address)
{
    using Word = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    static_assert(sizeof(T) % sizeof(Word) == 0, "words");
    Word words[sizeof(T) / sizeof(Word)];
    for (size_t i = 0; i < sizeof(T) / sizeof(Word); i++)
        words[i] =
            __hip_atomic_load(reinterpret_cast<const Word *>(address) + i, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
    T x;
    memcpy(&x, words, sizeof(x));
    return x;
}

using plain::load_constant;

/* Words of what is read once, as wide as they are. */
template <int kCount>
struct Words {
    using type = uint32_t __attribute__((ext_vector_type(kCount)));
};

__device__ inline uint4 load_row16(const void *address)
{
    const auto v = __builtin_nontemporal_load(static_cast<const Words<4>::type *>(address));
    return {v.x, v.y, v.z, v.w};
}

using plain::copy_async16;
using plain::copy_async4;
using plain::copy_async8;
using plain::copy_commit;
using plain::copy_wait;

template <int kCount>
__device__ inline void load_streamed(uint32_t (&words)[kCount], const void *address)
{
    const auto v = __builtin_nontemporal_load(static_cast<const typename Words<kCount>::type *>(address));
    for (int i = 0; i < kCount; i++)
        words[i] = v[i];
}

__device__ inline uint32_t load_streamed(const uint32_t *address) { return __builtin_nontemporal_load(address); }

__device__ inline float16 load_streamed(const float16 *address) { return __builtin_nontemporal_load(address); }

using plain::prefetch_line; /* none */

/* ---- matrices ---- */

template <class T>
__device__ inline void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                 uint32_t b1)
{
#if defined(__gfx90a__) || defined(__gfx942__)
    amd::mma_by_mfma<T>(c, a0, a1, a2, a3, b0, b1);
#elif defined(__GFX11__)
    amd::mma_by_wmma<T, 11>(c, a0, a1, a2, a3, b0, b1);
#elif defined(__GFX12__)
    amd::mma_by_wmma<T, 12>(c, a0, a1, a2, a3, b0, b1);
#else
    plain::mma_16816<T>(c, a0, a1, a2, a3, b0, b1);
#endif
}

using plain::transpose_8x8;

/* In shared memory, whose addresses have 32 bits. */
template <class T>
__device__ inline uint32_t load_shared(uint32_t address)
{
    return *(const __attribute__((address_space(3))) T *)(uintptr_t)address;
}

__device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)(uintptr_t)(const __attribute__((address_space(3))) char *)p;
}

template <int kCount>
__device__ inline void load_matrices(uint32_t (&x)[kCount], const void *row)
{
    const int lane = threadIdx.x & 31;
    const uint32_t own = shared_address(row);
    for (int i = 0; i < kCount; i++)
        x[i] = load_shared<uint32_t>(from_lane(own, 8 * i + lane / 4) + lane % 4 * 4);
}

template <int kCount>
__device__ inline void load_transposed(uint32_t (&x)[kCount], const void *row)
{
    const int lane = threadIdx.x & 31, first = lane % 4 * 2, column = lane / 4 * 2;
    const uint32_t own = shared_address(row);
    for (int i = 0; i < kCount; i++)
        x[i] = load_shared<uint16_t>(from_lane(own, 8 * i + first) + column) |
               load_shared<uint16_t>(from_lane(own, 8 * i + first + 1) + column) << 16;
}

#define HATTN_HAS_MMA_B1 0

/* ---- between threads and blocks ---- */

class SharedCounters
{
public:
    __device__ explicit SharedCounters(uint32_t *first) : first_((__attribute__((address_space(3))) uint32_t *)first) {}
    __device__ void count(uint32_t index) const
    {
        __hip_atomic_fetch_add(first_ + index, 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
    }

private:
    __attribute__((address_space(3))) uint32_t *first_;
};

/* A counter of 100 MHz. */
__device__ inline int64_t device_time() { return static_cast<int64_t>(__builtin_readsteadycounter() * 10); }

__device__ inline uint32_t arrive(uint32_t *counter)
{
    return __hip_atomic_fetch_add(counter, 1u, __ATOMIC_ACQ_REL, __HIP_MEMORY_SCOPE_AGENT);
}

using plain::count_up;

__device__ inline void send(uint32_t *to, uint32_t x)
{
    __hip_atomic_store(to, x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

__device__ inline void send(uint32_t *to, uint2 x)
{
    __hip_atomic_store(reinterpret_cast<uint64_t *>(to), x.x | static_cast<uint64_t>(x.y) << 32, __ATOMIC_RELAXED,
                       __HIP_MEMORY_SCOPE_AGENT);
}

__device__ inline void send(uint32_t *to, uint4 x)
{
    send(to, uint2{x.x, x.y});
    send(to + 2, uint2{x.z, x.w});
}

__device__ inline uint32_t receive(const uint32_t *from) { return atomic_read(from); }

__device__ inline uint2 receive_two(const uint32_t *from) { return load_l2(reinterpret_cast<const uint2 *>(from)); }

__device__ inline uint4 receive_four(const uint32_t *from) { return load_l2(reinterpret_cast<const uint4 *>(from)); }

__device__ inline void pause() { __builtin_amdgcn_s_sleep(2); }

} // namespace hattn::vendor

#endif
