/* SPDX-License-Identifier: Apache-2.0
 * What all kernels are made of: element conversions, warp and block steps. Vendor intrinsics appear here and nowhere else.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_CUH
#define HATTN_KERNELS_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backends/rows.h"

namespace hattn {

constexpr int kThreads = 256; /* of every block */
constexpr int kWarps = kThreads / 32;
constexpr unsigned kFullMask = 0xffffffffu;

/* ---- elements ---- */

struct fp8_e4m3 {
    uint8_t bits;
};

__device__ inline float to_float(float x)
{
    return x;
}

__device__ inline float to_float(__half x)
{
    return __half2float(x);
}

__device__ inline float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* OCP E4M3: bias 7, no infinities, 0x7f and 0xff are NaN. Its bits, moved into fp16's places, are its value times 2^-8, and
 * subnormals come out right by themselves. */
__device__ inline float to_float(fp8_e4m3 x)
{
    if ((x.bits & 0x7f) == 0x7f)
        return __int_as_float(0x7fffffff);
    const unsigned short as_half = static_cast<unsigned short>((x.bits & 0x80) << 8 | (x.bits & 0x7f) << 7);
    return __half2float(__ushort_as_half(as_half)) * 256.0f;
}

/* Calls f with a null pointer of the dtype's element type: the host's switch from a number to a kernel's type. */
template <class F>
inline auto with_dtype(int32_t dtype, F f)
{
    switch (dtype) {
    case HATTN_F16: return f(static_cast<const __half *>(nullptr));
    case HATTN_BF16: return f(static_cast<const __nv_bfloat16 *>(nullptr));
    case HATTN_F8_E4M3: return f(static_cast<const fp8_e4m3 *>(nullptr));
    default: return f(static_cast<const float *>(nullptr));
    }
}

/* The same for what cannot be fp8. */
template <class F>
inline auto with_float_dtype(int32_t dtype, F f)
{
    switch (dtype) {
    case HATTN_F16: return f(static_cast<const __half *>(nullptr));
    case HATTN_BF16: return f(static_cast<const __nv_bfloat16 *>(nullptr));
    default: return f(static_cast<const float *>(nullptr));
    }
}

__device__ inline float load_element(const void *data, int32_t dtype, int64_t index)
{
    switch (dtype) {
    case HATTN_F16: return to_float(static_cast<const __half *>(data)[index]);
    case HATTN_BF16: return to_float(static_cast<const __nv_bfloat16 *>(data)[index]);
    case HATTN_F8_E4M3: return to_float(static_cast<const fp8_e4m3 *>(data)[index]);
    default: return static_cast<const float *>(data)[index];
    }
}

/* Rounds to nearest even. */
__device__ inline void store_element(void *data, int32_t dtype, int64_t index, float value)
{
    if (dtype == HATTN_F16)
        static_cast<__half *>(data)[index] = __float2half_rn(value);
    else if (dtype == HATTN_BF16)
        static_cast<__nv_bfloat16 *>(data)[index] = __float2bfloat16_rn(value);
    else
        static_cast<float *>(data)[index] = value;
}

/* ---- warps and blocks ---- */

__device__ inline int lane_id()
{
    return threadIdx.x & 31;
}

__device__ inline int warp_id()
{
    return threadIdx.x >> 5;
}

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

template <class T>
__device__ inline uint32_t pack2(float low, float high)
{
    uint32_t bits;
    if constexpr (std::is_same_v<T, __half>) {
        const __half2 pair = __floats2half2_rn(low, high);
        memcpy(&bits, &pair, sizeof(bits));
    } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        memcpy(&bits, &pair, sizeof(bits));
    }
    return bits;
}

#ifdef HATTN_PORTABLE

/* Element i (0 or 1) of a register of two. */
template <class T>
__device__ inline float half_of(uint32_t bits, int i)
{
    T pair[2];
    memcpy(pair, &bits, sizeof(bits));
    return to_float(pair[i]);
}

/* c[16 x 8] += a[16 x 16] b[16 x 8]; a, b, c distributed over the warp. */
template <class T>
__device__ inline void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int k = 0; k < 4; k++) { /* the quarter of the inner dimension that lane 4x + k holds */
        const uint32_t r0 = __shfl_sync(kFullMask, a0, 4 * g + k), r1 = __shfl_sync(kFullMask, a1, 4 * g + k);
        const uint32_t r2 = __shfl_sync(kFullMask, a2, 4 * g + k), r3 = __shfl_sync(kFullMask, a3, 4 * g + k);
        for (int n = 0; n < 2; n++) {
            const uint32_t s0 = __shfl_sync(kFullMask, b0, 4 * (2 * t + n) + k), s1 = __shfl_sync(kFullMask, b1, 4 * (2 * t + n) + k);
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
    const uint32_t low = __shfl_sync(kFullMask, x, 4 * (2 * t) + g / 2), high = __shfl_sync(kFullMask, x, 4 * (2 * t + 1) + g / 2);
    return (low >> g % 2 * 16 & 0xffff) | (high >> g % 2 * 16) << 16;
}

#else

template <class T>
__device__ inline void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    if constexpr (std::is_same_v<T, __half>)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint32_t transpose_8x8(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(y) : "r"(x));
    return y;
}

#endif

