/* SPDX-License-Identifier: Apache-2.0
 * Codes of many keys by a linear map of the keys' own 16-bit type, on tensor cores.
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

template <class T, int kSteps, int kBlocks>
struct KeyTile {
    static constexpr int kTokens = kSteps <= 8 ? 128 : kSteps <= 16 ? 64 : 32;
    static constexpr int kStages = kSteps <= 4 ? 4 : 3;
    static constexpr int kSlotRing = 2 * kStages;
    static constexpr int kDims = kSteps * 16; /* head_dim_qk, rounded up */
    static constexpr int kChunks = kDims / 8; /* of 16 bytes a key */
    static constexpr int kWarpBits = 8 * kBlocks;
    static constexpr int kBits = kWarps * kWarpBits; /* of a block */

    struct Space {
        uint4 keys[kStages][kTokens * kChunks];
        uint32_t codes[2][kTokens * (kBits / 32)];
        int64_t slots[kSlotRing][kTokens]; /* with a slot mapping: asked for kStages - 1 tiles before the keys */
        float bias[kBits];
    };

    /* Chunks of a row are permuted so that eight rows' same chunk lies in eight different banks. */
    static __device__ int place(int row, int chunk)
    {
        return row * kChunks + (chunk ^ (row & 7));
    }
};

/* The bits and tiles of one block: blocks of all heads go through the tokens together. */
struct KeyShare {
    int64_t head;
    int first_bit, num_bits;
    int first_tile, tile_step, num_tiles;
};

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

template <class T, int kSteps, int kBlocks>
class KeyEncoder
{
public:
    using Tile = KeyTile<T, kSteps, kBlocks>;
    using Space = typename Tile::Space;
    static constexpr int kRows = kThreads / 8; /* of a tile that are fetched side by side */
    static constexpr int kChunks = Tile::kChunks, kTokens = Tile::kTokens, kStages = Tile::kStages, kSlotRing = Tile::kSlotRing;

    __device__ KeyEncoder(const hattn_problem &p, const hattn_encode_keys_args &args, const KeyShare &share, Space &space)
        : p_(p), args_(args), share_(share), space_(space)
    {
        const int row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
        lane_keys_ = static_cast<const T *>(hattn_address(args.k_new)) + share.head * p.num_kv_heads / p.num_code_heads * p.k_new.stride[1] +
                     row * p.k_new.stride[0] + chunk * 8;
        lane_place_ = Tile::place(row, chunk);
    }

    __device__ void run()
    {
        const int count = share_.first_tile < share_.num_tiles ? (share_.num_tiles - share_.first_tile + share_.tile_step - 1) / share_.tile_step : 0;
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

    /* 8 lanes take 128 bytes of a key at a time. Keys that are skipped are not read. */
    __device__ void fetch_keys(int n)
    {
        const int64_t first = first_token(n);
        const int row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
        const int num_rows = static_cast<int>(min(static_cast<int64_t>(kTokens), args_.num_tokens - first));
        const bool is_mapped = args_.slot_mapping.data;
        const T *from = lane_keys_ + first * p_.k_new.stride[0];
        uint4 *to = &space_.keys[n % kStages][lane_place_];
#pragma unroll
        for (int i = 0; i < kTokens / kRows; i++) {
            const bool is_kept = is_mapped ? space_.slots[n % kSlotRing][row + i * kRows] >= 0 : row + i * kRows < num_rows;
#pragma unroll
            for (int j = 0; j < kChunks / 8; j++)
                copy_async16(to + i * kRows * kChunks + j * 8, from + j * 64, is_kept && (chunk + j * 8) * 8 < p_.head_dim_qk);
            from += kRows * p_.k_new.stride[0];
        }
    }

    /* This warp's part of the map into registers, and the bias into shared memory. */
    __device__ void load_map()
    {
        const int g = lane_id() / 4, t = lane_id() % 4, num_warps = ((share_.num_bits + 31) / 32 * 32 + Tile::kWarpBits - 1) / Tile::kWarpBits;
        warp_column_ = warp_id() % num_warps;
        warp_row_ = warp_id() / num_warps;
        warp_rows_ = kWarps / num_warps;
        const T *weight = static_cast<const T *>(hattn_address(args_.key_map.weight[0])) + share_.head * p_.key_map.weight_stride[0][0] + share_.first_bit;
        const int bit = warp_column_ * Tile::kWarpBits + 2 * kBlocks * (g / 2);
#pragma unroll
        for (int step = 0; step < kSteps; step++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int input = step * 16 + half * 8 + 2 * t;
                const T *row = weight + input * p_.key_map.weight_stride[0][1];
                uint32_t low[kBlocks], high[kBlocks];
                load_map_pairs(low, row, input < p_.head_dim_qk, bit, share_.num_bits);
                load_map_pairs(high, row + p_.key_map.weight_stride[0][1], input < p_.head_dim_qk, bit, share_.num_bits);
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
                    map_[step][j][half] = __byte_perm(low[j], high[j], g % 2 ? 0x7632 : 0x5410);
            }
        const T *bias = args_.key_map.bias[0].data
                            ? static_cast<const T *>(hattn_address(args_.key_map.bias[0])) + share_.head * p_.key_map.bias_stride[0] + share_.first_bit
                            : nullptr;
        for (int r = threadIdx.x; r < Tile::kBits; r += kThreads)
            space_.bias[r] = bias && r < share_.num_bits ? to_float(bias[r]) : 0.0f;
    }

    /* Codes of tile n into shared memory. */
    __device__ void encode(int n)
    {
        const int t = lane_id() % 4;
        const uint4 *keys = space_.keys[n % kStages];
        for (int tile = warp_row_; tile < kTokens / 16 && warp_row_ < warp_rows_; tile += warp_rows_) {
            float z[kBlocks][4];
            const float2 *bias = reinterpret_cast<const float2 *>(&space_.bias[warp_column_ * Tile::kWarpBits + 2 * kBlocks * t]);
#pragma unroll
            for (int j = 0; j < kBlocks; j++) {
                z[j][0] = z[j][2] = bias[j].x;
                z[j][1] = z[j][3] = bias[j].y;
            }
            const int row = tile * 16 + lane_id() % 16, high = lane_id() / 16;
            uint32_t a[2][4];
            load_fragment(a[0], &keys[Tile::place(row, high)]);
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                if (step + 1 < kSteps)
                    load_fragment(a[(step + 1) % 2], &keys[Tile::place(row, 2 * (step + 1) + high)]);
#pragma unroll
                for (int j = 0; j < kBlocks; j++)
                    mma_16816<T>(z[j], a[step % 2][0], a[step % 2][1], a[step % 2][2], a[step % 2][3], map_[step][j][0], map_[step][j][1]);
            }
            pack(n, tile, z);
        }
    }

