/* SPDX-License-Identifier: Apache-2.0
 * Plain twins of what a dialect may have faster, on the first half of any dialect, in the order of its second half. A dialect takes those that it has
 * nothing better for; a build with HATTN_PORTABLE takes them all.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_PLAIN_CUH
#define HATTN_KERNELS_CUDA_DEVICE_PLAIN_CUH

namespace hattn::plain {

using namespace vendor;

/* ---- bits ---- */

__device__ inline int count_ones(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    return static_cast<int>(((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}

__device__ inline int lowest_one(uint32_t x) { return plain::count_ones((x & (0 - x)) - 1); }

__device__ inline int bit_width(uint32_t x)
{
    int width = 0;
    for (; x; x >>= 1)
        width++;
    return width;
}

__device__ inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t which)
{
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++)
        result |= static_cast<uint32_t>(bytes >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}

__device__ inline uint32_t equal_halves(uint32_t x, uint32_t y)
{
    const uint32_t difference = x ^ y;
    return (difference & 0xffffu ? 0u : 0xffffu) | (difference >> 16 ? 0u : 0xffff0000u);
}

__device__ inline uint32_t high_product(uint32_t x, uint32_t y)
{
    return static_cast<uint32_t>(static_cast<uint64_t>(x) * y >> 32);
}

__device__ inline float fast_exp(float x) { return expf(x); }

__device__ inline float fast_inverse(float x) { return 1.0f / x; }

template <class T>
__device__ inline void compute_now(T &)
{
}

template <class T>
__device__ inline T uniform(T x)
{
    return x;
}

/* ---- over a warp ---- */

__device__ inline uint32_t warp_or(uint32_t x)
{
    for (int offset = 16; offset; offset >>= 1)
        x |= from_partner(x, offset);
    return x;
}

__device__ inline uint32_t ballot(bool yes) { return plain::warp_or(yes ? 1u << (threadIdx.x & 31) : 0u); }

__device__ inline bool all_alike(uint32_t x) { return plain::ballot(x == from_lane(x, 0)) == 0xffffffffu; }

__device__ inline int32_t warp_least(int32_t x)
{
    for (int offset = 16; offset; offset >>= 1)
        x = min(x, from_partner(x, offset));
    return x;
}

__device__ inline int32_t warp_largest(int32_t x)
{
    for (int offset = 16; offset; offset >>= 1)
        x = max(x, from_partner(x, offset));
    return x;
}

__device__ inline uint32_t warp_total(uint32_t x)
{
    for (int offset = 16; offset; offset >>= 1)
        x += from_partner(x, offset);
    return x;
}

__device__ inline float warp_max_magnitude(float x)
{
    for (int offset = 16; offset; offset >>= 1)
        x = fmaxf(x, from_partner(x, offset));
    return x;
}

/* ---- loads and copies ---- */

__device__ inline int32_t load_now(const int32_t *address) { return *static_cast<const volatile int32_t *>(address); }

template <class T>
__device__ inline T load_l2(const T *address)
{
    return *address;
}

template <class T>
__device__ inline T load_constant(const T *address)
{
    return *address;
}

__device__ inline uint4 load_row16(const void *address) { return *static_cast<const uint4 *>(address); }

__device__ inline void copy_async16(void *shared, const void *global, bool present)
{
    *static_cast<uint4 *>(shared) = present ? *static_cast<const uint4 *>(global) : uint4{};
}

__device__ inline void copy_async4(void *shared, const void *global)
{
    *static_cast<uint32_t *>(shared) = *static_cast<const uint32_t *>(global);
}

__device__ inline void copy_async8(void *shared, const void *global)
{
    *static_cast<uint2 *>(shared) = *static_cast<const uint2 *>(global);
}

__device__ inline void copy_commit() {}

__device__ inline void copy_wait(int) {}

__device__ inline void load_streamed(uint32_t (&words)[4], const void *address)
{
    const uint4 v = *static_cast<const uint4 *>(address);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

__device__ inline void load_streamed(uint32_t (&words)[2], const void *address)
{
    const uint2 v = *static_cast<const uint2 *>(address);
    words[0] = v.x;
    words[1] = v.y;
}

__device__ inline uint32_t load_streamed(const uint32_t *address) { return *address; }

__device__ inline float16 load_streamed(const float16 *address) { return *address; }

__device__ inline void prefetch_line(const void *) {}

/* ---- matrices ---- */

/* Element i (0 or 1) of a register of two. */
template <class T>
__device__ inline float half_of(uint32_t bits, int i)
{
    T pair[2];
    memcpy(pair, &bits, sizeof(bits));
    return to_float(pair[i]);
}

/* Not inlined: it stands in loops that are unrolled. */
template <class T>
__device__ __noinline__ void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1)
{
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int k = 0; k < 4; k++) { /* the quarter of the inner dimension that lane 4x + k holds */
        const uint32_t r0 = from_lane(a0, 4 * g + k), r1 = from_lane(a1, 4 * g + k);
        const uint32_t r2 = from_lane(a2, 4 * g + k), r3 = from_lane(a3, 4 * g + k);
        for (int n = 0; n < 2; n++) {
            const uint32_t s0 = from_lane(b0, 4 * (2 * t + n) + k), s1 = from_lane(b1, 4 * (2 * t + n) + k);
            for (int i = 0; i < 2; i++) {
                c[n] += half_of<T>(r0, i) * half_of<T>(s0, i) + half_of<T>(r2, i) * half_of<T>(s1, i);
                c[n + 2] += half_of<T>(r1, i) * half_of<T>(s0, i) + half_of<T>(r3, i) * half_of<T>(s1, i);
            }
        }
    }
}

__device__ inline uint32_t transpose_8x8(uint32_t x)
{
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
    const uint32_t low = from_lane(x, 4 * (2 * t) + g / 2), high = from_lane(x, 4 * (2 * t + 1) + g / 2);
    return (low >> g % 2 * 16 & 0xffff) | (high >> g % 2 * 16) << 16;
}

template <int kCount>
__device__ inline void load_matrices(uint32_t (&x)[kCount], const void *row)
{
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
    for (int i = 0; i < kCount; i++) {
        const uint64_t address = from_lane(reinterpret_cast<uint64_t>(row), 8 * i + g);
        x[i] = reinterpret_cast<const uint32_t *>(address)[t];
    }
}

template <int kCount>
__device__ inline void load_transposed(uint32_t (&x)[kCount], const void *row)
{
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
    for (int i = 0; i < kCount; i++) {
        const uint64_t low = from_lane(reinterpret_cast<uint64_t>(row), 8 * i + 2 * t);
        const uint64_t high = from_lane(reinterpret_cast<uint64_t>(row), 8 * i + 2 * t + 1);
        x[i] = reinterpret_cast<const uint16_t *>(low)[g] |
               static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(high)[g]) << 16;
    }
}

