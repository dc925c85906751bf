/* SPDX-License-Identifier: Apache-2.0
 * Codes of many keys by a linear map, on tensor cores: keys and map of one 16-bit type, or fp8 keys and an fp16 map.
 *
 * z = K W: tokens are the rows of A, bits the columns of B, so that a lane of the result holds bits of two keys. A warp
 * owns 8 * kBlocks bits and keeps their part of the map in registers (kSteps * kBlocks * 2 of them) for as long as it
 * lives; a block walks over tiles of kTokens keys of one head, which its warps share through shared memory.
 *
 * A key of 128 dims is 256 bytes and, at 128 bits, 32768 operations: a device that reads 4.6 TB/s would need 590
 * Tflop/s to keep up, mma.sync gives about that much on sm_90 and half of it, beside half of the bandwidth, on sm_80.
 * So up to 64 bits the kernel is bound by memory, from 128 bits on by tensor cores, and what must not bind it is shared
 * memory: a fragment of 512 bytes takes 4 cycles of a multiprocessor's and feeds kBlocks mma of 6.5 cycles (sm_90) of a
 * quarter's each: with four warps 16 cycles against 26 at 32 bits a warp. Signs cost 2 instructions for every 32 of
 * them, against 0.25 * kSteps mma: less.
 *
 * Bits are dealt to columns so that a lane's are consecutive (block j, column 2t + c of lanes t: bit 2 * kBlocks * t +
 * 2j + c of the warp), which makes packing an or over four lanes and the map's loads whole 16 bytes.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_ENCODE_KEYS_MMA_CUH
#define HATTN_KERNELS_CUDA_ENCODE_ENCODE_KEYS_MMA_CUH

#include "kernels_cuda/encode/encode_tiles.cuh"

namespace hattn {

/* K: of keys, T: of the map and of tensor cores. */
template <class K, class T, int kSteps, int kBlocks, int kNumWarps, int kNumTokens, int kNumStages>
class KeyEncoder
{
public:
    static constexpr int kWarpBits = 8 * kBlocks, kBits = kNumWarps * kWarpBits; /* of a block */
    using Tile = KeyTile<K, kSteps * sizeof(K), kNumTokens, kNumStages, kBits / 32, kNumWarps>;
    static constexpr bool kIsFp8 = Tile::kIsFp8;
    static constexpr int kChunks = Tile::kChunks, kTokens = Tile::kTokens, kLanes = Tile::kLanes;

    struct Space {
        typename Tile::Space tiles;
        float thresholds[kBits]; /* minus the bias: z + bias > 0 and z > -bias are the same, in fp32 too */
    };

    __device__ KeyEncoder(const hattn_problem &p, const hattn_encode_keys_args &args, const KeyShare &share,
                          Space &space)
        : p_(p), args_(args), share_(share), space_(space)
    {
    }

    __device__ void run()
    {
        KeyTiles<Tile> tiles(p_, args_, share_, space_.tiles);
        scale_ = tiles.scale * 256.0f; /* 2^8 for what halves_of_e4m3 leaves out */
        tiles.walk([&] { load_map(); },
                   [&](const uint4 *keys, uint32_t *codes) { encode(reinterpret_cast<const char *>(keys), codes); });
    }

private:
    /* This warp's part of the map into registers, and the bias into shared memory. */
    __device__ void load_map()
    {
        const auto [g, t] = Fragment();
        const int num_warps = ((share_.num_bits + 31) / 32 * 32 + kWarpBits - 1) / kWarpBits;
        warp_column_ = warp_id() % num_warps;
        warp_row_ = warp_id() / num_warps;
        warp_rows_ = kNumWarps / num_warps;
        if (warp_row_ >= warp_rows_)
            warp_row_ = kTokens;          /* one of the warps that are left over */
        if constexpr (kWarpsOfWave > 1) { /* known here: clang would keep more registers for any_of_wave */
            const int first = warp_id() / kWarpsOfWave * kWarpsOfWave / num_warps;
            warp_ahead_ = warp_row_ - (first < warp_rows_ ? first : kTokens);
        }
        lane_fragment_ = 16 * Tile::place(Fragment::a_source_row(), Fragment::a_source_chunk());
        const int row_words = kBits / 32, row = g + t % 2 * 8; /* of what this lane stores */
        lane_code_ = kBlocks == 8   ? row * row_words + warp_column_ * 2 + t / 2
                     : kBlocks == 4 ? row * row_words + warp_column_
                                    : row * row_words * 2 + warp_column_;
        const T *weight = static_cast<const T *>(hattn_address(args_.key_map.weight[0])) +
                          share_.head * p_.key_map.weight_stride[0][0] + share_.first_bit;
        const int bit = warp_column_ * kWarpBits + 2 * kBlocks * (g / 2);
#pragma unroll
        for (int step = 0; step < kSteps; step++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int input = step * 16 + (kIsFp8 ? 4 * t + half * 2 : half * 8 + 2 * t);
                const T *row = weight + input * p_.key_map.weight_stride[0][1];
                uint32_t low[kBlocks], high[kBlocks];
                load_map_pairs(low, row, input < p_.head_dim_qk, bit, share_.num_bits);
                load_map_pairs(high, row + p_.key_map.weight_stride[0][1], input < p_.head_dim_qk, bit,
                               share_.num_bits);
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
                    map_[step][j][half] = permute_bytes(low[j], high[j], g % 2 ? 0x7632 : 0x5410);
            }
        const T *bias = args_.key_map.bias[0].data ? static_cast<const T *>(hattn_address(args_.key_map.bias[0])) +
                                                         share_.head * p_.key_map.bias_stride[0] + share_.first_bit
                                                   : nullptr;
        for (int r = threadIdx.x; r < kBits; r += 32 * kNumWarps)
            space_.thresholds[r] = bias && r < share_.num_bits ? -to_float(bias[r]) : 0.0f;
    }

