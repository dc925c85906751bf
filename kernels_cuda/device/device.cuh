/* SPDX-License-Identifier: Apache-2.0
 * What all kernels are made of: warp and block steps, tensor cores, memory. PTX appears here, in exchange.cuh and nowhere
 * else, beside plain twins.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_DEVICE_CUH
#define HATTN_KERNELS_CUDA_DEVICE_DEVICE_CUH

#include <cstdint>
#include <cstring>

#include "core/rows.h"
#include "kernels_cuda/device/elements.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

constexpr int kThreads = 256; /* of every block */
constexpr int kWarps = kThreads / 32;
constexpr int kList = 512; /* positions that an attend block finds at a time */
constexpr unsigned kFullMask = 0xffffffffu;

/* ---- warps and blocks ---- */

__device__ inline int lane_id() { return threadIdx.x & 31; }

/* A mask of the lanes before this one. */
__device__ inline uint32_t lanes_below() { return (1u << lane_id()) - 1; }

__device__ inline int warp_id() { return threadIdx.x >> 5; }

__device__ inline float warp_sum(float x)
{
    for (int offset = 16; offset; offset >>= 1)
        x += __shfl_xor_sync(kFullMask, x, offset);
    return x;
}

__device__ inline float warp_max(float x)
{
    for (int offset = 16; offset; offset >>= 1)
        x = fmaxf(x, __shfl_xor_sync(kFullMask, x, offset));
    return x;
}

/* Of numbers that are not negative: their bits are in the same order. */
__device__ inline float warp_max_magnitude(float x)
{
    return __uint_as_float(__reduce_max_sync(kFullMask, __float_as_uint(x)));
}

/* Sum over the lanes up to this one. */
__device__ inline uint32_t warp_scan(uint32_t x)
{
    for (int offset = 1; offset < 32; offset <<= 1) {
        const uint32_t below = __shfl_up_sync(kFullMask, x, offset);
        if (lane_id() >= offset)
            x += below;
    }
    return x;
}

/* Sum over this lane and those after it. */
__device__ inline uint32_t warp_scan_down(uint32_t x)
{
    for (int offset = 1; offset < 32; offset <<= 1) {
        const uint32_t above = __shfl_down_sync(kFullMask, x, offset);
        if (lane_id() + offset < 32)
            x += above;
    }
    return x;
}

/* Counters in shared memory by their 32-bit address: one instruction a count, where a pointer would cost several. */
class SharedCounters
{
public:
#ifdef HATTN_PORTABLE
    __device__ explicit SharedCounters(uint32_t *first) : first_(first) {}
    __device__ void count(uint32_t index) const { atomicAdd(first_ + index, 1u); }

private:
    uint32_t *first_;
#else
    __device__ explicit SharedCounters(uint32_t *first) : first_(static_cast<uint32_t>(__cvta_generic_to_shared(first)))
    {
    }
    __device__ void count(uint32_t index) const
    {
        asm volatile("red.shared.add.u32 [%0],1;" ::"r"(first_ + 4 * index) : "memory");
    }

private:
    uint32_t first_;
#endif
};

/* Exclusive sum over the threads of the block, and the total; `sums` is kWarps words of shared memory. Ends with every thread
 * free to go on, but `sums` must not be written before the next barrier. */
__device__ inline uint32_t block_scan(uint32_t x, uint32_t *sums, uint32_t *total)
{
    const uint32_t inclusive = warp_scan(x);
    if (lane_id() == 31)
        sums[warp_id()] = inclusive;
    __syncthreads();
    uint32_t before = 0, all = 0;
    for (int w = 0; w < kWarps; w++) {
        before += w < warp_id() ? sums[w] : 0;
        all += sums[w];
    }
    *total = all;
    return before + inclusive - x;
}

/* ---- tensor cores: fragments as in the PTX manual, mma.m16n8k16 and movmatrix ---- */

#ifdef HATTN_PORTABLE

/* Element i (0 or 1) of a register of two. */
template <class T>
__device__ inline float half_of(uint32_t bits, int i)
{
    T pair[2];
    memcpy(pair, &bits, sizeof(bits));
    return to_float(pair[i]);
}

