/* SPDX-License-Identifier: Apache-2.0
 * Popcounts of planes: on tensor cores, where those have products of single bits.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_PLANES_CUH
#define HATTN_KERNELS_CUDA_DECODE_PLANES_CUH

#include "kernels_cuda/device/device.cuh"

namespace hattn {

/* m16n8k256 of single bits, and + popcount. A lane (g, t) gives two keys of its own as rows g and g + 8, their words
 * as chunk t of the inner dimension; column 2t' + p of B holds plane p in chunk t' and zeros elsewhere, so that the
 * lane's results are the counts of planes p = 0, 1 of its own keys. No data moves between lanes, and up to two planes
 * cost one instruction a pair of words. */
template <int kWords, int kBlocks> /* words of a code; up to 2 * kBlocks planes, 7 in all */
class PlaneCounter
{
public:
    /* All lanes. sign, plane: [words], [7][16]. */
    __device__ PlaneCounter(const uint32_t *sign, const uint32_t (*plane)[16], int num_planes)
    {
        for (int w = 0; w < kWords; w++)
            sign_[w] = sign[w];
#if !HATTN_HAS_MMA_B1
        for (int p = 0; p < 2 * kBlocks; p++)
            for (int w = 0; w < kWords; w++)
                plane_[p][w] = p < num_planes ? plane[p][w] : 0;
#else
        const Fragment at;
        for (int b = 0; b < kBlocks; b++)
            for (int w = 0; w < kWords; w++) {
                const int p = 2 * b + at.b_column() % 2;
                plane_[b][w] = at.pair == at.b_column() / 2 && p < num_planes ? plane[p][w] : 0;
            }
#endif
    }

    /* sum over planes p of 2^p popcount((key ^ sign) & plane_p) of two keys a lane. All lanes. */
    __device__ void count(const uint32_t (&key0)[kWords], const uint32_t (&key1)[kWords], uint32_t *score0,
                          uint32_t *score1) const
    {
        *score0 = *score1 = 0;
        uint32_t x[kWords], y[kWords];
        for (int w = 0; w < kWords; w++) {
            x[w] = key0[w] ^ sign_[w];
            y[w] = key1[w] ^ sign_[w];
        }
#if !HATTN_HAS_MMA_B1
        for (int p = 0; p < 2 * kBlocks; p++)
            for (int w = 0; w < kWords; w++) {
                *score0 += count_ones(x[w] & plane_[p][w]) << p;
                *score1 += count_ones(y[w] & plane_[p][w]) << p;
            }
#else
        for (int b = 0; b < kBlocks; b++) {
            int c[4] = {0, 0, 0, 0};
            for (int w = 0; w < kWords; w += 2) {
                const int other = w + 1 < kWords ? w + 1 : w; /* a lone word against zeros */
                mma_b1(c, x[w], y[w], x[other], y[other], plane_[b][w], w + 1 < kWords ? plane_[b][other] : 0);
            }
            *score0 += static_cast<uint32_t>(c[0] + 2 * c[1]) << 2 * b;
            *score1 += static_cast<uint32_t>(c[2] + 2 * c[3]) << 2 * b;
        }
#endif
    }

private:
    uint32_t sign_[kWords];
#if !HATTN_HAS_MMA_B1
    uint32_t plane_[2 * kBlocks][kWords];
#else
    uint32_t plane_[kBlocks][kWords];
#endif
};

} // namespace hattn

#endif
