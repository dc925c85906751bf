/* SPDX-License-Identifier: Apache-2.0
 * Codes of many keys by a linear map, on tensor cores: keys and map of one 16-bit type, or fp8 keys and an fp16 map.
 *
 * z = K W: tokens are the rows of A, bits the columns of B, so that a lane of the result holds bits of two keys. A warp owns
 * 8 * kBlocks bits and keeps their part of the map in registers (kSteps * kBlocks * 2 of them) for as long as it lives; a block
 * walks over tiles of kTokens keys of one head, which its warps share through shared memory.
 *
 * A key of 128 dims is 256 bytes and, at 128 bits, 32768 operations: a device that reads 4.6 TB/s would need 590 Tflop/s to keep
 * up, mma.sync gives about that much on sm_90 and half of it, beside half of the bandwidth, on sm_80. So up to 64 bits the kernel is
 * bound by memory, from 128 bits on by tensor cores, and what must not bind it is shared memory: a fragment of 512 bytes takes
 * 4 cycles of a multiprocessor's and feeds kBlocks mma of 6.5 cycles (sm_90) of a quarter's each: with four warps 16 cycles against 26
 * at 32 bits a warp. Signs cost 2 instructions for every 32 of them, against 0.25 * kSteps mma: less.
 *
 * Bits are dealt to columns so that a lane's are consecutive (block j, column 2t + c of lanes t: bit 2 * kBlocks * t + 2j + c of
 * the warp), which makes packing an or over four lanes and the map's loads whole 16 bytes.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_KEYS_MMA_CUH
#define HATTN_KERNELS_CUDA_ENCODE_KEYS_MMA_CUH

#include "kernels_cuda/encode.cuh"

namespace hattn {

/* K: of keys, T: of the map and of tensor cores. */
template <class K, int kSteps, int kBlocks>
struct KeyTile {
    static constexpr int kTokens = kSteps <= 8 ? 128 : kSteps <= 16 ? 64 : 32;
    static constexpr int kStages = kSteps <= 4 ? 4 : 3;
    static constexpr int kSlotRing = 2 * kStages;
    static constexpr int kDims = kSteps * 16;              /* head_dim_qk, rounded up */
    static constexpr int kChunks = kDims * sizeof(K) / 16; /* of 16 bytes a key: a multiple of 4 */
    static constexpr int kLanes = kChunks % 8 ? 4 : 8;     /* that take a key together */
    static constexpr int kWarpBits = 8 * kBlocks;
    static constexpr int kBits = kWarps * kWarpBits; /* of a block */

    struct Space {
        uint4 keys[kStages][kTokens * kChunks];
        uint32_t codes[2][kTokens * (kBits / 32)];
        int64_t slots[kSlotRing][kTokens]; /* with a slot mapping: asked for kStages - 1 tiles before the keys */
        float thresholds[kBits];           /* minus the bias: z + bias > 0 and z > -bias are the same, in fp32 too */
    };

    /* Chunks of a row are permuted so that eight rows' same chunk lies in eight different banks. */
    static __device__ int place(int row, int chunk)
    {
        return row * kChunks + (chunk ^ (kLanes == 8 ? row & 7 : row / 2 & 3));
    }
};

/* The bits and tiles of one block: blocks of all heads go through the tokens together. */
struct KeyShare {
    int64_t head;
    int first_bit, num_bits;
    int first_tile, tile_step, num_tiles;
};

/* Bytes 2i, 2i+1 of four fp8 numbers as fp16, times 2^-8: exact, NaN aside. See to_float. */
__device__ inline uint32_t halves_of_fp8(uint32_t x, int i)
{
    const uint32_t shifted = __byte_perm(x, 0, i ? 0x3424 : 0x1404) >> 1; /* the sign is one place too low */
    return shifted + (shifted & 0x40004000u);
}

/* Words j of kBlocks: bits 2j, 2j+1 of one input's outputs from `bit` on; zero where the map has none. */
template <int kBlocks, class T>
__device__ inline void load_map_pairs(uint32_t (&pairs)[kBlocks], const T *row, bool is_input, int bit, int num_bits)
{
#pragma unroll
    for (int j = 0; j < kBlocks; j++)
        pairs[j] = 0;
    if constexpr (kBlocks >= 4) {
#pragma unroll
        for (int j = 0; j < kBlocks; j += 4)
            if (is_input && bit + 2 * j < num_bits) {
                const uint4 v = load_row16(row + bit + 2 * j);
                pairs[j] = v.x, pairs[j + 1] = v.y, pairs[j + 2] = v.z, pairs[j + 3] = v.w;
            }
    } else if (is_input && bit < num_bits) {
        memcpy(pairs, __builtin_assume_aligned(row + bit, 8), sizeof(pairs));
    }
}