/* c[16 x 8] += a[16 x 16] b[16 x 8]; a, b, c distributed over the warp. Not inlined: it stands in loops that are unrolled. */
template <class T>
__device__ __noinline__ void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int k = 0; k < 4; k++) { /* the quarter of the inner dimension that lane 4x + k holds */
        const uint32_t r0 = __shfl_sync(kFullMask, a0, 4 * g + k), r1 = __shfl_sync(kFullMask, a1, 4 * g + k);
        const uint32_t r2 = __shfl_sync(kFullMask, a2, 4 * g + k), r3 = __shfl_sync(kFullMask, a3, 4 * g + k);
        for (int n = 0; n < 2; n++) {
            const uint32_t s0 = __shfl_sync(kFullMask, b0, 4 * (2 * t + n) + k),
                           s1 = __shfl_sync(kFullMask, b1, 4 * (2 * t + n) + k);
            for (int i = 0; i < 2; i++) {
                c[n] += half_of<T>(r0, i) * half_of<T>(s0, i) + half_of<T>(r2, i) * half_of<T>(s1, i);
                c[n + 2] += half_of<T>(r1, i) * half_of<T>(s0, i) + half_of<T>(r3, i) * half_of<T>(s1, i);
            }
        }
    }
}

/* Lane (g, t) holds elements (g, 2t), (g, 2t+1) of an 8 x 8 matrix of 16 bits, and gets those of its transpose. */
__device__ inline uint32_t transpose_8x8(uint32_t x)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    const uint32_t low = __shfl_sync(kFullMask, x, 4 * (2 * t) + g / 2),
                   high = __shfl_sync(kFullMask, x, 4 * (2 * t + 1) + g / 2);
    return (low >> g % 2 * 16 & 0xffff) | (high >> g % 2 * 16) << 16;
}

template <int kCount>
__device__ inline void load_matrices(uint32_t (&x)[kCount], const void *row)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int i = 0; i < kCount; i++) {
        const uint64_t address = __shfl_sync(kFullMask, reinterpret_cast<uint64_t>(row), 8 * i + g);
        x[i] = reinterpret_cast<const uint32_t *>(address)[t];
    }
}

template <int kCount>
__device__ inline void load_transposed(uint32_t (&x)[kCount], const void *row)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int i = 0; i < kCount; i++) {
        const uint64_t low = __shfl_sync(kFullMask, reinterpret_cast<uint64_t>(row), 8 * i + 2 * t);
        const uint64_t high = __shfl_sync(kFullMask, reinterpret_cast<uint64_t>(row), 8 * i + 2 * t + 1);
        x[i] = reinterpret_cast<const uint16_t *>(low)[g] |
               static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(high)[g]) << 16;
    }
}

#else

template <class T>
__device__ inline void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                 uint32_t b1)
{
    if constexpr (std::is_same_v<T, __half>)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint32_t transpose_8x8(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(y) : "r"(x));
    return y;
}

/* kCount matrices of 8 x 8 of 16 bits in shared memory, whose rows lanes 8i .. 8i+7 point at for matrix i: lane (g, t) gets elements
 * (g, 2t), (g, 2t+1) of each ... */
template <int kCount> /* 2 or 4 */
__device__ inline void load_matrices(uint32_t (&x)[kCount], const void *row)
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kCount == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
                     : "=r"(x[0]), "=r"(x[1])
                     : "r"(address)
                     : "memory");
}

/* ... or (2t, g), (2t+1, g). */
template <int kCount>
__device__ inline void load_transposed(uint32_t (&x)[kCount], const void *row)
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kCount == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
                     : "=r"(x[0]), "=r"(x[1])
                     : "r"(address)
                     : "memory");
}

#endif

/* Two e4m3 values, the low 16 bits of x, as two fp16: exact, NaN stays NaN. */
__device__ inline uint32_t half2_of_e4m3(uint32_t x)
{
    uint32_t y;
#if !defined(HATTN_PORTABLE) && __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(y) : "h"(static_cast<uint16_t>(x)));
#else
    /* The byte at the top of each half; see to_float: 2^8 makes up for the bias. */
    const uint32_t bytes = __byte_perm(x, 0, 0x1404), nan = __vcmpeq2(bytes & 0x7f007f00, 0x7f007f00);
    const uint32_t moved = (bytes & 0x80008000) | (bytes & 0x7f007f00) >> 1, scale = 0x5c005c00;
    __half2 value, factor;
    memcpy(&value, &moved, sizeof(value));
    memcpy(&factor, &scale, sizeof(factor));
    value = __hmul2(value, factor);
    memcpy(&y, &value, sizeof(y));
    y |= nan;
#endif
    return y;
}

