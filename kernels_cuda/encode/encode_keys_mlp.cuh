/* SPDX-License-Identifier: Apache-2.0
 * Codes of many keys by an MLP map, on tensor cores: keys and map of one 16-bit type, at most 128 dims, hidden units
 * and bits.
 *
 * Hidden activations are fp32 and stay so: each is the sum of three bf16 numbers (3 * 8 bits of mantissa, and the range
 * of fp32), an fp16 weight that of two, so that every product of parts is exact, and the one left out (third part by
 * second) is below 2^-24 of the whole. Sums of small parts are kept apart from those of large ones, so that rounding is
 * what fp32 sums round. A product costs 3 (bf16) or 5 (fp16) times the mma; with plain loops a block fetched 72 KiB of
 * map for every few keys.
 *
 * Activations live in shared memory, in place: all warps have read a layer's inputs before its outputs are written. A
 * warp owns 16 or 32 tokens and 16 or 32 outputs, and reads its weights from L2, a step ahead.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_ENCODE_KEYS_MLP_CUH
#define HATTN_KERNELS_CUDA_ENCODE_ENCODE_KEYS_MLP_CUH

#include "kernels_cuda/encode/encode_tiles.cuh"
#include "kernels_cuda/encode/key_encoders.h"

namespace hattn {

/* x as a sum of bf16 numbers: takes the largest part off, of two neighbours at once. */
__device__ inline uint32_t take_bf16(float &low, float &high)
{
    const uint32_t part = pack2<bfloat16>(low, high);
    low -= float_of_bits(part << 16);
    high -= float_of_bits(part & 0xffff0000u);
    return part;
}

template <class T, int kStages> /* 2 or 3 */
class MlpEncoder
{
public:
    static constexpr int kDims = HATTN_MLP_DIMS, kParts = HATTN_MLP_PARTS, kTokens = HATTN_MLP_TOKENS;
    static constexpr int kChunks = kDims * 2 / 16;
    static constexpr int kWeightParts = std::is_same_v<T, float16> ? 2 : 1;
    using Tile = KeyTile<T, kChunks, kTokens, kStages, kDims / 32, kWarps>;

    struct Space {
        typename Tile::Space tiles;
        uint4 hidden[kParts][kTokens * kChunks]; /* in the places of keys */
        float bias[3][kDims];
    };

    __device__ MlpEncoder(const hattn_problem &p, const hattn_encode_keys_args &args, const KeyShare &share,
                          Space &space)
        : p_(p), args_(args), share_(share), space_(space)
    {
    }

    __device__ void run()
    {
        KeyTiles<Tile> tiles(p_, args_, share_, space_.tiles);
        tiles.walk([&] { load_bias(); },
                   [&](const uint4 *keys, uint32_t *codes) {
                       layer<true>(0, keys, codes);
                       layer<false>(1, keys, codes);
                       layer<false>(2, keys, codes);
                   });
    }

private:
    __device__ int num_outputs(int index) const { return index == 2 ? p_.code_bits : p_.key_map.hidden[index]; }

    __device__ void load_bias()
    {
        for (int i = threadIdx.x; i < 3 * kDims; i += kThreads) {
            const int index = i / kDims, o = i % kDims;
            const T *bias = static_cast<const T *>(hattn_address(args_.key_map.bias[index])) +
                            share_.head * p_.key_map.bias_stride[index];
            space_.bias[index][o] = o < num_outputs(index) ? to_float(bias[o]) : 0.0f;
        }
    }

    /* The warps' shares of 64 tokens and up to 32, 64 or 128 outputs. */
    template <bool kIsFirst>
    __device__ void layer(int index, const uint4 *keys, uint32_t *codes)
    {
        const int outputs = num_outputs(index);
        if (outputs <= 32)
            layer<kIsFirst, 1, 2>(index, keys, codes);
        else if (outputs <= 64)
            layer<kIsFirst, 1, 4>(index, keys, codes);
        else
            layer<kIsFirst, 2, 4>(index, keys, codes);
    }