template <class K, class T, int kSteps, int kBlocks>
class KeyEncoder
{
public:
    using Tile = KeyTile<K, kSteps, kBlocks>;
    using Space = typename Tile::Space;
    static constexpr bool kIsFp8 = std::is_same_v<K, fp8_e4m3>;
    static constexpr int kLanes = Tile::kLanes, kRows = kThreads / kLanes; /* of a tile that are fetched side by side */
    static constexpr int kPerChunk = 16 / sizeof(K);
    static constexpr int kChunks = Tile::kChunks, kTokens = Tile::kTokens, kStages = Tile::kStages,
                         kSlotRing = Tile::kSlotRing;

    __device__ KeyEncoder(const hattn_problem &p, const hattn_encode_keys_args &args, const KeyShare &share,
                          Space &space)
        : p_(p), args_(args), share_(share), space_(space)
    {
        const int row = static_cast<int>(threadIdx.x) / kLanes, chunk = static_cast<int>(threadIdx.x) % kLanes;
        const int64_t kv_head = share.head * p.num_kv_heads / p.num_code_heads;
        lane_keys_ = static_cast<const K *>(hattn_address(args.k_new)) + kv_head * p.k_new.stride[1] +
                     row * p.k_new.stride[0] + chunk * kPerChunk;
        scale_ = kIsFp8 ? hattn_kv_scale(&p, args.k_scale, kv_head) * 256.0f
                        : 1.0f; /* 2^8 for what halves_of_fp8 leaves out */
        lane_place_ = Tile::place(row, chunk);
    }

    __device__ void run()
    {
        const int count = share_.first_tile < share_.num_tiles
                              ? (share_.num_tiles - share_.first_tile + share_.tile_step - 1) / share_.tile_step
                              : 0;
        for (int n = 0; n < 2 * (kStages - 1); n++)
            fetch_slots(n);
        commit_copies();
        load_map();
        wait_for_copies<0>();
        __syncthreads();
        for (int n = 0; n < kStages - 1; n++) {
            if (n < count)
                fetch_keys(n);
            commit_copies();
        }
        for (int n = 0; n < count; n++) {
            wait_for_copies<kStages - 2>();
            __syncthreads(); /* tile n is there, and tile n - 1 is no longer read */
            if (n + kStages - 1 < count)
                fetch_keys(n + kStages - 1);
            fetch_slots(n + 2 * (kStages - 1));
            commit_copies();
            if (n > 0)
                store_codes(n - 1);
            if (p_.key_norms && share_.first_bit == 0)
                store_norms(n);
            encode(n);
        }
        __syncthreads();
        if (count > 0)
            store_codes(count - 1);
    }

private:
    __device__ int64_t first_token(int n) const
    {
        return (share_.first_tile + static_cast<int64_t>(n) * share_.tile_step) * kTokens;
    }

    __device__ void fetch_slots(int n)
    {
        if (!args_.slot_mapping.data || threadIdx.x >= kTokens)
            return;
        const int64_t token = first_token(n) + threadIdx.x;
        int64_t *slot = &space_.slots[n % kSlotRing][threadIdx.x];
        if (token < args_.num_tokens)
            copy_async8(slot, static_cast<const int64_t *>(hattn_address(args_.slot_mapping)) + token);
        else
            *slot = -1;
    }

    /* Of a token of tile n; negative: skipped. */
    __device__ int64_t slot_of(int n, int row) const
    {
        if (args_.slot_mapping.data)
            return space_.slots[n % kSlotRing][row];
        const int64_t token = first_token(n) + row;
        return token < args_.num_tokens ? token : -1;
    }