    /* Signs of rows g and g + 8 of the 16. */
    __device__ void pack(int n, int tile, const float (&z)[kBlocks][4])
    {
        constexpr int kLaneBits = 2 * kBlocks, kLanes = kLaneBits == 16 ? 2 : 4; /* that make a word, or the warp's 16 bits */
        const int g = lane_id() / 4, t = lane_id() % 4;
        uint32_t code[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < kBlocks; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (z[j][i] > 0.0f)
                    code[i / 2] |= 1u << (2 * j + i % 2);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            code[i] <<= kLaneBits * (t % kLanes);
#pragma unroll
            for (int offset = 1; offset < kLanes; offset *= 2)
                code[i] |= __shfl_xor_sync(kFullMask, code[i], offset);
        }
        uint32_t *codes = &space_.codes[n % 2][(tile * 16 + g + t % 2 * 8) * (Tile::kBits / 32)];
        const uint32_t mine = t % 2 ? code[1] : code[0];
        if constexpr (kBlocks == 8)
            codes[warp_column_ * 2 + t / 2] = mine;
        else if constexpr (kBlocks == 4) {
            if (t < 2)
                codes[warp_column_] = mine;
        } else if (t < 2) {
            reinterpret_cast<uint16_t *>(codes)[warp_column_] = static_cast<uint16_t>(mine);
        }
    }

    /* Codes of tile n from shared memory to their slots, as many words at once as they and their strides allow. */
    __device__ void store_codes(int n) const
    {
        const int num_words = (share_.num_bits + 31) / 32, first_word = share_.first_bit / 32;
        const int64_t all = num_words | first_word | p_.codes.stride[0] | p_.codes.stride[1] | p_.codes.stride[2];
        uint32_t *codes = static_cast<uint32_t *>(hattn_address(args_.codes)) + share_.head * p_.codes.stride[2] + first_word;
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
            const int row = num_parts == 1 ? i : i / num_parts, word = num_parts == 1 ? 0 : i % num_parts * kWords;
            const int64_t slot = slot_of(n, row);
            if (slot < 0)
                continue;
            const Place place = place_of_slot(p_, slot);
            *reinterpret_cast<Words *>(codes + place.page * p_.codes.stride[0] + place.slot * p_.codes.stride[1] + word) =
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
                T x[8];
                memcpy(x, &space_.keys[n % kStages][Tile::place(row, chunk)], sizeof(x));
#pragma unroll
                for (int i = 0; i < 8; i++)
                    sum = fmaf(to_float(x[i]), to_float(x[i]), sum);
            }
            sum += __shfl_xor_sync(kFullMask, sum, 8);
            sum += __shfl_xor_sync(kFullMask, sum, 16);
            const int64_t slot = slot_of(n, row);
            if (lane_id() < 8 && slot >= 0) {
                const Place place = place_of_slot(p_, slot);
                static_cast<__half *>(hattn_address(args_.norms))[place.page * p_.norms.stride[0] + place.slot * p_.norms.stride[1] + share_.head * p_.norms.stride[2]] =
                    __float2half_rn(sqrtf(sum));
            }
        }
    }

    const hattn_problem &p_;
    const hattn_encode_keys_args &args_;
    const KeyShare &share_;
    Space &space_;
    const T *lane_keys_; /* of this thread: where its 16 bytes of the first keys are, and where they go */
    int lane_place_;
    int warp_column_, warp_row_, warp_rows_; /* which bits, and which 16 tokens of a tile: the first, and the step */
    uint32_t map_[kSteps][kBlocks][2];
};

} // namespace hattn

#endif
