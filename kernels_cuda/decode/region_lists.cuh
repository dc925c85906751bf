/* SPDX-License-Identifier: Apache-2.0
 * Reading what a score kernel left of a row (regions.cuh), for one block that selects: counts of regions, lists of candidates, and the order
 * of keys that share the threshold's level.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_REGION_LISTS_CUH
#define HATTN_KERNELS_CUDA_DECODE_REGION_LISTS_CUH

#include "kernels_cuda/decode/floor.cuh"
#include "kernels_cuda/select/select.cuh"

namespace hattn {

constexpr int kFine =
    640; /* keys of the threshold's level that are ranked against each other: as many as cost no memory beside what else there is */

/* Counts of groups of regions, of which warp w's lane l has group 8 l + w: neighbours fall to different warps. A row of 8 is padded against
 * bank conflicts. */
constexpr int kGroups = kThreads, kGroupRow = kWarps + 2;

struct alignas(16) RegionSpace {
    uint2 counts[32 * kGroupRow]; /* above the threshold, equal to it */
    uint32_t num_fine_regions, num_fine;
    uint64_t fine_threshold;
    union {
        LevelSpace levels;
        struct {
            int32_t fine_regions[kFine];
            uint64_t fine[kFine]; /* key << 32 | ~position: all different */
        };
        struct {
            QueryCode query;
            SelectSpace select;
            uint32_t claimed;
        } rescore;
    };
};

struct FloorRegionSpace : RegionSpace {
    FloorSpace floor;
};

template <SelectBy kBy>
using SelectSpaceBy = std::conditional_t<kHasFloor<kBy>, FloorRegionSpace, RegionSpace>;

/* Of one level or four, past L1; of a floor's pairs, apart. */
template <int kNum>
__device__ inline void load_pairs(uint32_t (&x)[kNum], uint32_t (&y)[kNum], const uint32_t *pairs)
{
    using Loaded = std::conditional_t<kNum == 1, uint2, uint4>;
    uint32_t both[2 * kNum];
#pragma unroll
    for (int k = 0; k < 2 * kNum; k += sizeof(Loaded) / 4) {
        const Loaded loaded = load_l2(reinterpret_cast<const Loaded *>(pairs + k));
        memcpy(both + k, &loaded, sizeof(loaded));
    }
#pragma unroll
    for (int k = 0; k < kNum; k++) {
        x[k] = both[2 * k];
        y[k] = both[2 * k + 1];
    }
}

template <int kNum>
__device__ inline void load_counts(uint32_t (&x)[kNum], const uint32_t *counts)
{
    using Loaded = std::conditional_t<kNum == 4, uint4, uint32_t>;
    const Loaded loaded = load_l2(reinterpret_cast<const Loaded *>(counts));
    memcpy(x, &loaded, sizeof(x));
}

/* The row of a task's first region. */
__device__ inline uint16_t *rows_of(const RegionRun &run, const RegionCut &cut)
{
    return run.rows + static_cast<int64_t>(cut.first_row) * run.row_size;
}

/* A task's part of what the score kernel left. */
struct RegionView {
    const RegionRun &run;
    const RegionTask &task;
    const RegionCut &cut;
    const uint16_t *rows;

    /* Of a range up to the end of a region: scores above the threshold, and at least as large. */
    __device__ void count_range(uint32_t threshold, int region, int32_t range_start, uint32_t *above,
                                uint32_t *all) const
    {
        const uint16_t *entry = rows + (static_cast<uint32_t>(region * run.row_size) + threshold);
        *above = threshold < static_cast<uint32_t>(run.num_levels) ? load_l2(entry) : 0;
        *all = threshold ? load_l2(entry - 1)
                         : static_cast<uint32_t>(
                               max(0, min((region + 1) * cut.region, task.end) - max(range_start, task.first)));
    }

    /* Of a region: scores above the threshold, and equal to it. Rows count from the start of a warp's range. */
    __device__ void count_region(uint32_t threshold, int region, uint32_t *above, uint32_t *equal) const
    {
        const int range = static_cast<int>(cut.range_of(region));
        uint32_t before_above = 0, before_all = 0, all;
        count_range(threshold, region, range * cut.range, above, &all);
        if (region != range * static_cast<int>(cut.per_range))
            count_range(threshold, region - 1, range * cut.range, &before_above, &before_all);
        *above -= before_above;
        *equal = all - before_all - *above;
    }

    /* f(level, position, place in the list) of a range's candidates in order, by a warp; past the end of the list lanes see level 0. */
    template <class F>
    __device__ void each_candidate(int region, F f) const
    {
        constexpr int kLoads = 4;
        const int32_t start = region * cut.region;
        const uint32_t list = cut.first_score + static_cast<uint32_t>(region) * cut.room;
        const int size = load_l2(rows + static_cast<uint32_t>(region * run.row_size)),
                  room = static_cast<int>(cut.room);
        int first = 0;
#pragma unroll 1
        do { /* the first ones are on their way before their number is known: the memory is the range's, however many there are */
            uint32_t loaded[kLoads];
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                loaded[i] = load_l2(reinterpret_cast<const uint32_t *>(run.scores) + list +
                                    min(first + i * 32 + lane_id(), room - 1));
#pragma unroll
            for (int i = 0; i < kLoads; i++) {
                const int place = first + i * 32 + lane_id();
                const uint32_t candidate = place < size ? loaded[i] : 0;
                f(candidate & 0xffff, static_cast<uint32_t>(start) + (candidate >> 16), list + place);
            }
            first += kLoads * 32;
        } while (first < size);
    }
};

/* The order of candidates of one level. */
__device__ inline uint64_t fine_of(uint32_t key, uint32_t position)
{
    return static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(~position);
}

/* Brings the keys of the threshold's level together, at most kFine, and finds the least of those that are kept. All threads; ends with a
 * barrier. */
__device__ inline void rank_fine(const RegionView &view, int num_regions, Threshold threshold, RegionSpace &space)
{
    if (threadIdx.x == 0)
        space.num_fine = space.num_fine_regions = 0;
    __syncthreads();
    for (int region = threadIdx.x; region < num_regions; region += kThreads) {
        uint32_t above, equal;
        view.count_region(threshold.key, region, &above, &equal);
        if (equal)
            space.fine_regions[atomic_add(&space.num_fine_regions, 1u)] = region;
    }
    __syncthreads();
    for (uint32_t i = warp_id(); i < space.num_fine_regions; i += kWarps)
        view.each_candidate(space.fine_regions[i], [&](uint32_t level, uint32_t position, uint32_t place) {
            if (level == threshold.key)
                space.fine[atomic_add(&space.num_fine, 1u)] = fine_of(load_l2(view.run.keys + place), position);
        });
    __syncthreads();
    const uint32_t num = space.num_fine;
    for (uint32_t i = threadIdx.x; i < num; i += kThreads) {
        const uint64_t mine = space.fine[i];
        uint32_t before = 0;
        for (uint32_t j = 0; j < num; j++)
            before += space.fine[j] > mine;
        if (before + 1 == threshold.ties)
            space.fine_threshold = mine;
    }
    __syncthreads();
}

} // namespace hattn

#endif
