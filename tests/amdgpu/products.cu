/* SPDX-License-Identifier: Apache-2.0
 * The dialect's products of matrices, whose results products_test.cc knows, for clang alone.
 */
#include "kernels_hip/hip.cuh"

namespace hattn::vendor {

template <class T>
__device__ inline T small(uint32_t x)
{
    const float value = static_cast<float>(static_cast<int>(x % 17) - 8);
    if constexpr (std::is_same_v<T, float16>)
        return to_float16(value);
    else
        return to_bfloat16(value);
}

/* Four warps: 1 + a b as often as a warp's digit in `turns` says, of a (16 x 16) and b (16 x 8) of their own in `in`. Fragments
 * come from shared memory, a's as its rows or its columns lie there. kTogether: turns are those of waves. */
template <class T, bool kColumns, bool kTogether>
__device__ inline void multiply(const uint32_t *in, uint64_t *out, unsigned turns)
{
    constexpr int kRow = 24;
    __shared__ __align__(16) T a[4][16 * kRow], b[4][8 * kRow];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t *own = in + warp * 384;
    for (unsigned i = lane; i < 256; i += 32)
        a[warp][kColumns ? i % 16 * kRow + i / 16 : i / 16 * kRow + i % 16] = small<T>(own[i]);
    for (unsigned i = lane; i < 128; i += 32)
        b[warp][i % 8 * kRow + i / 8] = small<T>(own[256 + i]);
    __syncthreads();
    const unsigned own_turns = turns >> 4 * warp & 15;
    float c[4] = {1.0f, 1.0f, 1.0f, 1.0f};
#pragma unroll 1
    for (unsigned turn = 0; kTogether ? any_of_wave(turn < own_turns) : turn < own_turns; turn++) {
        uint32_t x[4], y[2];
        if (kColumns)
            load_transposed(x, &a[warp][(lane % 8 + lane / 16 * 8) * kRow + lane / 8 % 2 * 8]);
        else
            load_matrices(x, &a[warp][lane % 16 * kRow + lane / 16 * 8]);
        load_matrices(y, &b[warp][lane % 8 * kRow + lane / 8 % 2 * 8]);
        if (turn >= own_turns)
            y[0] = y[1] = 0;
        mma_16816<T>(c, x[0], x[1], x[2], x[3], y[0], y[1]);
    }
    for (unsigned i = 0; i < 4; i++)
        out[warp * 128 + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = bits_of(c[i]);
}

#define PRODUCTS(name, T, columns, together, turns)                    \
    extern "C" __global__ void name(const uint32_t *in, uint64_t *out) \
    {                                                                  \
        multiply<T, columns, together>(in, out, turns);                \
    }
PRODUCTS(rows_float16, float16, false, true, 0x1111)
PRODUCTS(rows_bfloat16, bfloat16, false, true, 0x1111)
PRODUCTS(columns_float16, float16, true, true, 0x1111)
PRODUCTS(columns_bfloat16, bfloat16, true, true, 0x1111)
PRODUCTS(together, float16, false, true, 0x3201)
PRODUCTS(apart, float16, false, false, 0x3201)

} // namespace hattn::vendor
