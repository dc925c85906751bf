/* SPDX-License-Identifier: Apache-2.0
 * Top-k of long rows by many blocks each. Counting: a block a chunk of a row and digit of the key; it adds to the row's
 * histogram and leaves how many of its own keys are at least b, for every b, and the row's last block finds the bin of
 * the last kept key. Compaction: again a block a chunk; from the counts of the chunks before it, it knows the rank of
 * its first kept position.
 *
 * Scores below HATTN_CUDA_BINS need one digit, so two kernels: one reads the row from memory, the other from L2.
 * Nothing but the counts goes back to memory.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_TOPK_SPLIT_CUH
#define HATTN_KERNELS_CUDA_SELECT_TOPK_SPLIT_CUH

#include "kernels_cuda/select/score.cuh"

namespace hattn {

constexpr int kGroup = 8; /* keys of a thread, loaded together */
using TopkState = hattn_cuda_topk_state;

/* One digit. Keys above the last bin count there. */
struct TopkPass {
    int shift, bits, num_bins;

    __device__ uint32_t bin(uint32_t key) const
    {
        return min(key >> shift & ((1u << bits) - 1), static_cast<uint32_t>(num_bins) - 1);
    }

    /* Whether the digits above this one are those of `known`. */
    __device__ bool matches(uint32_t key, uint32_t known) const
    {
        return shift + bits >= 32 || (key ^ known) >> (shift + bits) == 0;
    }
};

__device__ inline TopkPass topk_pass(const hattn_cuda_params &params, int index)
{
    if (!params.problem.key_norms && !params.digit_shift)
        return {0, 16, min(params.num_bins + 1, static_cast<int>(HATTN_CUDA_BINS))};
    const Digit d = digit(params, index);
    return {d.shift, d.bits, 1 << d.bits};
}

/* The part of one row that a block looks at: groups of 8 keys that start at 16 bytes, `skew` of the first's lying
 * before the row. */
template <class Key>
struct TopkChunk {
    const Key *keys;
    int skew, first, end; /* positions first..end are ranked, the others not read */
    int group, last;      /* of the chunk */
    int num_chunks;       /* of the row */

    __device__ TopkChunk(const hattn_cuda_params &params, const Key *row, int length, int chunk) : keys(row)
    {
        constexpr int kUnit = 16 / sizeof(Key);
        skew = static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Key) % kUnit);
        first = params.problem.num_sink;
        end = length - params.problem.num_recent;
        const int groups = params.topk_chunk / kGroup;
        group = chunk * groups;
        last = min(group + groups, (skew + end + kGroup - 1) / kGroup);
        num_chunks = (skew + end - 1) / params.topk_chunk + 1;
    }

    __device__ int position(int at) const { return at * kGroup - skew; }

    /* kNum groups, kThreads apart: all of them are asked for before one is waited for. valid[j]: the ranked ones, a
     * bit each. */
    template <int kNum>
    __device__ void load(int at, Key (&loaded)[kNum][kGroup], uint32_t (&valid)[kNum]) const
    {
        constexpr int kLoads = kGroup * sizeof(Key) / sizeof(uint4);
        uint4 bits[kNum][kLoads] = {};
#pragma unroll
        for (int j = 0; j < kNum; j++) {
            const int position = this->position(at + j * kThreads);
            const bool is_full = at + j * kThreads < last && position >= first && position + kGroup <= end;
            valid[j] = is_full ? 0xff : 0;
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                if (is_full)
                    bits[j][i] = reinterpret_cast<const uint4 *>(keys + position)[i];
        }
#pragma unroll
        for (int j = 0; j < kNum; j++) {
            memcpy(loaded[j], bits[j], sizeof(loaded[j]));
            const int position = this->position(at + j * kThreads);
            if (!valid[j] && at + j * kThreads < last)
#pragma unroll
                for (int i = 0; i < kGroup; i++)
                    if (position + i >= first && position + i < end) {
                        loaded[j][i] = keys[position + i];
                        valid[j] |= 1u << i;
                    }
        }
    }
};

/* Rows of counts, u32 [task][chunk][pass][HATTN_CUDA_BINS + 1]: entry b is how many keys of the chunk are in bins b
 * and above. */
__device__ inline uint32_t *topk_counts(const hattn_cuda_params &params, char *base, int64_t task, int chunk, int pass)
{
    return reinterpret_cast<uint32_t *>(base + params.topk_counts) +
           ((task * params.num_topk_chunks + chunk) * params.num_topk_passes + pass) * (HATTN_CUDA_BINS + 1);
}

/* A thread's bins, from the top down: bin top - i, and how many keys are in the bins above all of them. */
struct TopkBins {
    static constexpr int kMost = HATTN_CUDA_BINS / kThreads;
    int top, per_thread, num_bins;
    uint32_t count[kMost], above;

