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
#include "kernels_cuda/params.h"

namespace hattn {

constexpr int kThreads = 256; /* of every block */
constexpr int kWarps = kThreads / 32;
constexpr int kList = 512; /* positions that an attend block finds at a time */
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
template <class T>
__device__ inline T from_float(float x)
{
    if constexpr (std::is_same_v<T, __half>)
        return __float2half_rn(x);
    else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __float2bfloat16_rn(x);
    else
        return x;
}

__device__ inline void store_element(void *data, int32_t dtype, int64_t index, float value)
{
    if (dtype == HATTN_F16)
        static_cast<__half *>(data)[index] = from_float<__half>(value);
    else if (dtype == HATTN_BF16)
        static_cast<__nv_bfloat16 *>(data)[index] = from_float<__nv_bfloat16>(value);
    else
        static_cast<float *>(data)[index] = value;
}

/* ---- warps and blocks ---- */

__device__ inline int lane_id()
{
    return threadIdx.x & 31;
}

/* A mask of the lanes before this one. */
__device__ inline uint32_t lanes_below()
{
    return (1u << lane_id()) - 1;
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
    __device__ explicit SharedCounters(uint32_t *first) : first_(static_cast<uint32_t>(__cvta_generic_to_shared(first))) {}
    __device__ void count(uint32_t index) const { asm volatile("red.shared.add.u32 [%0],1;" ::"r"(first_ + 4 * index) : "memory"); }

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

/* Stores four neighbours of a row of q's kind of output. */
__device__ inline void store_elements(void *data, int32_t dtype, int64_t index, float4 x)
{
    char *to = static_cast<char *>(data) + index * (dtype == HATTN_F32 ? 4 : 2);
    const uintptr_t address = reinterpret_cast<uintptr_t>(to);
    if (dtype == HATTN_F32 && address % sizeof(float4) == 0) {
        *reinterpret_cast<float4 *>(to) = x;
    } else if (dtype != HATTN_F32 && address % sizeof(uint2) == 0) {
        const bool half = dtype == HATTN_F16;
        const uint32_t low = half ? pack2<__half>(x.x, x.y) : pack2<__nv_bfloat16>(x.x, x.y), high = half ? pack2<__half>(x.z, x.w) : pack2<__nv_bfloat16>(x.z, x.w);
        *reinterpret_cast<uint2 *>(to) = make_uint2(low, high);
    } else { /* rows may start anywhere */
#pragma unroll 1
        for (int i = 0; i < 4; i++)
            store_element(data, dtype, index + i, i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w);
    }
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
        x[i] = reinterpret_cast<const uint16_t *>(low)[g] | static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(high)[g]) << 16;
    }
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
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(address) : "memory");
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
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(address) : "memory");
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

/* ---- popcounts of planes on tensor cores ----
 * m16n8k256 of single bits, and + popcount. A lane (g, t) gives two keys of its own as rows g and g + 8, their words as chunk t of the
 * inner dimension; column 2t' + p of B holds plane p in chunk t' and zeros elsewhere, so that the lane's results are the counts of
 * planes p = 0, 1 of its own keys. No data moves between lanes, and up to two planes cost one instruction a pair of words. */
template <int kWords, int kBlocks> /* words of a code; up to 2 * kBlocks planes, 7 in all */
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
            for (int w = 0; w < kWords; w += 2) {
                const int other = w + 1 < kWords ? w + 1 : w; /* a lone word against zeros */
                asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                             : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                             : "r"(x[w]), "r"(y[w]), "r"(x[other]), "r"(y[other]), "r"(plane_[b][w]), "r"(w + 1 < kWords ? plane_[b][other] : 0));
            }
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

/* 16 bytes of global memory into shared memory, without passing registers or L1; zeros (and no read) where not `present`. Copies since the last
 * copy_commit are a group; copy_wait returns when all groups but the last `pending` (0, 1 or 2) have landed, for this thread. */
__device__ inline void copy_async16(void *shared, const void *global, bool present)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint4 *>(shared) = present ? *static_cast<const uint4 *>(global) : uint4{};
#else
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(present ? 16 : 0)
                 : "memory");
#endif
}

/* The same for 4 bytes, through L1. */
__device__ inline void copy_async4(void *shared, const void *global)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint32_t *>(shared) = *static_cast<const uint32_t *>(global);
#else
    asm volatile("cp.async.ca.shared.global [%0],[%1],4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
#endif
}

/* The same for 8 bytes. */
__device__ inline void copy_async8(void *shared, const void *global)
{
#ifdef HATTN_PORTABLE
    *static_cast<uint2 *>(shared) = *static_cast<const uint2 *>(global);
#else
    asm volatile("cp.async.ca.shared.global [%0],[%1],8;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
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

/* True in every thread of the last of `count` blocks to get here; it then sees what the others wrote before. The counter is
 * zero again afterwards. */
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
