/* SPDX-License-Identifier: Apache-2.0
 * What blocks of a grid tell each other: atomics in the scope of the device. The plain twins are read-modify-writes,
 * which every vendor has in that scope, where the others are loads and stores.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_EXCHANGE_CUH
#define HATTN_KERNELS_CUDA_DEVICE_EXCHANGE_CUH

#include <cstdint>

#include "kernels_cuda/device/numbers.cuh"

namespace hattn {

/* Builds that check end in a fault, which the caller's next synchronisation reports, where others would give wrong results
 * or wait for ever: two runs at once in one workspace, or one that was not initialised. */
#ifdef HATTN_CHECKED
constexpr bool kIsChecked = true;
#else
constexpr bool kIsChecked = false;
#endif

__device__ inline void stop_device() { __trap(); }

/* Nanoseconds, or the plain twin's cycles. */
__device__ inline int64_t device_time()
{
#ifdef HATTN_PORTABLE
    return clock64();
#else
    int64_t now;
    asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(now));
    return now;
#endif
}

/* Of a wait for another block, which is far shorter than the seconds that this allows. */
class WaitLimit
{
public:
    __device__ WaitLimit()
    {
        if (kIsChecked)
            start_ = device_time();
    }

    __device__ void check() const
    {
        if (kIsChecked && device_time() - start_ > 3000000000)
            stop_device();
    }

private:
    int64_t start_ = 0;
};

/* Adds 1 after everything that this thread knows to be written, and before everything that it reads afterwards. */
__device__ inline uint32_t arrive(uint32_t *counter)
{
    uint32_t before;
#ifdef HATTN_PORTABLE
    __threadfence();
    before = atomicAdd(counter, 1u);
    __threadfence();
#else
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0,[%1],1;" : "=r"(before) : "l"(counter) : "memory");
#endif
    return before;
}

/* Adds; orders nothing. The compiler would gather constant amounts of a warp's lanes, and wait for the result at
 * once: it cannot know that a lane's number is also the thread's. */
__device__ inline uint32_t count_up(uint32_t *counter, uint32_t amount)
{
    uint32_t before;
#ifdef HATTN_PORTABLE
    before = atomicAdd(counter, amount);
#else
    uint32_t lane;
    asm volatile("mov.u32 %0,%%laneid;" : "=r"(lane));
    asm volatile("atom.relaxed.gpu.global.add.u32 %0,[%1],%2;"
                 : "=r"(before)
                 : "l"(counter), "r"(amount + (lane ^ (threadIdx.x & 31)))
                 : "memory");
#endif
    return before;
}

/* Floats from one block to another that waits for them, without a fence: each word tells by itself whether it is
 * there, 0 is not. A NaN arrives as one. */
__device__ inline uint32_t word_of(float x)
{
    const uint32_t complement = ~bits_of(x);
    return complement ? complement : 0x80000000u;
}

__device__ inline void send_words(uint32_t *to, float x)
{
#ifdef HATTN_PORTABLE
    atomicExch(to, word_of(x));
#else
    asm volatile("st.relaxed.gpu.global.u32 [%0],%1;" ::"l"(to), "r"(word_of(x)) : "memory");
#endif
}

/* To 8 bytes. */
__device__ inline void send_words(uint32_t *to, float2 x)
{
#ifdef HATTN_PORTABLE
    send_words(to, x.x);
    send_words(to + 1, x.y);
#else
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0],{%1,%2};" ::"l"(to), "r"(word_of(x.x)), "r"(word_of(x.y))
                 : "memory");
#endif
}

/* To 16 bytes. */
__device__ inline void send_words(uint32_t *to, float4 x)
{
#ifdef HATTN_PORTABLE
    send_words(to, x.x);
    send_words(to + 1, x.y);
    send_words(to + 2, x.z);
    send_words(to + 3, x.w);
#else
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0],{%1,%2,%3,%4};" ::"l"(to), "r"(word_of(x.x)), "r"(word_of(x.y)),
                 "r"(word_of(x.z)), "r"(word_of(x.w))
                 : "memory");
#endif
}

__device__ inline float float_of(uint32_t word) { return float_of_bits(~word); }

__device__ inline uint32_t receive(const uint32_t *from)
{
    uint32_t word;
#ifdef HATTN_PORTABLE
    word = atomicOr(const_cast<uint32_t *>(from), 0u);
#else
    asm volatile("ld.relaxed.gpu.global.u32 %0,[%1];" : "=r"(word) : "l"(from) : "memory");
#endif
    return word;
}

/* Two words, at 8 bytes. */
__device__ inline uint2 receive_two(const uint32_t *from)
{
    uint2 words;
#ifdef HATTN_PORTABLE
    words = {receive(from), receive(from + 1)};
#else
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1},[%2];" : "=r"(words.x), "=r"(words.y) : "l"(from) : "memory");
#endif
    return words;
}

/* Four words, at 16 bytes. */
__device__ inline uint4 receive_four(const uint32_t *from)
{
    uint4 words;
#ifdef HATTN_PORTABLE
    words = {receive(from), receive(from + 1), receive(from + 2), receive(from + 3)};
#else
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from)
                 : "memory");
#endif
    return words;
}

/* After a look that told of another block's arrival: what it wrote before that is seen. */
__device__ inline void acquire() { __threadfence(); }

/* Between looks at what another block will write. */
__device__ inline void pause()
{
#ifndef HATTN_PORTABLE
    __nanosleep(100);
#endif
}

/* True in every thread of the last of `count` blocks to get here; it then sees what the others wrote before. The
 * counter is zero again afterwards. */
__device__ inline bool arrive_last(uint32_t *counter, uint32_t count)
{
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        last = arrive(counter) == count - 1;
        if (last)
            *counter = 0;
    }
    __syncthreads();
    return last;
}

} // namespace hattn

#endif