    /* All threads; `sums` is kWarps words of shared memory. */
    template <class Count>
    __device__ TopkBins(int num_bins, uint32_t *sums, Count count_of)
        : per_thread((num_bins + kThreads - 1) / kThreads), num_bins(num_bins)
    {
        top = per_thread * (kThreads - static_cast<int>(threadIdx.x)) - 1;
        uint32_t mine = 0, total;
#pragma unroll
        for (int i = 0; i < kMost; i++) {
            count[i] = has(i) ? count_of(top - i) : 0;
            mine += count[i];
        }
        above = block_scan(mine, sums, &total);
    }

    __device__ bool has(int i) const { return i < per_thread && top - i < num_bins; }
};

/* Histograms of few bins are kept several times, for lanes that would wait for each other: scores crowd around their
 * mean. */
__device__ inline int num_histograms(const TopkPass &pass) { return min(HATTN_CUDA_BINS / pass.num_bins, 8); }

/* One digit of one chunk. All threads. */
template <class Key>
__device__ inline void count_topk_chunk(const TopkChunk<Key> &chunk, const TopkPass &pass, uint32_t known,
                                        uint32_t *histograms)
{
    constexpr int kInFlight = sizeof(Key) == 2 ? 4 : 2;
    const int copies = num_histograms(pass);
    for (int i = threadIdx.x; i < copies * pass.num_bins; i += kThreads)
        histograms[i] = 0;
    uint32_t *histogram = histograms + lane_id() % copies * pass.num_bins;
    __syncthreads();
    for (int group = chunk.group + static_cast<int>(threadIdx.x); group < chunk.last; group += kInFlight * kThreads) {
        Key keys[kInFlight][kGroup];
        uint32_t valid[kInFlight];
        chunk.load(group, keys, valid);
#pragma unroll
        for (int j = 0; j < kInFlight; j++)
            if (valid[j])
#pragma unroll
                for (int i = 0; i < kGroup; i++) {
                    const uint32_t key = ordered_key(keys[j][i]);
                    if (valid[j] >> i & 1 && pass.matches(key, known))
                        atomic_add(&histogram[pass.bin(key)], 1u);
                }
    }
    __syncthreads();
}

/* What a chunk needs to know of its row: the last kept key, how many of its equals are kept, and how many keys of the
 * chunks before are above it and equal to it. */
struct TopkStart {
    uint32_t threshold, ties, above, equal;
};

/* Calls sink(rank, position) for the kept positions of a chunk. The first keys are asked for before start() is
 * called, which waits. */
template <class Key, class GetStart, class Sink>
__device__ inline void compact_topk_chunk(const TopkChunk<Key> &chunk, uint32_t (*sums)[kWarps], GetStart get_start,
                                          Sink sink)
{
    constexpr int kTiles = 2;
    Key keys[kTiles][kGroup];
    uint32_t valid[kTiles];
    chunk.load(chunk.group + static_cast<int>(threadIdx.x), keys, valid);
    TopkStart start = get_start();
    for (int first = chunk.group; first < chunk.last; first += kTiles * kThreads) {
        if (first > chunk.group)
            chunk.load(first + static_cast<int>(threadIdx.x), keys, valid);
        uint32_t above[kTiles], equal[kTiles], scans[kTiles];
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            if (first + tile * kThreads >= chunk.last)
                break;
            above[tile] = equal[tile] = 0;
#pragma unroll
            for (int i = 0; i < kGroup; i++) {
                const uint32_t key = ordered_key(keys[tile][i]);
                above[tile] |= (key > start.threshold ? 1u : 0u) << i;
                equal[tile] |= (key == start.threshold ? 1u : 0u) << i;
            }
            above[tile] &= valid[tile];
            equal[tile] &= valid[tile];
            scans[tile] = warp_scan(count_ones(above[tile]) |
                                    count_ones(equal[tile]) << 16); /* both counts at once: a tile has 2048 keys */
            if (lane_id() == 31)
                sums[tile][warp_id()] = scans[tile];
        }
        __syncthreads();
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            if (first + tile * kThreads >= chunk.last)
                break;
            uint32_t before = scans[tile] - (count_ones(above[tile]) | count_ones(equal[tile]) << 16), total = 0;
            for (int w = 0; w < kWarps; w++) {
                before += w < warp_id() ? sums[tile][w] : 0;
                total += sums[tile][w];
            }
            uint32_t num_above = start.above + (before & 0xffff), num_equal = start.equal + (before >> 16);
            for (uint32_t left = above[tile] | equal[tile]; left; left &= left - 1) {
                const int i = lowest_one(left);
                const bool is_above = above[tile] >> i & 1;
                if (is_above || num_equal < start.ties)
                    sink(num_above + min(num_equal, start.ties),
                         chunk.position(first + tile * kThreads + static_cast<int>(threadIdx.x)) + i);
                num_above += is_above;
                num_equal += !is_above;
            }
            start.above += total & 0xffff;
            start.equal += total >> 16;
        }
        __syncthreads();
    }
}

} // namespace hattn

#endif