    /* kRows times 16 tokens and kBlocks times 8 outputs a warp. */
    template <bool kIsFirst, int kRows, int kBlocks>
    __device__ void layer(int index, const uint4 *keys, uint32_t *codes)
    {
        constexpr int kColumns = kWarps / (kTokens / 16 / kRows); /* warps side by side */
        const int first_row = warp_id() / kColumns * kRows * 16, first_output = warp_id() % kColumns * kBlocks * 8;
        float z[kRows][kBlocks][4] = {};
        multiply<kIsFirst>(index, keys, first_row, first_output, z);
        const float *bias = &space_.bias[index][first_output + 2 * kBlocks * Fragment().pair];
#pragma unroll
        for (int m = 0; m < kRows; m++)
#pragma unroll
            for (int j = 0; j < kBlocks; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    z[m][j][i] += bias[2 * j + i % 2];
        if (index == 2) {
            pack(codes, first_row, first_output, z);
            return; /* hidden units are written again behind the next tile's barrier */
        }
        if (!kIsFirst)
            __syncthreads();
        store_hidden(first_row, first_output, z);
        __syncthreads();
    }

    /* z = inputs times weights, of the tile's keys or of the hidden units. Block j's column 2t + c is output 2 *
     * kBlocks * t + 2j + c. */
    template <bool kIsFirst, int kRows, int kBlocks>
    __device__ void multiply(int index, const uint4 *keys, int first_row, int first_output,
                             float (&z)[kRows][kBlocks][4]) const
    {
        const Fragment at;
        const int outputs = num_outputs(index);
        const int inputs = kIsFirst ? p_.head_dim_qk : p_.key_map.hidden[index - 1], steps = (inputs + 15) / 16;
        const int64_t stride = p_.key_map.weight_stride[index][1];
        const T *weight = static_cast<const T *>(hattn_address(args_.key_map.weight[index])) +
                          share_.head * p_.key_map.weight_stride[index][0];
        const int output = first_output + 2 * kBlocks * (at.b_column() / 2);
        uint32_t next[4][kBlocks];
        auto fetch = [&](int step) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int input = step * 16 + at.b_inner(i / 2) + i % 2;
                load_map_pairs(next[i], weight + input * stride, input < inputs, output, outputs);
            }
        };
        float small[kRows][kBlocks][4] = {};
        fetch(0);
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            uint32_t b[kBlocks][2];
#pragma unroll
            for (int j = 0; j < kBlocks; j++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    b[j][half] =
                        permute_bytes(next[2 * half][j], next[2 * half + 1][j], at.b_column() % 2 ? 0x7632 : 0x5410);
            if (step + 1 < steps)
                fetch(step + 1);
            const int row = first_row + Fragment::a_source_row(), chunk = 2 * step + Fragment::a_source_chunk();
            if constexpr (kIsFirst) {
#pragma unroll
                for (int m = 0; m < kRows; m++) {
                    uint32_t a[4];
                    load_matrices(a, &keys[Tile::place(row + m * 16, chunk)]);
#pragma unroll
                    for (int j = 0; j < kBlocks; j++)
                        mma_16816<T>(z[m][j], a[0], a[1], a[2], a[3], b[j][0], b[j][1]);
                }
            } else {
                uint32_t parts[kWeightParts][kBlocks][2];
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        split(b[j][half], parts, j, half);
#pragma unroll
                for (int m = 0; m < kRows; m++)
#pragma unroll
                    for (int part = 0; part < kParts; part++) {
                        uint32_t a[4];
                        load_matrices(a, &space_.hidden[part][Tile::place(row + m * 16, chunk)]);
#pragma unroll
                        for (int w = 0; w < kWeightParts; w++)
#pragma unroll
                            for (int j = 0; j < kBlocks; j++)
                                if (part + w == 0)
                                    mma_16816<bfloat16>(z[m][j], a[0], a[1], a[2], a[3], parts[w][j][0],
                                                        parts[w][j][1]);
                                else if (part + w < kParts)
                                    mma_16816<bfloat16>(small[m][j], a[0], a[1], a[2], a[3], parts[w][j][0],
                                                        parts[w][j][1]);
                    }
            }
        }
#pragma unroll
        for (int m = 0; m < kRows; m++)
#pragma unroll
            for (int j = 0; j < kBlocks; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    z[m][j][i] += small[m][j][i];
    }

    /* Two weights as their bf16 parts. */
    template <int kBlocks>
    __device__ static void split(uint32_t pair, uint32_t (&parts)[kWeightParts][kBlocks][2], int j, int half)
    {
        if constexpr (kWeightParts == 1) {
            parts[0][j][half] = pair;
        } else {
            T two[2];
            memcpy(two, &pair, sizeof(two));
            float low = to_float(two[0]), high = to_float(two[1]);
#pragma unroll
            for (int w = 0; w < kWeightParts; w++)
                parts[w][j][half] = take_bf16(low, high);
        }
    }

    /* SiLU of what a warp has, in parts: a lane has 2 * kBlocks consecutive units of two tokens a fragment. */
    template <int kRows, int kBlocks>
    __device__ void store_hidden(int first_row, int first_output, float (&z)[kRows][kBlocks][4])
    {
        const Fragment at;
        const int output = first_output + 2 * kBlocks * at.pair;
#pragma unroll
        for (int m = 0; m < kRows; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float x[kBlocks][2];
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        const float v = z[m][j][2 * i + c];
                        x[j][c] = v / (1.0f + expf(-v));
                    }
                const int place = Tile::place(first_row + m * 16 + at.row(2 * i), output / 8);
#pragma unroll
                for (int part = 0; part < kParts; part++) {
                    uint32_t words[kBlocks];
#pragma unroll
                    for (int j = 0; j < kBlocks; j++)
                        words[j] = take_bf16(x[j][0], x[j][1]);
                    char *to = reinterpret_cast<char *>(&space_.hidden[part][place]) + output % 8 * 2;
                    memcpy(__builtin_assume_aligned(to, sizeof(words)), words, sizeof(words));
                }
            }
    }

    template <int kRows, int kBlocks>
    __device__ void pack(uint32_t *codes, int first_row, int first_output, const float (&z)[kRows][kBlocks][4]) const
    {
        constexpr int kLaneBits = 2 * kBlocks;
        const Fragment at;
#pragma unroll
        for (int m = 0; m < kRows; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t code = 0;
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
#pragma unroll
                    for (int c = 0; c < 2; c++)
                        if (z[m][j][2 * i + c] > 0.0f)
                            code |= 1u << (2 * j + c);
                code <<= kLaneBits * at.pair;
                code = Fragment::group_or(code);
                uint32_t *to = &codes[(first_row + m * 16 + at.row(2 * i)) * Tile::kWords];
                if (at.pair == 0 && kBlocks == 4)
                    to[first_output / 32] = code;
                else if (at.pair == 0)
                    reinterpret_cast<uint16_t *>(to)[first_output / 16] = static_cast<uint16_t>(code);
            }
    }

    const hattn_problem &p_;
    const hattn_encode_keys_args &args_;
    const KeyShare &share_;
    Space &space_;
};

} // namespace hattn

#endif
