/* SPDX-License-Identifier: Apache-2.0
 * The dialect in CUDA, where it is faster than plain.cuh: the same sections in the same order.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_CUDA_FAST_CUH
#define HATTN_KERNELS_CUDA_DEVICE_CUDA_FAST_CUH

namespace hattn::vendor {

/* ---- bits ---- */

__device__ inline int count_ones(uint32_t x) { return __popc(x); }

__device__ inline int lowest_one(uint32_t x) { return __ffs(static_cast<int>(x)) - 1; }

__device__ inline int bit_width(uint32_t x) { return 32 - __clz(static_cast<int>(x)); }

__device__ inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t which)
{
    return __byte_perm(low, high, which);
}

__device__ inline uint32_t equal_halves(uint32_t x, uint32_t y) { return __vcmpeq2(x, y); }

__device__ inline uint32_t high_product(uint32_t x, uint32_t y) { return __umulhi(x, y); }

__device__ inline float fast_exp(float x) { return __expf(x); }

__device__ inline float fast_inverse(float x) { return __fdividef(1.0f, x); }

template <class T>
__device__ inline void compute_now(T &x)
{
    if constexpr (sizeof(T) == 8)
        asm volatile("" : "+l"(x));
    else
        asm volatile("" : "+r"(x));
}

using plain::uniform;

#define HATTN_HAS_E4M3 (__CUDA_ARCH__ >= 890)
#if HATTN_HAS_E4M3
__device__ inline uint32_t half2_of_e4m3(uint32_t x)
{
    uint32_t y;
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(y) : "h"(static_cast<uint16_t>(x)));
    return y;
}
#endif

/* ---- over a warp ---- */

__device__ inline uint32_t ballot(bool yes) { return __ballot_sync(kFullMask, yes); }

__device__ inline bool all_alike(uint32_t x)
{
    int are_alike;
    __match_all_sync(kFullMask, x, &are_alike);
    return are_alike;
}

__device__ inline uint32_t warp_or(uint32_t x) { return __reduce_or_sync(kFullMask, x); }

__device__ inline int32_t warp_least(int32_t x) { return __reduce_min_sync(kFullMask, x); }

__device__ inline int32_t warp_largest(int32_t x) { return __reduce_max_sync(kFullMask, x); }

__device__ inline uint32_t warp_total(uint32_t x) { return __reduce_add_sync(kFullMask, x); }

__device__ inline float warp_max_magnitude(float x) { return float_of_bits(__reduce_max_sync(kFullMask, bits_of(x))); }

/* ---- loads and copies ---- */

__device__ inline int32_t load_now(const int32_t *address)
{
    int32_t x;
    asm volatile("ld.relaxed.gpu.global.s32 %0,[%1];" : "=r"(x) : "l"(address) : "memory");
    return x;
}

template <class T>
__device__ inline T load_l2(const T *address)
{
    return __ldcg(address);
}

template <class T>
__device__ inline T load_constant(const T *address)
{
    return __ldg(address);
}

__device__ inline uint4 load_row16(const void *address)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address));
    return v;
}

__device__ inline void copy_async16(void *shared, const void *global, bool present)
{
    asm volatile(
        "cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global), "r"(present ? 16 : 0)
        : "memory");
}

__device__ inline void copy_async4(void *shared, const void *global)
{
    asm volatile(
        "cp.async.ca.shared.global [%0],[%1],4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global)
        : "memory");
}

__device__ inline void copy_async8(void *shared, const void *global)
{
    asm volatile(
        "cp.async.ca.shared.global [%0],[%1],8;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global)
        : "memory");
}

__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

__device__ inline void copy_wait(int pending)
{
    if (pending >= 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else if (pending == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 0;" ::: "memory");
}

__device__ inline void load_streamed(uint32_t (&words)[4], const void *address)
{
    const uint4 v = __ldcs(static_cast<const uint4 *>(address));
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

__device__ inline void load_streamed(uint32_t (&words)[2], const void *address)
{
    const uint2 v = __ldcs(static_cast<const uint2 *>(address));
    words[0] = v.x;
    words[1] = v.y;
}

__device__ inline uint32_t load_streamed(const uint32_t *address) { return __ldcs(address); }

/* As its bits: CUDA's own loads of fp16 may be moved over a wait. */
__device__ inline float16 load_streamed(const float16 *address)
{
    return __ushort_as_half(__ldcs(reinterpret_cast<const unsigned short *>(address)));
}

__device__ inline void prefetch_line(const void *address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

/* ---- matrices ---- */

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

/* Blackwell (sm_100, sm_120) has no products of single bits: each would be a call of 120 instructions. */
#define HATTN_HAS_MMA_B1 (__CUDA_ARCH__ < 1000)
#if HATTN_HAS_MMA_B1

__device__ inline void mma_b1(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif

/* ---- between threads and blocks ---- */

class SharedCounters
{
public:
    __device__ explicit SharedCounters(uint32_t *first) : first_(static_cast<uint32_t>(__cvta_generic_to_shared(first)))
    {
    }
    __device__ void count(uint32_t index) const
    {
        asm volatile("red.shared.add.u32 [%0],1;" ::"r"(first_ + 4 * index) : "memory");
    }

private:
    uint32_t first_;
};

__device__ inline int64_t device_time()
{
    int64_t now;
    asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(now));
    return now;
}

__device__ inline uint32_t arrive(uint32_t *counter)
{
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0,[%1],1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

/* The compiler would gather constant amounts of a warp's lanes, and wait for the result at once: it cannot know that a
 * lane's number is also the thread's. */
__device__ inline uint32_t count_up(uint32_t *counter, uint32_t amount)
{
    uint32_t before;
    uint32_t lane;
    asm volatile("mov.u32 %0,%%laneid;" : "=r"(lane));
    asm volatile("atom.relaxed.gpu.global.add.u32 %0,[%1],%2;"
                 : "=r"(before)
                 : "l"(counter), "r"(amount + (lane ^ (threadIdx.x & 31)))
                 : "memory");
    return before;
}

__device__ inline void send(uint32_t *to, uint32_t x)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0],%1;" ::"l"(to), "r"(x) : "memory");
}

__device__ inline void send(uint32_t *to, uint2 x)
{
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0],{%1,%2};" ::"l"(to), "r"(x.x), "r"(x.y) : "memory");
}

__device__ inline void send(uint32_t *to, uint4 x)
{
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0],{%1,%2,%3,%4};" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
}

__device__ inline uint32_t receive(const uint32_t *from)
{
    uint32_t word;
    asm volatile("ld.relaxed.gpu.global.u32 %0,[%1];" : "=r"(word) : "l"(from) : "memory");
    return word;
}

__device__ inline uint2 receive_two(const uint32_t *from)
{
    uint2 words;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1},[%2];" : "=r"(words.x), "=r"(words.y) : "l"(from) : "memory");
    return words;
}

__device__ inline uint4 receive_four(const uint32_t *from)
{
    uint4 words;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from)
                 : "memory");
    return words;
}

__device__ inline void pause() { __nanosleep(100); }

} // namespace hattn::vendor

#endif
