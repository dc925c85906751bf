/* SPDX-License-Identifier: Apache-2.0
 * The instructions that kernels_hip/matrix.cuh is written over, beside kernels_hip/instructions.cuh: moves as the
 * ISA documents have them, products by the layouts that AMD publishes (the AMD Matrix Instruction Calculator; the ISA
 * documents of CDNA 3 and RDNA 3; GPUOpen, "Using the Matrix Cores of AMD RDNA 4 architecture GPUs"). Sums are fp32,
 * in the order of the inner dimension.
 */
#ifndef HATTN_TESTS_SIMT_AMD_CUH
#define HATTN_TESTS_SIMT_AMD_CUH

#include <array>

namespace hattn::amd {

struct Quarter {
    uint32_t low, high;
};

template <int kCount>
using Sums = std::array<float, kCount>;

template <int k0, int k1, int k2, int k3>
inline Quarter from_quad(Quarter x, simt::Place place = SIMT_HERE)
{
    return vendor::together("from_quad", x, place, [](auto of, unsigned lane) {
        constexpr unsigned from[4] = {k0, k1, k2, k3};
        return of((lane & 28) | from[lane & 3]);
    });
}

template <int kMask>
inline Quarter from_near(Quarter x, simt::Place place = SIMT_HERE)
{
    return vendor::from_partner(x, kMask, place);
}

template <class T>
inline float element(Quarter x, unsigned k)
{
    return plain::half_of<T>(k < 2 ? x.low : x.high, static_cast<int>(k % 2));
}

/* Lane l has of block l / 4: row l % 4 of a, column l % 4 of b, four places of the inner dimension each; of the sums
 * column l % 4, register r is row r. cbsz 2: four blocks, from a multiple of four on, take the a of one of them, abid.
 * The wave's other warp has to be here, too, since its registers are written; what it multiplies is no number for this one. */
template <class T, int kBlock>
inline void mfma_4x4x4(Sums<4> &sums, Quarter a, Quarter b, simt::Place place = SIMT_HERE)
{
    struct Operands {
        Quarter a, b;
    };
    vendor::together_in_wave("mfma_4x4x4", Operands{a, b}, place, [&](auto of, unsigned) {
        const unsigned l = threadIdx.x & 63, block = l / 4;
        const auto lane = [&](unsigned other) {
            const Quarter nan = {0xffffffffu, 0xffffffffu};
            return other / 32 == l / 32 ? of(other & 31) : Operands{nan, nan};
        };
        for (unsigned r = 0; r < 4; r++) {
            const Quarter row = lane((block / 4 * 4 + kBlock) * 4 + r).a, column = lane(block * 4 + l % 4).b;
            for (unsigned k = 0; k < 4; k++)
                sums[r] += element<T>(row, k) * element<T>(column, k);
        }
        return 0;
    });
}

/* gfx11 (four quarters): lane l has row l % 16 of a and column l % 16 of b, and the lane 16 further the same; of the
 * sums column l % 16, register r is row 2r + l / 16. gfx12 (two): lanes below 16 have the first half of the inner
 * dimension, the others the second; register r is row r + l / 16 * 8. */
template <class T, int kQuarters>
inline Sums<8> wmma(const Quarter (&a)[kQuarters], const Quarter (&b)[kQuarters], simt::Place place = SIMT_HERE)
{
    struct Operands {
        Quarter a[kQuarters], b[kQuarters];
    } own;
    memcpy(own.a, a, sizeof(a));
    memcpy(own.b, b, sizeof(b));
    return vendor::together("wmma", own, place, [&](auto of, unsigned l) {
        if (kQuarters == 4) {
            const Operands other = of(l ^ 16);
            if (memcmp(&other, &own, sizeof(own)))
                simt::stop("a product's operands that lanes do not repeat", place);
        }
        Sums<8> sums = {};
        for (unsigned r = 0; r < 8; r++)
            for (unsigned k = 0; k < 16; k++) {
                const unsigned row = kQuarters == 4 ? 2 * r + l / 16 : r + l / 16 * 8,
                               half = kQuarters == 4 ? l / 16 : k / 8;
                const Operands x = of(row + 16 * half), y = of(l % 16 + 16 * half);
                sums[r] += element<T>(x.a[k / 4 % kQuarters], k % 4) * element<T>(y.b[k / 4 % kQuarters], k % 4);
            }
        return sums;
    });
}

} // namespace hattn::amd

#endif