#ifndef HATTN_PORTABLE

/* m16n8k256 of single bits, and + popcount. */
__device__ inline void mma_b1(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif

/* Has x, an integer or a pointer, computed here and not when it is first needed: before a wait, above all. */
template <class T>
__device__ inline void compute_now(T &x)
{
#ifndef HATTN_PORTABLE
    if constexpr (sizeof(T) == 8)
        asm volatile("" : "+l"(x));
    else
        asm volatile("" : "+r"(x));
#else
    (void)x;
#endif
}

/* ---- pages ---- */

/* Division of 0..2^31-1. */
__device__ inline uint32_t divide(uint32_t x, const hattn_cuda_divisor &divisor)
{
    return (__umulhi(x, divisor.magic) + x) >> divisor.shift;
}

/* Where a key is. */
struct Slot {
    int32_t page, slot;
};

/* ---- memory and launches ---- */

/* A load that stays before the loads of load_row16 that come after it. */
__device__ inline int32_t load_now(const int32_t *address)
{
#ifdef HATTN_PORTABLE
    return *address;
#else
    int32_t x;
    asm volatile("ld.global.s32 %0,[%1];" : "=r"(x) : "l"(address) : "memory");
    return x;
#endif
}

/* 16 bytes of a row that no other block reads: not kept in L1. */
__device__ inline uint4 load_row16(const void *address)
{
    uint4 v;
#ifdef HATTN_PORTABLE
    v = *static_cast<const uint4 *>(address);
#else
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address));
#endif
    return v;
}

/* 16 bytes of global memory into shared memory, without passing registers or L1; zeros (and no read) where not `present`. Copies since the last
 * copy_commit are a group; copy_wait returns when all groups but the last `pending` (0, 1 or 2) have landed, for this thread. */
__device__ inline void copy_async16(void *shared, const void *global, bool present)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint4 *>(shared) = present ? *static_cast<const uint4 *>(global) : uint4{};
#else
    asm volatile(
        "cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global), "r"(present ? 16 : 0)
        : "memory");
#endif
}

/* The same for 4 bytes, through L1. */
__device__ inline void copy_async4(void *shared, const void *global)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint32_t *>(shared) = *static_cast<const uint32_t *>(global);
#else
    asm volatile(
        "cp.async.ca.shared.global [%0],[%1],4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global)
        : "memory");
#endif
}

/* The same for 8 bytes. */
__device__ inline void copy_async8(void *shared, const void *global)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint2 *>(shared) = *static_cast<const uint2 *>(global);
#else
    asm volatile(
        "cp.async.ca.shared.global [%0],[%1],8;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global)
        : "memory");
#endif
}

__device__ inline void copy_commit()
{
#ifndef HATTN_PORTABLE
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

__device__ inline void copy_wait(int pending)
{
#ifndef HATTN_PORTABLE
    if (pending >= 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else if (pending == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 0;" ::: "memory");
#else
    static_cast<void>(pending);
#endif
}

/* Read once: not worth a place in L1. The address is aligned to the array's size. */
__device__ inline void load_streamed(uint32_t (&words)[4], const void *address)
{
#ifdef HATTN_PORTABLE
    const uint4 v = *static_cast<const uint4 *>(address);
#else
    const uint4 v = __ldcs(static_cast<const uint4 *>(address));
#endif
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

__device__ inline void load_streamed(uint32_t (&words)[2], const void *address)
{
#ifdef HATTN_PORTABLE
    const uint2 v = *static_cast<const uint2 *>(address);
#else
    const uint2 v = __ldcs(static_cast<const uint2 *>(address));
#endif
    words[0] = v.x;
    words[1] = v.y;
}

/* Brings a line into L2; the address need not be aligned. */
__device__ inline void prefetch_line(const void *address)
{
#ifndef HATTN_PORTABLE
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
    (void)address;
#endif
}

/* The next kernel of the stream, if it was launched to, may start before this one has ended ... */
__device__ inline void allow_dependents()
{
#if !defined(HATTN_PORTABLE) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ... and waits here for what it wrote. */
__device__ inline void wait_for_previous()
{
#if !defined(HATTN_PORTABLE) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Both in this order. A decode's first kernel does so before it reads anything that the caller may have changed on the stream; kernels
 * after it can then start early and read that at once, and wait only for what the kernels of the decode write. */
__device__ inline void take_over()
{
    wait_for_previous();
    allow_dependents();
}

} // namespace hattn

#endif
