/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k by counting: digit by digit the key of the last kept position, then every position above it and the first
 * of its equals, each with its rank. Any block of a task can so find the positions of any range of ranks by itself.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_SELECT_CUH
#define HATTN_KERNELS_CUDA_SELECT_SELECT_CUH

#include "kernels_cuda/select/score.cuh"

namespace hattn {

struct SelectSpace {
    uint32_t histogram[HATTN_CUDA_BINS];
    uint32_t sums[2][kWarps], tile_sums[4][kWarps];
    uint32_t bin, above;
};

/* Positions with a larger key, and the first `ties` with an equal one. */
struct Threshold {
    uint32_t key, ties;
};

/* The largest bin such that it and the bins above hold at least `wanted`; how many those above hold. */
__device__ inline void find_bin(SelectSpace &space, int num_bins, uint32_t wanted)
{
    /* Threads go down from the top; the last ones may have no bins. */
    const int per_thread = (num_bins + kThreads - 1) / kThreads,
              top = per_thread * (kThreads - static_cast<int>(threadIdx.x)) - 1;
    uint32_t mine = 0, total;
    for (int i = 0; i < per_thread; i++)
        mine += top - i < num_bins ? space.histogram[top - i] : 0;
    uint32_t above = block_scan(mine, space.sums[0], &total);
    if (above < wanted && above + mine >= wanted) {
        int bin = min(top, num_bins - 1);
        while (above + space.histogram[bin] < wanted)
            above += space.histogram[bin--];
        space.bin = static_cast<uint32_t>(bin);
        space.above = above;
    }
    __syncthreads();
}

/* Among keys[0..n), 0 < wanted < n. */
template <class Key>
__device__ inline Threshold find_threshold(const hattn_cuda_params &params, const Key *keys, int n, uint32_t wanted,
                                           SelectSpace &space)
{
    uint32_t prefix = 0, known = 0;
    for (int index = 0; index < num_digits(params); index++) {
        const Digit d = digit(params, index);
        const uint32_t mask = (1u << d.bits) - 1;
        for (int i = threadIdx.x; i < HATTN_CUDA_BINS; i += kThreads)
            space.histogram[i] = 0;
        __syncthreads();
        for (int j = threadIdx.x; j < n; j += kThreads) {
            const uint32_t key = ordered_key(keys[j]);
            if ((key & known) == prefix)
                atomic_add(&space.histogram[key >> d.shift & mask], 1u);
        }
        __syncthreads();
        find_bin(space, HATTN_CUDA_BINS, wanted);
        prefix |= space.bin << d.shift;
        known |= mask << d.shift;
        wanted -= space.above;
        __syncthreads();
    }
    return {prefix, wanted};
}

/* keys[first..first+8) where they are below n; 16 bytes at once where that can be. */
template <class Key>
__device__ inline void load_keys(Key (&loaded)[8], const Key *keys, int first, int n)
{
    if constexpr (sizeof(Key) == 2) {
        if (first + 8 <= n && reinterpret_cast<uintptr_t>(keys + first) % 16 == 0) {
            const uint4 bits = *reinterpret_cast<const uint4 *>(keys + first);
            memcpy(loaded, &bits, sizeof(loaded));
            return;
        }
    }
    for (int i = 0; i < 8; i++)
        loaded[i] = first + i < n ? keys[first + i] : Key();
}

/* Calls sink(rank, position) for the kept positions with ranks first..end of keys[0..n), rank 0 being the smallest
 * position. */
template <class Key, class Sink>
__device__ inline void visit_kept(const Key *keys, int n, Threshold threshold, uint32_t first, uint32_t end,
                                  SelectSpace &space, Sink sink)
{
    constexpr int kPerThread = 8, kTile = kPerThread * kThreads,
                  kTiles = sizeof(Key) == 2 ? 4 : 2; /* tiles loaded together */
    uint32_t above_before = 0, equal_before = 0;
    for (int position = 0; position < n; position += kTiles * kTile) {
        Key loaded[kTiles][kPerThread];
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++)
            load_keys(loaded[tile], keys, position + tile * kTile + static_cast<int>(threadIdx.x) * kPerThread, n);
        uint32_t above[kTiles], equal[kTiles], scans[kTiles];
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            const int mine = position + tile * kTile + static_cast<int>(threadIdx.x) * kPerThread;
            above[tile] = equal[tile] = 0;
#pragma unroll
            for (int i = 0; i < kPerThread; i++) {
                const uint32_t key = ordered_key(loaded[tile][i]);
                above[tile] |= (mine + i < n && key > threshold.key ? 1u : 0u) << i;
                equal[tile] |= (mine + i < n && key == threshold.key ? 1u : 0u) << i;
            }
            /* Both counts in one scan: a tile has 2048 keys. */
            scans[tile] = warp_scan(count_ones(above[tile]) | count_ones(equal[tile]) << 16);
            if (lane_id() == 31)
                space.tile_sums[tile][warp_id()] = scans[tile];
        }
        __syncthreads();
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            uint32_t before = scans[tile] - (count_ones(above[tile]) | count_ones(equal[tile]) << 16), total = 0;
            for (int w = 0; w < kWarps; w++) {
                before += w < warp_id() ? space.tile_sums[tile][w] : 0;
                total += space.tile_sums[tile][w];
            }
            uint32_t num_above = above_before + (before & 0xffff), num_equal = equal_before + (before >> 16);
            for (uint32_t left = above[tile] | equal[tile]; left; left &= left - 1) {
                const int i = lowest_one(left);
                const bool is_above = above[tile] >> i & 1;
                const uint32_t rank = num_above + min(num_equal, threshold.ties);
                if ((is_above || num_equal < threshold.ties) && rank >= first && rank < end)
                    sink(rank, position + tile * kTile + static_cast<int>(threadIdx.x) * kPerThread + i);
                num_above += is_above;
                num_equal += !is_above;
            }
            above_before += total & 0xffff;
            equal_before += total >> 16;
        }
        __syncthreads();
        if (above_before + min(equal_before, threshold.ties) >= end)
            break;
    }
}

