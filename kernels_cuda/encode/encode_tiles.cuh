/* SPDX-License-Identifier: Apache-2.0
 * Tiles of keys that a block walks over: keys on their way into shared memory while others are encoded there, codes and
 * norms to their slots. Blocks of all heads go through the tokens together.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_ENCODE_TILES_CUH
#define HATTN_KERNELS_CUDA_ENCODE_ENCODE_TILES_CUH

#include "kernels_cuda/encode/encode.cuh"
#include "kernels_cuda/encode/key_encoders.h"

namespace hattn {

/* The bits and tiles of one block. */
struct KeyShare {
    int64_t head;
    int first_bit, num_bits;
    int first_tile, tile_step, num_tiles;
};

/* Of the block, in a grid of {heads and groups of bits, splits}. */
template <class Tile>
__device__ inline KeyShare share_of_block(const hattn_encode_keys_args &args, int64_t head, int first_bit, int num_bits)
{
    return {head,
            first_bit,
            num_bits,
            static_cast<int>(blockIdx.y),
            static_cast<int>(gridDim.y),
            static_cast<int>((args.num_tokens + static_cast<int64_t>(Tile::kTokens) - 1) / Tile::kTokens)};
}

/* Blocks of `shared_bytes` that a multiprocessor holds, `most` if shared memory suffices. */
inline int blocks_of(const hattn_cuda_params &params, size_t shared_bytes, int most)
{
    const int fitting = params.multiprocessor_shared / static_cast<int>(shared_bytes + HATTN_SYSTEM_SHARED);
    return fitting < 1 ? 1 : fitting < most ? fitting : most;
}

/* One wave, if as many blocks as the device holds are enough for all combinations of heads and bits; else four or
 * more, so that the last one weighs little. */
inline dim3 key_grid(const hattn_cuda_params &params, const hattn_encode_keys_args &args, int tile_tokens,
                     int combinations, int blocks)
{
    const int resident = blocks * params.num_multiprocessors;
    const int64_t tiles = (args.num_tokens + static_cast<int64_t>(tile_tokens) - 1) / tile_tokens;
    const int64_t wanted = combinations <= resident ? resident / combinations : 4;
    return dim3(combinations, static_cast<unsigned>(wanted < tiles ? wanted : tiles));
}

/* kTokens keys of kChunks times 16 bytes, a multiple of 4; kWords words of a code; for a block of kNumWarps. */
template <class K, int kChunks_, int kTokens_, int kStages_, int kWords_, int kNumWarps_>
struct KeyTile {
    using Key = K;
    static constexpr int kChunks = kChunks_, kTokens = kTokens_, kStages = kStages_, kWords = kWords_,
                         kNumWarps = kNumWarps_, kNumThreads = 32 * kNumWarps;
    static constexpr int kPerChunk = 16 / sizeof(K);
    static constexpr int kLanes = kChunks % 8 ? 4 : 8; /* that take a key together */
    static constexpr int kRows = kNumThreads / kLanes; /* that are fetched side by side */
    static constexpr int kSlotRing = 2 * kStages;
    static constexpr bool kIsFp8 = std::is_same_v<K, fp8_e4m3>;

    struct Space {
        uint4 keys[kStages][kTokens * kChunks];
        uint32_t codes[2][kTokens * kWords];
        int64_t slots[kSlotRing][kTokens]; /* with a slot mapping: asked for kStages - 1 tiles before the keys */
    };

    /* Chunks of a row are permuted so that eight rows' same chunk lies in eight different banks. */
    static __device__ int place(int row, int chunk)
    {
        return row * kChunks + (chunk ^ (kLanes == 8 ? row & 7 : row / 2 & 3));
    }
};

template <class Tile>
class KeyTiles
{
public:
    using K = typename Tile::Key;
    static constexpr int kChunks = Tile::kChunks, kTokens = Tile::kTokens, kStages = Tile::kStages;
    static constexpr int kLanes = Tile::kLanes, kRows = Tile::kRows, kPerChunk = Tile::kPerChunk,
                         kSlotRing = Tile::kSlotRing;
    static constexpr int kNumWarps = Tile::kNumWarps, kNumThreads = Tile::kNumThreads;
    static_assert(kTokens % kRows == 0 && kTokens <= kNumThreads, "whole rounds of fetches, a slot a thread");

