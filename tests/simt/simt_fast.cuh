/* SPDX-License-Identifier: Apache-2.0
 * The dialect for the engine of this folder, where it looks closer than kernels_cuda/device/plain.cuh: the sections of
 * kernels_cuda/device/cuda_fast.cuh in their order. What goes over a warp is one meeting of it; copies into shared memory land when they
 * are waited for; addresses of what is moved at once are aligned.
 */
#ifndef HATTN_TESTS_SIMT_SIMT_FAST_CUH
#define HATTN_TESTS_SIMT_SIMT_FAST_CUH

namespace hattn::vendor {

/* ---- bits ---- */

inline int count_ones(uint32_t x) { return __builtin_popcount(x); }

inline int lowest_one(uint32_t x) { return __builtin_ctz(x); }

inline int bit_width(uint32_t x) { return x ? 32 - __builtin_clz(x) : 0; }

using plain::compute_now;
using plain::equal_halves;
using plain::fast_exp;
using plain::fast_inverse;
using plain::high_product;
using plain::permute_bytes;
using plain::uniform;

#define HATTN_HAS_E4M3 0

/* ---- over a warp ---- */

template <class T, class F>
inline T reduced(const char *kind, T x, simt::Place place, F f)
{
    return together(kind, x, place, [&](auto of, unsigned) {
        T all = of(0);
        for (unsigned lane = 1; lane < 32; lane++)
            all = f(all, of(lane));
        return all;
    });
}

inline uint32_t ballot(bool yes, simt::Place place = SIMT_HERE)
{
    return reduced("ballot", yes ? 1u << (threadIdx.x & 31) : 0u, place, [](uint32_t x, uint32_t y) { return x | y; });
}

inline bool all_alike(uint32_t x, simt::Place place = SIMT_HERE)
{
    return together("all_alike", x, place, [](auto of, unsigned) {
        for (unsigned lane = 1; lane < 32; lane++)
            if (of(lane) != of(0))
                return false;
        return true;
    });
}

inline uint32_t warp_or(uint32_t x, simt::Place place = SIMT_HERE)
{
    return reduced("warp_or", x, place, [](uint32_t y, uint32_t z) { return y | z; });
}

inline int32_t warp_least(int32_t x, simt::Place place = SIMT_HERE)
{
    return reduced("warp_least", x, place, [](int32_t y, int32_t z) { return y < z ? y : z; });
}

inline int32_t warp_largest(int32_t x, simt::Place place = SIMT_HERE)
{
    return reduced("warp_largest", x, place, [](int32_t y, int32_t z) { return y > z ? y : z; });
}

inline uint32_t warp_total(uint32_t x, simt::Place place = SIMT_HERE)
{
    return reduced("warp_total", x, place, [](uint32_t y, uint32_t z) { return y + z; });
}

inline float warp_max_magnitude(float x, simt::Place place = SIMT_HERE)
{
    return reduced("warp_max_magnitude", x, place, [](float y, float z) { return fmaxf(y, z); });
}

/* ---- loads and copies ---- */

inline void check_aligned(const void *address, size_t size, simt::Place place)
{
    if (reinterpret_cast<uintptr_t>(address) % size)
        simt::stop("an address that is no multiple of the size of what is there", place);
}

/* As one access, which the compiler does not move. */
template <class T>
inline T load_whole(const void *address, simt::Place place)
{
    check_aligned(address, sizeof(T), place);
    T x;
    memcpy(&x, address, sizeof(x));
    asm volatile("" ::: "memory");
    return x;
}

inline int32_t load_now(const int32_t *address, simt::Place place = SIMT_HERE)
{
    simt::maybe_switch();
    return load_whole<int32_t>(address, place);
}

template <class T>
inline T load_l2(const T *address, simt::Place place = SIMT_HERE)
{
    simt::maybe_switch();
    return load_whole<T>(address, place);
}

template <class T>
inline T load_constant(const T *address, simt::Place place = SIMT_HERE)
{
    return load_whole<T>(address, place);
}

inline uint4 load_row16(const void *address, simt::Place place = SIMT_HERE)
{
    return load_whole<uint4>(address, place);
}

inline void copy_async16(void *shared, const void *global, bool present, simt::Place place = SIMT_HERE)
{
    check_aligned(shared, 16, place);
    if (present)
        check_aligned(global, 16, place);
    simt::copy_later(shared, present ? global : nullptr, 16);
}

inline void copy_async4(void *shared, const void *global, simt::Place place = SIMT_HERE)
{
    check_aligned(shared, 4, place);
    check_aligned(global, 4, place);
    simt::copy_later(shared, global, 4);
}

inline void copy_async8(void *shared, const void *global, simt::Place place = SIMT_HERE)
{
    check_aligned(shared, 8, place);
    check_aligned(global, 8, place);
    simt::copy_later(shared, global, 8);
}

inline void copy_commit() { simt::copy_commit(); }

inline void copy_wait(int pending) { simt::copy_wait(pending); }

template <int kCount>
inline void load_streamed(uint32_t (&words)[kCount], const void *address, simt::Place place = SIMT_HERE)
{
    check_aligned(address, sizeof(words), place);
    memcpy(words, address, sizeof(words));
}

inline uint32_t load_streamed(const uint32_t *address, simt::Place place = SIMT_HERE)
{
    return load_whole<uint32_t>(address, place);
}

inline float16 load_streamed(const float16 *address, simt::Place place = SIMT_HERE)
{
    return load_whole<float16>(address, place);
}

using plain::prefetch_line;

/* ---- matrices ---- */

template <class T>
inline void mma_by_cuda(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                        simt::Place place)
{
    struct Halves {
        float a[4][2], b[2][2]; /* registers' elements */
    };
    const uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    Halves own;
    for (int i = 0; i < 2; i++) {
        for (int r = 0; r < 4; r++)
            own.a[r][i] = plain::half_of<T>(a[r], i);
        for (int r = 0; r < 2; r++)
            own.b[r][i] = plain::half_of<T>(b[r], i);
    }
    together("mma_16816", own, place, [&](auto of, unsigned lane) {
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned k = 0; k < 4; k++) { /* the quarter of the inner dimension that lane 4x + k holds */
            const Halves x = of(4 * g + k);
            for (unsigned n = 0; n < 2; n++) {
                const Halves y = of(4 * (2 * t + n) + k);
                for (int i = 0; i < 2; i++) {
                    c[n] += x.a[0][i] * y.b[0][i] + x.a[2][i] * y.b[1][i];
                    c[n + 2] += x.a[1][i] * y.b[0][i] + x.a[3][i] * y.b[1][i];
                }
            }
        }
        return 0;
    });
}