/* sink(rank, position) for those of the ranks first..end of 0..kept that are forced, or all of them if all positions
 * are kept. By a block of kNum threads. */
template <int kNum = kThreads, class Sink>
__device__ inline void visit_forced(int length, int kept, int num_sink, int num_recent, int first, int end, Sink sink)
{
    const int sinks = kept == length ? kept : num_sink;
#pragma unroll 1
    for (int rank = first + static_cast<int>(threadIdx.x); rank < min(end, sinks); rank += kNum)
        sink(rank, rank);
#pragma unroll 1
    for (int rank = max(first, max(sinks, kept - num_recent)) + static_cast<int>(threadIdx.x); rank < end; rank += kNum)
        sink(rank, length - kept + rank);
}

/* The whole of a row's selection: forced positions around the kept ones of the middle. keys[0] is position num_sink. */
template <class Key>
struct Selection {
    const Key *keys;
    int length, kept, num_sink, num_recent;
    Threshold threshold; /* of the middle; found only if some of it is kept and some is not */

    __device__ int middle() const { return length - num_sink - num_recent; }

    __device__ int wanted() const { return kept - num_sink - num_recent; }

    __device__ void find(const hattn_cuda_params &params, SelectSpace &space)
    {
        if (kept < length && wanted() > 0)
            threshold = find_threshold(params, keys, middle(), static_cast<uint32_t>(wanted()), space);
    }

    /* sink(rank, position) for ranks first..end of 0..kept. */
    template <class Sink>
    __device__ void visit(int first, int end, SelectSpace &space, Sink sink) const
    {
        visit_forced(length, kept, num_sink, num_recent, first, end, sink);
        const int low = max(first - num_sink, 0), high = min(end - num_sink, wanted());
        if (kept < length && low < high)
            visit_kept(
                keys, middle(), threshold, static_cast<uint32_t>(low), static_cast<uint32_t>(high), space,
                [&](uint32_t rank, int position) { sink(static_cast<int>(rank) + num_sink, position + num_sink); });
        __syncthreads();
    }
};

} // namespace hattn

#endif