    __device__ KeyTiles(const hattn_problem &p, const hattn_encode_keys_args &args, const KeyShare &share,
                        typename Tile::Space &space)
        : p_(p), args_(args), share_(share), space_(space)
    {
        const int row = static_cast<int>(threadIdx.x) / kLanes, chunk = static_cast<int>(threadIdx.x) % kLanes;
        const int64_t kv_head = share.head * p.num_kv_heads / p.num_code_heads;
        lane_keys_ = static_cast<const K *>(hattn_address(args.k_new)) + kv_head * p.k_new.stride[1] +
                     row * p.k_new.stride[0] + chunk * kPerChunk;
        lane_place_ = Tile::place(row, chunk);
        scale = Tile::kIsFp8 ? hattn_kv_scale(&p, args.k_scale, kv_head) : 1.0f;
    }

    /* prepare() once, while slots are on their way; encode(keys, codes) for each tile in shared memory. */
    template <class Prepare, class Encode>
    __device__ void walk(Prepare prepare, Encode encode)
    {
        const int count = share_.first_tile < share_.num_tiles
                              ? (share_.num_tiles - share_.first_tile + share_.tile_step - 1) / share_.tile_step
                              : 0;
        for (int n = 0; n < 2 * (kStages - 1); n++)
            fetch_slots(n);
        copy_commit();
        prepare();
        copy_wait(0);
        __syncthreads();
        for (int n = 0; n < kStages - 1; n++) {
            if (n < count)
                fetch_keys(n);
            copy_commit();
        }
        for (int n = 0; n < count; n++) {
            copy_wait(kStages - 2);
            __syncthreads(); /* tile n is there, and tile n - 1 is no longer read */
            if (n + kStages - 1 < count)
                fetch_keys(n + kStages - 1);
            fetch_slots(n + 2 * (kStages - 1));
            copy_commit();
            if (n > 0)
                store_codes(n - 1);
            if (p_.key_norms && share_.first_bit == 0)
                store_norms(n);
            encode(space_.keys[n % kStages], space_.codes[n % 2]);
        }
        __syncthreads();
        if (count > 0)
            store_codes(count - 1);
    }

    float scale; /* of fp8 keys */

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
        for (int i = threadIdx.x; i < kTokens * num_parts; i += kNumThreads) {
            const int row = i % kTokens, word = i / kTokens * kWords;
            const int64_t slot = slot_of(n, row);
            if (slot < 0)
                continue;
            const Place place = place_of_slot(p_, slot);
            *reinterpret_cast<Words *>(codes + place.page * p_.codes.stride[0] + place.slot * p_.codes.stride[1] +
                                       word) =
                *reinterpret_cast<const Words *>(&space_.codes[n % 2][row * Tile::kWords + word]);
        }
    }

    /* A quarter of a key a lane, in fp32. */
    __device__ void store_norms(int n) const
    {
        for (int row = warp_id() * 8 + lane_id() % 8; row < kTokens; row += kNumWarps * 8) {
            float sum = 0.0f;
#pragma unroll 1
            for (int chunk = lane_id() / 8; chunk < kChunks; chunk += 4) {
                K x[kPerChunk];
                memcpy(x, &space_.keys[n % kStages][Tile::place(row, chunk)], sizeof(x));
#pragma unroll
                for (int i = 0; i < kPerChunk; i++)
                    sum = fmaf(to_float(x[i]), to_float(x[i]), sum);
            }
            sum += from_partner(sum, 8);
            sum += from_partner(sum, 16);
            const int64_t slot = slot_of(n, row);
            if (lane_id() < 8 && slot >= 0) {
                const Place place = place_of_slot(p_, slot);
                static_cast<float16 *>(hattn_address(
                    args_.norms))[place.page * p_.norms.stride[0] + place.slot * p_.norms.stride[1] +
                                  share_.head * p_.norms.stride[2]] = from_float<float16>(sqrtf(sum) * fabsf(scale));
            }
        }
    }

    const hattn_problem &p_;
    const hattn_encode_keys_args &args_;
    const KeyShare &share_;
    typename Tile::Space &space_;
    const K *lane_keys_; /* of this thread: where its 16 bytes of the first keys are, and where they go */
    int lane_place_;
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

} // namespace hattn

#endif
