/* SPDX-License-Identifier: Apache-2.0
 * Loads by how long what they bring is wanted and who else may write it, copies into shared memory, prefetches.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_MEMORY_CUH
#define HATTN_KERNELS_CUDA_DEVICE_MEMORY_CUH

#include <cstdint>

#include "kernels_cuda/device/vendor.cuh"

namespace hattn {

/* What kernels before this one on the stream may have been writing when it began: not from L1, which may hold an old
 * line of it, and before the loads that come after it. */
__device__ inline int32_t load_now(const int32_t *address)
{
#ifdef HATTN_PORTABLE
    return *static_cast<const volatile int32_t *>(address);
#else
    int32_t x;
    asm volatile("ld.relaxed.gpu.global.s32 %0,[%1];" : "=r"(x) : "l"(address) : "memory");
    return x;
#endif
}

/* Past L1, which may hold what another kernel or block has written since. */
template <class T>
__device__ inline T load_l2(const T *address)
{
#ifdef HATTN_PORTABLE
    return *address;
#else
    return __ldcg(address);
#endif
}

/* What nothing writes while the kernel runs: maps. */
template <class T>
__device__ inline T load_constant(const T *address)
{
#ifdef HATTN_PORTABLE
    return *address;
#else
    return __ldg(address);
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

/* 16 bytes of global memory into shared memory, without passing registers or L1; zeros (and no read) where not
 * `present`. Copies since the last copy_commit are a group; copy_wait returns when all groups but the last `pending`
 * (0, 1 or 2) have landed, for this thread. */
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

/* Read once: not worth a place in L1. The kernels before may write it until they are waited for (appended codes and
 * norms): no read-only loads. The address is aligned to the array's size. */
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

__device__ inline uint32_t load_streamed(const uint32_t *address)
{
#ifdef HATTN_PORTABLE
    return *address;
#else
    return __ldcs(address);
#endif
}

/* As its bits: the vendor's own loads of fp16 may be moved over a wait. */
__device__ inline float16 load_streamed(const float16 *address)
{
#ifdef HATTN_PORTABLE
    return *address;
#else
    return __ushort_as_half(__ldcs(reinterpret_cast<const unsigned short *>(address)));
#endif
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

} // namespace hattn

#endif