/* ---- between threads and blocks ---- */

class SharedCounters
{
public:
    __device__ explicit SharedCounters(uint32_t *first) : first_(first) {}
    __device__ void count(uint32_t index) const { atomic_add(first_ + index, 1u); }

private:
    uint32_t *first_;
};

__device__ inline int64_t device_time() { return cycles(); }

__device__ inline uint32_t arrive(uint32_t *counter)
{
    fence();
    const uint32_t before = atomic_add(counter, 1u);
    fence();
    return before;
}

__device__ inline uint32_t count_up(uint32_t *counter, uint32_t amount) { return atomic_add(counter, amount); }

/* Read-modify-writes: every vendor has them in the scope of the device, where others are loads and stores. */
__device__ inline void send(uint32_t *to, uint32_t x) { atomic_exchange(to, x); }

__device__ inline void send(uint32_t *to, uint2 x)
{
    plain::send(to, x.x);
    plain::send(to + 1, x.y);
}

__device__ inline void send(uint32_t *to, uint4 x)
{
    plain::send(to, uint2{x.x, x.y});
    plain::send(to + 2, uint2{x.z, x.w});
}

__device__ inline uint32_t receive(const uint32_t *from) { return atomic_read(from); }

__device__ inline uint2 receive_two(const uint32_t *from) { return {plain::receive(from), plain::receive(from + 1)}; }

__device__ inline uint4 receive_four(const uint32_t *from)
{
    const uint2 low = plain::receive_two(from), high = plain::receive_two(from + 2);
    return {low.x, low.y, high.x, high.y};
}

__device__ inline void pause() {}

} // namespace hattn::plain

#endif