    /* 8 lanes take 128 bytes of a key at a time, or 4 take 64. Keys that are skipped are not read. */
    __device__ void fetch_keys(int n)
    {
        const int64_t first = first_token(n);
        const int row = static_cast<int>(threadIdx.x) / kLanes, chunk = static_cast<int>(threadIdx.x) % kLanes;
        const int num_rows = static_cast<int>(min(static_cast<int64_t>(kTokens), args_.num_tokens - first));
        const bool is_mapped = args_.slot_mapping.data;
        const K *from = lane_keys_ + first * p_.k_new.stride[0];
        uint4 *to = &space_.keys[n % kStages][lane_place_];
#pragma unroll
        for (int i = 0; i < kTokens / kRows; i++) {
            const bool is_kept =
                is_mapped ? space_.slots[n % kSlotRing][row + i * kRows] >= 0 : row + i * kRows < num_rows;
#pragma unroll
            for (int j = 0; j < kChunks / kLanes; j++)
                copy_async16(to + i * kRows * kChunks + j * kLanes, from + j * kLanes * kPerChunk,
                             is_kept && (chunk + j * kLanes) * kPerChunk < p_.head_dim_qk);
            from += kRows * p_.k_new.stride[0];
        }
    }

    /* This warp's part of the map into registers, and the bias into shared memory. */
    __device__ void load_map()
    {
        const int g = lane_id() / 4, t = lane_id() % 4,
                  num_warps = ((share_.num_bits + 31) / 32 * 32 + Tile::kWarpBits - 1) / Tile::kWarpBits;
        warp_column_ = warp_id() % num_warps;
        warp_row_ = warp_id() / num_warps;
        warp_rows_ = kWarps / num_warps;
        if (warp_row_ >= warp_rows_)
            warp_row_ = kTokens; /* one of the warps that are left over */
        lane_fragment_ = 16 * Tile::place(lane_id() % 16, lane_id() / 16);
        const int row_words = Tile::kBits / 32, row = g + t % 2 * 8; /* of what this lane stores */
        lane_code_ = kBlocks == 8   ? row * row_words + warp_column_ * 2 + t / 2
                     : kBlocks == 4 ? row * row_words + warp_column_
                                    : row * row_words * 2 + warp_column_;
        const T *weight = static_cast<const T *>(hattn_address(args_.key_map.weight[0])) +
                          share_.head * p_.key_map.weight_stride[0][0] + share_.first_bit;
        const int bit = warp_column_ * Tile::kWarpBits + 2 * kBlocks * (g / 2);
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
                    map_[step][j][half] = __byte_perm(low[j], high[j], g % 2 ? 0x7632 : 0x5410);
            }
        const T *bias = args_.key_map.bias[0].data ? static_cast<const T *>(hattn_address(args_.key_map.bias[0])) +
                                                         share_.head * p_.key_map.bias_stride[0] + share_.first_bit
                                                   : nullptr;
        for (int r = threadIdx.x; r < Tile::kBits; r += kThreads)
            space_.thresholds[r] = bias && r < share_.num_bits ? -to_float(bias[r]) : 0.0f;
    }

    /* Codes of tile n into shared memory. */
    __device__ void encode(int n)
    {
        const char *keys = reinterpret_cast<const char *>(space_.keys[n % kStages]);
        uint32_t *codes = space_.codes[n % 2];
#pragma unroll 1
        for (int tile = warp_row_; tile < kTokens / 16; tile += warp_rows_) {
            float z[kBlocks][4] = {};
            float nan[2] = {0.0f, 0.0f};
            multiply(keys + tile * 16 * kChunks * 16, z, nan);
            pack(codes + tile * 16 * (Tile::kBits / 32), z, nan);
        }
    }

    /* The fragment of 16 rows from chunks 2 * pair and 2 * pair + 1 on. Only the low bits of a chunk are permuted, so that lanes
     * compute few different offsets. */
    __device__ void load_chunks(uint32_t (&a)[4], const char *keys, int pair) const
    {
        constexpr int kLow = kLanes * 16 - 1;
        load_fragment(a, keys + (lane_fragment_ ^ (pair * 32 & kLow)) + (pair * 32 & ~kLow));
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
                const uint32_t a0 = halves_of_fp8(x, 0), a1 = halves_of_fp8(y, 0), a2 = halves_of_fp8(x, 1),
                               a3 = halves_of_fp8(y, 1);
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
                    mma_16816<T>(z[j], a0, a1, a2, a3, map_[step][j][0], map_[step][j][1]);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                seen[i] |= __shfl_xor_sync(kFullMask, seen[i], 1);
                seen[i] |= __shfl_xor_sync(kFullMask, seen[i], 2);
                nan[i] = seen[i] & 0x80808080u ? NAN : 0.0f;
            }
        }
    }

    /* Signs of rows g and g + 8 of the 16. A NaN anywhere in a row makes all of its sums NaN. */
    __device__ void pack(uint32_t *codes, const float (&z)[kBlocks][4], const float (&nan)[2]) const
    {
        constexpr int kLaneBits = 2 * kBlocks,
                      kPackLanes = kLaneBits == 16 ? 2 : 4; /* that make a word, or the warp's 16 bits */
        const int t = lane_id() % 4;
        const float2 *thresholds =
            reinterpret_cast<const float2 *>(&space_.thresholds[warp_column_ * Tile::kWarpBits + kLaneBits * t]);
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
                code[i] |= __shfl_xor_sync(kFullMask, code[i], offset);
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

    /* Codes of tile n from shared memory to their slots, as many words at once as they and their strides allow. */
    __device__ void store_codes(int n) const
    {
        const int num_words = (share_.num_bits + 31) / 32, first_word = share_.first_bit / 32;
        const int64_t all = num_words | first_word | p_.codes.stride[0] | p_.codes.stride[1] | p_.codes.stride[2];
        uint32_t *codes =
            static_cast<uint32_t *>(hattn_address(args_.codes)) + share_.head * p_.codes.stride[2] + first_word;
        if (all % 4 == 0)
            store_words<uint4>(n, codes, num_words / 4);
        else if (all % 2 == 0)
            store_words<uint2>(n, codes, num_words / 2);
        else
            store_words<uint32_t>(n, codes, num_words);
    }

    template <class Words>
    __device__ void store_words(int n, uint32_t *codes, int num_parts) const
    {
        constexpr int kWords = sizeof(Words) / 4;
#pragma unroll 1
        for (int i = threadIdx.x; i < kTokens * num_parts; i += kThreads) {
            const int row = i % kTokens, word = i / kTokens * kWords;
            const int64_t slot = slot_of(n, row);
            if (slot < 0)
                continue;
            const Place place = place_of_slot(p_, slot);
            *reinterpret_cast<Words *>(codes + place.page * p_.codes.stride[0] + place.slot * p_.codes.stride[1] +
                                       word) =
                *reinterpret_cast<const Words *>(&space_.codes[n % 2][row * (Tile::kBits / 32) + word]);
        }
    }

    /* A quarter of a key a lane, in fp32. */
    __device__ void store_norms(int n) const
    {
        for (int row = warp_id() * 8 + lane_id() % 8; row < kTokens; row += kWarps * 8) {
            float sum = 0.0f;
#pragma unroll 1
            for (int chunk = lane_id() / 8; chunk < kChunks; chunk += 4) {
                K x[kPerChunk];
                memcpy(x, &space_.keys[n % kStages][Tile::place(row, chunk)], sizeof(x));
#pragma unroll
                for (int i = 0; i < kPerChunk; i++)
                    sum = fmaf(to_float(x[i]), to_float(x[i]), sum);
            }
            sum += __shfl_xor_sync(kFullMask, sum, 8);
            sum += __shfl_xor_sync(kFullMask, sum, 16);
            const int64_t slot = slot_of(n, row);
            if (lane_id() < 8 && slot >= 0) {
                const Place place = place_of_slot(p_, slot);
                static_cast<__half *>(
                    hattn_address(args_.norms))[place.page * p_.norms.stride[0] + place.slot * p_.norms.stride[1] +
                                                share_.head * p_.norms.stride[2]] =
                    __float2half_rn(kIsFp8 ? sqrtf(sum) * fabsf(scale_ / 256.0f) : sqrtf(sum));
            }
        }
    }

    const hattn_problem &p_;
    const hattn_encode_keys_args &args_;
    const KeyShare &share_;
    Space &space_;
    float scale_;        /* of fp8 keys */
    const K *lane_keys_; /* of this thread: where its 16 bytes of the first keys are, and where they go */
    int lane_place_;
    int warp_column_, warp_row_, warp_rows_; /* which bits, and which 16 tokens of a tile: the first, and the step */
    int lane_fragment_, lane_code_;          /* bytes to this lane's row of a fragment; where its code goes */
    uint32_t map_[kSteps][kBlocks][2];
};

} // namespace hattn

#endif