template <class T>
inline void mma_16816(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                      simt::Place place = SIMT_HERE)
{
    switch (simt::config().matrices) {
    case simt::Matrices::CUDA: return mma_by_cuda<T>(c, a0, a1, a2, a3, b0, b1, place);
    case simt::Matrices::MFMA: return amd::mma_by_mfma<T>(c, a0, a1, a2, a3, b0, b1);
    case simt::Matrices::WMMA_GFX11: return amd::mma_by_wmma<T, 11>(c, a0, a1, a2, a3, b0, b1);
    case simt::Matrices::WMMA_GFX12: return amd::mma_by_wmma<T, 12>(c, a0, a1, a2, a3, b0, b1);
    }
}

inline uint32_t transpose_8x8(uint32_t x, simt::Place place = SIMT_HERE)
{
    return together("transpose_8x8", x, place, [](auto of, unsigned lane) {
        const unsigned g = lane / 4, t = lane % 4;
        return (of(8 * t + g / 2) >> g % 2 * 16 & 0xffff) | (of(8 * t + 4 + g / 2) >> g % 2 * 16) << 16;
    });
}

/* Element (row, column) of matrix i of those whose rows the lanes point at. */
template <class Of>
inline uint32_t element_of(Of of, unsigned i, unsigned row, unsigned column)
{
    uint16_t x;
    memcpy(&x, of(8 * i + row) + column * sizeof(x), sizeof(x));
    return x;
}

template <int kCount> /* 2 or 4 */
inline void load_matrices(uint32_t (&x)[kCount], const void *row, simt::Place place = SIMT_HERE)
{
    if ((threadIdx.x & 31) < 8 * kCount)
        check_aligned(row, 16, place);
    together("load_matrices", static_cast<const char *>(row), place, [&](auto of, unsigned lane) {
        for (unsigned i = 0; i < kCount; i++)
            x[i] = element_of(of, i, lane / 4, lane % 4 * 2) | element_of(of, i, lane / 4, lane % 4 * 2 + 1) << 16;
        return 0;
    });
}

template <int kCount>
inline void load_transposed(uint32_t (&x)[kCount], const void *row, simt::Place place = SIMT_HERE)
{
    if ((threadIdx.x & 31) < 8 * kCount)
        check_aligned(row, 16, place);
    together("load_transposed", static_cast<const char *>(row), place, [&](auto of, unsigned lane) {
        for (unsigned i = 0; i < kCount; i++)
            x[i] = element_of(of, i, lane % 4 * 2, lane / 4) | element_of(of, i, lane % 4 * 2 + 1, lane / 4) << 16;
        return 0;
    });
}

/* AMD has none: of its way to count, this is the only test. */
#define HATTN_HAS_MMA_B1 0
/* ---- between threads and blocks ---- */

using plain::SharedCounters;

inline int64_t device_time() { return cycles(); }

inline uint32_t arrive(uint32_t *counter)
{
    simt::fence();
    return atomic_add(counter, 1u);
}

using plain::count_up;

inline void send(uint32_t *to, uint32_t x) { simt::store_later(to, x); }

/* Hardware may store words of 8 and 16 bytes one by one. */
inline void send(uint32_t *to, uint2 x, simt::Place place = SIMT_HERE)
{
    check_aligned(to, 8, place);
    send(to, x.x);
    send(to + 1, x.y);
}

inline void send(uint32_t *to, uint4 x, simt::Place place = SIMT_HERE)
{
    check_aligned(to, 16, place);
    send(to, uint2{x.x, x.y}, place);
    send(to + 2, uint2{x.z, x.w}, place);
}

inline uint32_t receive(const uint32_t *from, simt::Place place = SIMT_HERE) { return atomic_read(from, place); }

inline uint2 receive_two(const uint32_t *from, simt::Place place = SIMT_HERE)
{
    check_aligned(from, 8, place);
    return {receive(from, place), receive(from + 1, place)};
}

inline uint4 receive_four(const uint32_t *from, simt::Place place = SIMT_HERE)
{
    check_aligned(from, 16, place);
    return {receive(from, place), receive(from + 1, place), receive(from + 2, place), receive(from + 3, place)};
}

inline void pause(simt::Place place = SIMT_HERE) { simt::look(place); }

} // namespace hattn::vendor

#endif
