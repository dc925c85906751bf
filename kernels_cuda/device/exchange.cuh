/* SPDX-License-Identifier: Apache-2.0
 * What blocks of a grid tell each other: atomics in the scope of the device.
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

using vendor::stop_device;

/* Nanoseconds, or cycles, of a wait for another block, which is far shorter than the seconds that this allows. */
class WaitLimit
{
public:
    __device__ WaitLimit()
    {
        if (kIsChecked)
            start_ = vendor::device_time();
    }

    __device__ void check() const
    {
        if (kIsChecked && vendor::device_time() - start_ > 3000000000)
            stop_device();
    }

private:
    int64_t start_ = 0;
};

/* Adds 1 after everything that this thread knows to be written, and before everything that it reads afterwards. */
using vendor::arrive;

/* Adds; orders nothing, and is not waited for before its result is needed. */
using vendor::count_up;

/* Floats from one block to another that waits for them, without a fence: each word tells by itself whether it is
 * there, 0 is not. A NaN arrives as one. */
__device__ inline uint32_t word_of(float x)
{
    const uint32_t complement = ~bits_of(x);
    return complement ? complement : 0x80000000u;
}

__device__ inline void send_words(uint32_t *to, float x) { vendor::send(to, word_of(x)); }

/* To 8 bytes. */
__device__ inline void send_words(uint32_t *to, float2 x) { vendor::send(to, uint2{word_of(x.x), word_of(x.y)}); }

/* To 16 bytes. */
__device__ inline void send_words(uint32_t *to, float4 x)
{
    vendor::send(to, uint4{word_of(x.x), word_of(x.y), word_of(x.z), word_of(x.w)});
}

__device__ inline float float_of(uint32_t word) { return float_of_bits(~word); }

/* One word; two words at 8 bytes; four at 16. */
using vendor::receive;
using vendor::receive_four;
using vendor::receive_two;

/* After a look that told of another block's arrival: what it wrote before that is seen. */
__device__ inline void acquire() { vendor::fence(); }

/* Between looks at what another block will write. */
using vendor::pause;

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