    __device__ void encode(const char *keys, uint32_t *codes) const
    {
#pragma unroll 1
        for (int tile = warp_row_; tile - warp_ahead_ < kTokens / 16; tile += warp_rows_) {
            const int taken = kWarpsOfWave == 1 || tile < kTokens / 16 ? tile : 0; /* once more, the same codes */
            float z[kBlocks][4] = {};
            float nan[2] = {0.0f, 0.0f};
            multiply(keys + taken * 16 * kChunks * 16, z, nan);
            pack(codes + taken * 16 * (kBits / 32), z, nan);
        }
    }

    /* The fragment of 16 rows from chunks 2 * pair and 2 * pair + 1 on. Only the low bits of a chunk are permuted, so
     * that lanes compute few different offsets. */
    __device__ void load_chunks(uint32_t (&a)[4], const char *keys, int pair) const
    {
        constexpr int kLow = kLanes * 16 - 1;
        load_matrices(a, keys + (lane_fragment_ ^ (pair * 32 & kLow)) + (pair * 32 & ~kLow));
    }

    __device__ void multiply(const char *keys, float (&z)[kBlocks][4], float (&nan)[2]) const
    {
        uint32_t a[2][4];
        load_chunks(a[0], keys, 0);
        if constexpr (!kIsFp8) {
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                if (step + 1 < kSteps)
                    load_chunks(a[(step + 1) % 2], keys, step + 1);
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
                    mma_16816<T>(z[j], a[step % 2][0], a[step % 2][1], a[step % 2][2], a[step % 2][3], map_[step][j][0],
                                 map_[step][j][1]);
            }
        } else { /* a fragment of bytes is two of halves: lane t has inputs 4t..4t+3, and so has the map */
            uint32_t seen[2] = {0, 0};
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                const int now = step / 2 % 2;
                if (step % 2 == 0 && step + 2 < kSteps)
                    load_chunks(a[1 - now], keys, step / 2 + 1);
                const uint32_t x = a[now][step % 2 * 2], y = a[now][step % 2 * 2 + 1];
                seen[0] |= (x & 0x7f7f7f7fu) + 0x01010101u; /* carries into bit 7 of NaN's bytes alone */
                seen[1] |= (y & 0x7f7f7f7fu) + 0x01010101u;
                const uint32_t a0 = halves_of_e4m3(x, 0), a1 = halves_of_e4m3(y, 0), a2 = halves_of_e4m3(x, 1),
                               a3 = halves_of_e4m3(y, 1);
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
                    mma_16816<T>(z[j], a0, a1, a2, a3, map_[step][j][0], map_[step][j][1]);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                nan[i] = Fragment::group_or(seen[i]) & 0x80808080u ? NAN : 0.0f;
            }
        }
    }

    /* Signs of rows g and g + 8 of the 16. A NaN anywhere in a row makes all of its sums NaN. */
    __device__ void pack(uint32_t *codes, const float (&z)[kBlocks][4], const float (&nan)[2]) const
    {
        constexpr int kLaneBits = 2 * kBlocks,
                      kPackLanes = kLaneBits == 16 ? 2 : 4; /* that make a word, or the warp's 16 bits */
        const int t = Fragment().pair;
        const float2 *thresholds =
            reinterpret_cast<const float2 *>(&space_.thresholds[warp_column_ * kWarpBits + kLaneBits * t]);
        uint32_t code[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < kBlocks; j++) {
            const float2 threshold = thresholds[j];
#pragma unroll
            for (int i = 0; i < 4; i++)
                if ((kIsFp8 ? fmaf(z[j][i], scale_, nan[i / 2]) : z[j][i]) > (i % 2 ? threshold.y : threshold.x))
                    code[i / 2] |= 1u << (2 * j + i % 2);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            code[i] <<= kLaneBits * (t % kPackLanes);
#pragma unroll
            for (int offset = 1; offset < kPackLanes; offset *= 2)
                code[i] |= from_partner(code[i], offset);
        }
        const uint32_t mine = t % 2 ? code[1] : code[0];
        if constexpr (kBlocks == 8)
            codes[lane_code_] = mine;
        else if constexpr (kBlocks == 4) {
            if (t < 2)
                codes[lane_code_] = mine;
        } else if (t < 2) {
            reinterpret_cast<uint16_t *>(codes)[lane_code_] = static_cast<uint16_t>(mine);
        }
    }

    const hattn_problem &p_;
    const hattn_encode_keys_args &args_;
    const KeyShare &share_;
    Space &space_;
    float scale_;                            /* of fp8 keys */
    int warp_column_, warp_row_, warp_rows_; /* which bits, and which 16 tokens of a tile: the first, and the step */
    int warp_ahead_ = 0;                     /* of the first warp of this wave, which has as many turns or one more */
    int lane_fragment_, lane_code_;          /* bytes to this lane's row of a fragment; where its code goes */
    uint32_t map_[kSteps][kBlocks][2];
};

} // namespace hattn

#endif
