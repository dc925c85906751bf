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

constexpr int kWindow = 2048;

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
        int32_t positions[kWindow]; /* found at a time, where scores are levels */
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

/* Candidates of a range's list on their way to a lane, position - start << 16 | level, and how many the list has. */
struct ListStep {
    static constexpr int kPerLane = 4, kSize = 32 * kPerLane;

    uint4 candidates;
    int size;
};

/* Bits i of the scores (16 bytes, each below 2^15) that are at least `threshold`. */
__device__ inline uint32_t at_least_bits(const uint4 &scores, uint32_t threshold)
{
    const uint32_t subtrahend = threshold * 0x10001u, *words = &scores.x;
    uint32_t bits = 0; /* of even scores in the low half, of odd ones in the high half */
#pragma unroll
    for (int w = 0; w < 4; w++) /* no borrow crosses from half to half: the top bit is what is left of it */
        bits |= (((words[w] | 0x80008000u) - subtrahend) & 0x80008000u) >> (15 - 2 * w);
    return (bits | bits >> 15) & 0xff;
}

/* One of 8 scores, without an address of a register. */
__device__ inline uint32_t score_at(const uint4 &scores, int i)
{
    const uint32_t low = i & 2 ? scores.y : scores.x, high = i & 2 ? scores.w : scores.z, word = i & 4 ? high : low;
    return i & 1 ? word >> 16 : word & 0xffff;
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

    /* The first 128 candidates of a range's list, four a lane, and how many there are in all: asked for together. */
    __device__ ListStep first_step(int region) const
    {
        return {load_list(region, 0), static_cast<int>(load_l2(rows + static_cast<uint32_t>(region * run.row_size)))};
    }

    /* From `first` on. The memory is the range's, however many there are. */
    __device__ uint4 load_list(int region, int first) const
    {
        const int place = min(first + lane_id() * ListStep::kPerLane, static_cast<int>(cut.room) - ListStep::kPerLane);
        return load_l2(reinterpret_cast<const uint4 *>(run.scores) + (list_of(region) + place) / ListStep::kPerLane);
    }

    __device__ uint32_t position_of(int region, uint32_t candidate) const
    {
        return static_cast<uint32_t>(region * cut.region) + (candidate >> 16);
    }

    __device__ uint32_t list_of(int region) const { return cut.first_score + static_cast<uint32_t>(region) * cut.room; }

    /* f(candidates, place in the range's list of the lane's first one) of all of a list, by a warp; past its end they are 0. *step: the list's first one, then
     * that of the next region, if there is one. What comes next is always on its way. */
    template <class F>
    __device__ void each_step(int region, ListStep *step, int next_region, F f) const
    {
        const int size = step->size;
#pragma unroll 1
        for (int first = 0;; first += ListStep::kSize) {
            uint32_t candidates[ListStep::kPerLane];
            memcpy(candidates, &step->candidates, sizeof(candidates));
            const bool is_last = first + ListStep::kSize >= size;
            if (!is_last)
                step->candidates = load_list(region, first + ListStep::kSize);
            else if (next_region >= 0)
                *step = first_step(next_region);
            const int place = first + lane_id() * ListStep::kPerLane;
#pragma unroll
            for (int i = 0; i < ListStep::kPerLane; i++)
                candidates[i] = place + i < size ? candidates[i] : 0;
            f(candidates, static_cast<uint32_t>(place));
            if (is_last)
                return;
        }
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
    for (uint32_t i = warp_id(); i < space.num_fine_regions; i += kWarps) {
        const int region = space.fine_regions[i];
        ListStep step = view.first_step(region);
        view.each_step(region, &step, -1, [&](const auto &candidates, uint32_t place) {
#pragma unroll
            for (int c = 0; c < ListStep::kPerLane; c++)
                if ((candidates[c] & 0xffff) == threshold.key)
                    space.fine[atomic_add(&space.num_fine, 1u)] =
                        fine_of(load_l2(view.run.keys + view.list_of(region) + place + c),
                                view.position_of(region, candidates[c]));
        });
    }
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