/* The A fragment (16 x 16) out of shared memory: lane l gives the address of row l % 16, columns 8 * (l / 16) on, of 16 bytes. */
__device__ inline void load_fragment(uint32_t (&a)[4], const void *row)
{
#ifdef HATTN_PORTABLE
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int i = 0; i < 4; i++) { /* lanes 8i..8i+7 have the rows of matrix i */
        const unsigned long long from = __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(row), 8 * i + g);
        memcpy(&a[i], reinterpret_cast<const char *>(from) + 4 * t, sizeof(a[i]));
    }
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

/* ---- popcounts of planes on tensor cores ----
 * m16n8k256 of single bits, and + popcount. A lane (g, t) gives two keys of its own as rows g and g + 8, their words as chunk t of the
 * inner dimension; column 2t' + p of B holds plane p in chunk t' and zeros elsewhere, so that the lane's results are the counts of
 * planes p = 0, 1 of its own keys. No data moves between lanes, and up to two planes cost one instruction a pair of words. */
template <int kWords, int kBlocks> /* 2 or 4 words of a code; up to 2 * kBlocks planes */
class PlaneCounter
{
public:
    /* All lanes. sign, plane: [words], [7][16]. */
    __device__ PlaneCounter(const uint32_t *sign, const uint32_t (*plane)[16], int num_planes)
    {
        for (int w = 0; w < kWords; w++)
            sign_[w] = sign[w];
#ifdef HATTN_PORTABLE
        for (int p = 0; p < 2 * kBlocks; p++)
            for (int w = 0; w < kWords; w++)
                plane_[p][w] = p < num_planes ? plane[p][w] : 0;
#else
        const int g = lane_id() / 4, t = lane_id() % 4;
        for (int b = 0; b < kBlocks; b++)
            for (int w = 0; w < kWords; w++) {
                const int p = 2 * b + g % 2;
                plane_[b][w] = t == g / 2 && p < num_planes ? plane[p][w] : 0;
            }
#endif
    }

    /* sum over planes p of 2^p popcount((key ^ sign) & plane_p) of two keys a lane. All lanes. */
    __device__ void count(const uint32_t (&key0)[kWords], const uint32_t (&key1)[kWords], uint32_t *score0, uint32_t *score1) const
    {
        *score0 = *score1 = 0;
        uint32_t x[kWords], y[kWords];
        for (int w = 0; w < kWords; w++) {
            x[w] = key0[w] ^ sign_[w];
            y[w] = key1[w] ^ sign_[w];
        }
#ifdef HATTN_PORTABLE
        for (int p = 0; p < 2 * kBlocks; p++)
            for (int w = 0; w < kWords; w++) {
                *score0 += __popc(x[w] & plane_[p][w]) << p;
                *score1 += __popc(y[w] & plane_[p][w]) << p;
            }
#else
        for (int b = 0; b < kBlocks; b++) {
            int c[4] = {0, 0, 0, 0};
            for (int w = 0; w < kWords; w += 2)
                asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                             : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                             : "r"(x[w]), "r"(y[w]), "r"(x[w + 1]), "r"(y[w + 1]), "r"(plane_[b][w]), "r"(plane_[b][w + 1]));
            *score0 += static_cast<uint32_t>(c[0] + 2 * c[1]) << 2 * b;
            *score1 += static_cast<uint32_t>(c[2] + 2 * c[3]) << 2 * b;
        }
#endif
    }

private:
    uint32_t sign_[kWords];
#ifdef HATTN_PORTABLE
    uint32_t plane_[2 * kBlocks][kWords];
#else
    uint32_t plane_[kBlocks][kWords];
#endif
};

/* ---- memory and launches ---- */

/* 16 bytes of a row that no other block reads: not kept in L1. */
__device__ inline uint4 load_row16(const void *address)
{
    uint4 v;
#ifdef HATTN_PORTABLE
    v = *static_cast<const uint4 *>(address);
#else
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address));
#endif
    return v;
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

/* Asks for the 128 bytes around an address. */
__device__ inline void prefetch_l2(const void *address)
{
#ifndef HATTN_PORTABLE
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
    static_cast<void>(address);
#endif
}

/* 16 bytes into shared memory while this thread goes on; zeros, and nothing read, where not `is_read`. */
__device__ inline void copy_async16(void *shared, const void *global, bool is_read)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint4 *>(shared) = is_read ? *static_cast<const uint4 *>(global) : uint4{0, 0, 0, 0};
#else
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;"
                 :
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global), "r"(is_read ? 16 : 0)
                 : "memory");
#endif
}

/* The same with 8 bytes. */
__device__ inline void copy_async8(void *shared, const void *global)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint2 *>(shared) = *static_cast<const uint2 *>(global);
#else
    asm volatile("cp.async.ca.shared.global [%0],[%1],8;"
                 :
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global)
                 : "memory");
#endif
}

/* Ends a group of this thread's copies ... */
__device__ inline void commit_copies()
{
#ifndef HATTN_PORTABLE
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* ... and waits until no more than the kPending latest groups are under way. */
template <int kPending>
__device__ inline void wait_for_copies()
{
#ifndef HATTN_PORTABLE
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
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

/* True in every thread of the last of `count` blocks to get here; it then sees what the others wrote before. The counter is
 * zero again afterwards. */
__device__ inline bool arrive_last(uint32_t *counter, uint32_t count)
{
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) == count - 1;
        if (last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

} // namespace hattn

#endif
