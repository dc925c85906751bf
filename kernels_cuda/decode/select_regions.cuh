/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k out of what score_regions.cuh left (regions.cuh): the threshold from the task's histogram, the regions of a share of the
 * ranks from two entries of each row, and a warp a region to list positions in order.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SELECT_REGIONS_CUH
#define HATTN_KERNELS_CUDA_DECODE_SELECT_REGIONS_CUH

#include "kernels_cuda/decode/rescore.cuh"
#include "kernels_cuda/decode/schedule.cuh"

namespace hattn {

/* What a selection knows beside its threshold. */
template <bool kFloor>
struct FloorResult {
};

template <>
struct FloorResult<true> {
    int32_t kept; /* of the row: what its budget keeps, then what the floor leaves of it */
    bool is_known;
};

template <SelectBy kBy>
class RegionSelection : FloorResult<kHasFloor<kBy>>
{
    static constexpr bool kKeyed = kBy == SelectBy::KEYS, kFloor = kHasFloor<kBy>, kTail = kBy == SelectBy::TAIL;

public:
    /* Before the score kernel has ended; of task `index` of the wave. */
    __device__ RegionSelection(const RunBy<kBy> &run, uint32_t index, const RegionCut &cut, const RegionTask &task,
                               SelectSpaceBy<kBy> &space)
        : run_(run), task_(task), cut_(cut), space_(space), rows_(rows_of(run, cut)),
          histogram_(histogram_of(run, index)),
          used_(static_cast<int>(static_cast<uint32_t>(max(task.end, 0) + cut.region - 1) /
                                 static_cast<uint32_t>(cut.region))),
          group_((used_ + kGroups - 1) / kGroups)
    {
        compute_now(rows_);
        compute_now(histogram_);
        if constexpr (kFloor) {
            this->kept = task.kept;
            load_factors(space.floor);
        }
    }

    /* After it: threshold, and what comes before this thread's group of regions. False: the lists do not tell (rescore.cuh). */
    __device__ bool find([[maybe_unused]] const PlacedTask &placed)
    {
        if (!task_.is_ranked)
            return true;
        bool has_overflown = false;
        if (run_.is_sampled) {
            const uint2 flags =
                load_l2(reinterpret_cast<const uint2 *>(histogram_ + level_words(run_) + HATTN_CUDA_OVERFLOWN));
            has_overflown = flags.x;
            is_all_equal_ = flags.y;
        }
        if (!kFloor && is_all_equal_)
            return true;
        find_threshold(placed);
        if (run_.is_sampled && (!is_listed() || has_overflown)) {
            __syncthreads(); /* space is used for something else */
            return false;
        }
        if (kFloor && (is_all_equal_ || !is_ranked())) {
            if (kTail)
                __syncthreads(); /* which others have by listing, if they have rows */
            return true;
        }
        const int first = group_of(lane_id()), end = min(first + group_, used_);
        uint2 mine = {0, 0};
#pragma unroll 1
        for (int region = first; region < end; region++) {
            uint32_t above, equal;
            count(region, &above, &equal);
            mine.x += above;
            mine.y += equal;
        }
        if constexpr (!kFloor)
            mine_ = mine;
        space_.counts[lane_id() * kGroupRow + warp_id()] = mine;
        __syncthreads();
        const uint2 *row = &space_.counts[lane_id() * kGroupRow];
        uint2 sum = {0, 0}; /* of a lane's groups in all warps */
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            if (w == warp_id())
                before_ = sum;
            sum.x += row[w].x;
            sum.y += row[w].y;
        }
        const uint2 scan = {warp_scan(sum.x), warp_scan(sum.y)};
        before_.x += scan.x - sum.x;
        before_.y += scan.y - sum.y;
        if constexpr (kKeyed) {
            if (from_lane(scan.y, 31) > kFine)
                return false;
            rank_fine(view(), used_, threshold_, space_);
        }
        return true;
    }

    /* Of the row, when it is found. */
    __device__ int32_t num_kept() const
    {
        if constexpr (kFloor)
            return this->kept;
        return task_.kept;
    }

    /* It was scored anew. */
    __device__ void take_rescored()
    {
        if constexpr (kFloor)
            this->kept = static_cast<int32_t>(space_.floor.kept) + run_.num_sink + run_.num_recent;
    }

    /* Some of the middle are kept and some are not. */
    __device__ bool is_ranked() const
    {
        if constexpr (kFloor)
            return this->kept > run_.num_sink + run_.num_recent && this->kept < task_.length;
        return task_.is_ranked;
    }

    /* What there is to score anew. */
    __device__ RescoreTask rescore_task(const PlacedTask &placed) const
    {
        return {
            cut_.first_score,      placed.row,   placed.head,
            placed.place.sequence, task_.first,  task_.end,
            cut_.range * kWarps,   placed.index, static_cast<uint32_t>(task_.kept - run_.num_sink - run_.num_recent)};
    }

    /* sink(rank, position) for ranks first..end of 0..kept, with a tail of marked positions. is_found: what find said; else the row was scored anew. Ends
     * with a barrier. */
    template <class Sink>
    __device__ void visit(int first, int end, bool is_found, Sink sink) const
    {
        const int num_forced = run_.num_sink + run_.num_recent;
        if (num_forced || !is_ranked())
            visit_forced(task_.length, num_kept(), run_.num_sink, run_.num_recent, first, end, sink);
        if (is_all_equal_ || !is_found) {
            const uint32_t *positions = rescored_positions(run_, cut_.first_score);
            for (int rank = max(first, run_.num_sink) + static_cast<int>(threadIdx.x);
                 rank < min(end, num_kept() - run_.num_recent); rank += kThreads)
                sink(rank, is_all_equal_ ? MarksBy().mark(rank, 0)
                                         : static_cast<int>(load_l2(positions + rank - run_.num_sink)));
        } else if (is_ranked()) {
            const int low = max(first - run_.num_sink, 0), high = min(end - run_.num_sink, num_kept() - num_forced);
            visit_groups(low, high, [&](uint32_t rank, int position) {
                if (static_cast<int>(rank) >= low && static_cast<int>(rank) < high)
                    sink(static_cast<int>(rank) + run_.num_sink, position);
            });
        }
        __syncthreads();
    }

    /* Counts blocks of the task's heads. */
    __device__ uint32_t *joined() const { return histogram_ + level_words(run_) + HATTN_CUDA_JOINED; }

    /* Once, by the last block that reads it. */
    __device__ void clear() const
    {
        if (!task_.is_ranked)
            return;
        for (int i = threadIdx.x; i < level_words(run_) + HATTN_CUDA_FLAGS; i += kThreads)
            histogram_[i] = 0;
    }

private:
    __device__ RegionView view() const { return {run_, task_, cut_, rows_}; }

    /* Above the threshold and equal to it in this thread's group. With a floor registers are short. */
    __device__ uint2 mine() const { return kFloor ? space_.counts[lane_id() * kGroupRow + warp_id()] : mine_; }

    using MarksBy = std::conditional_t<kTail, Marks, NoMarks>;

    /* The first region of this warp's group `lane`. */
    __device__ int group_of(int lane) const { return (lane * kWarps + warp_id()) * group_; }

    /* How many of the middle are selected before a region that so many above the threshold, and equal to it, come before. */
    __device__ int kept_before(int region, uint2 before) const
    {
        if (!kKeyed)
            return static_cast<int>(before.x + min(before.y, threshold_.ties));
        const uint32_t num = space_.num_fine,
                       start = static_cast<uint32_t>(region) * static_cast<uint32_t>(cut_.region);
        for (uint32_t j = 0; j < num; j++) /* low words are complements of positions */
            before.x += space_.fine[j] >= space_.fine_threshold && ~static_cast<uint32_t>(space_.fine[j]) < start;
        return static_cast<int>(before.x);
    }

    /* Whether the threshold is one that lists of candidates know, which have no score 0. */
    __device__ bool is_listed() const
    {
        if constexpr (kFloor)
            return this->is_known;
        return threshold_.key != 0;
    }

    /* The largest score that at least as many of the middle reach as are wanted, or with a floor as are kept. */
    __device__ void find_threshold([[maybe_unused]] const PlacedTask &placed)
    {
        if constexpr (kFloor) {
            const int32_t forced = run_.num_sink + run_.num_recent;
            const FloorQuery query =
                floor_query(run_, placed.row, placed.head, static_cast<uint32_t>(task_.end - task_.first),
                            static_cast<uint32_t>(task_.kept - forced));
            const FloorFound found =
                find_floor<kTail>(run_.row_size, query, space_.levels, space_.floor,
                                  load_l2(histogram_ + level_words(run_) + HATTN_CUDA_ZEROS),
                                  [&](auto &x, auto &y, int i) { load_pairs(x, y, histogram_ + 2 * i); });
            threshold_ = found.threshold;
            this->kept = static_cast<int32_t>(found.kept) + forced;
            /* Score 0 is in no list: where the budget ends there, what it leaves out is not known. */
            this->is_known = is_all_equal_ || (found.is_known && (threshold_.key || !is_ranked()));
        } else {
            const uint32_t wanted = static_cast<uint32_t>(task_.kept - run_.num_sink - run_.num_recent);
            uint32_t above;
            threshold_.key = find_level(run_.row_size, wanted, &above, space_.levels,
                                        [&](auto &x, int i) { load_counts(x, histogram_ + i); });
            threshold_.ties = wanted - above;
        }
    }

    __device__ void count(int region, uint32_t *above, uint32_t *equal) const
    {
        view().count_region(threshold_.key, region, above, equal);
    }

    /* Lanes that hold ranks low..high of the middle in their regions, `num` from `region` on. */
    __device__ uint32_t hits_of(int low, int high, int region, int num, uint2 before, uint2 mine) const
    {
        const int kept = kept_before(region, before),
                  after = kept_before(region + num, {before.x + mine.x, before.y + mine.y});
        return ballot(after > low && kept < high && after > kept);
    }

    /* Where ranks low..high of the middle are: this warp's regions of them. Groups of several are counted again, a lane a region. */
    template <class Sink>
    __device__ void visit_groups(int low, int high, Sink sink) const
    {
        uint32_t groups = hits_of(low, high, group_of(lane_id()), group_, before_, mine()), hits = 0;
        int region = group_of(lane_id()), end = 0, next = 0;
        uint2 before = before_, passed = {0, 0};
        if (group_ == 1) {
            hits = groups;
            groups = 0;
        }
#pragma unroll 1
        for (;;) {
            if (hits) {
                visit_hits(hits, region, before, sink);
                hits = 0;
            }
            if (next >= end) {
                if (!groups)
                    return;
                const int lane = lowest_one(groups);
                groups &= groups - 1;
                next = group_of(lane);
                end = min(next + group_, used_);
                passed = {from_lane(before_.x, lane), from_lane(before_.y, lane)};
            }
            uint2 mine = {0, 0};
            region = next + lane_id();
            if (region < end)
                count(region, &mine.x, &mine.y);
            const uint2 scan = {warp_scan(mine.x), warp_scan(mine.y)};
            before = {passed.x + scan.x - mine.x, passed.y + scan.y - mine.y};
            passed = {passed.x + from_lane(scan.x, 31), passed.y + from_lane(scan.y, 31)};
            next += 32;
            hits = hits_of(low, high, region, region < end, before, mine); /* the next regions are another group's */
        }
    }

    /* Regions of those lanes that have a bit in `hits`, and what comes before them. */
    template <class Sink>
    __device__ void visit_hits(uint32_t hits, int region, uint2 before, Sink sink) const
    {
        const bool has_lists = kKeyed || run_.is_sampled;
        ListStep next = {};
        const int first = from_lane(region, lowest_one(hits));
        if (has_lists)
            next = view().first_step(first);
        else
            next.candidates = load_scores(first, 0);
#pragma unroll 1
        while (hits) {
            const int lane = lowest_one(hits), hit = from_lane(region, lane);
            uint32_t above = from_lane(before.x, lane), equal = from_lane(before.y, lane);
            hits &= hits - 1;
            const int next_region = hits ? from_lane(region, lowest_one(hits)) : -1;
            if (has_lists)
                list_candidates(hit, above, equal, &next, next_region, sink);
            else
                list_region(hit, above, equal, &next.candidates, next_region, sink);
        }
    }

    /* What is selected of a region, 256 scores at a time, the next ones on their way: *scores are its first ones, then the next region's. */
    template <class Sink>
    __device__ void list_region(int region, uint32_t above, uint32_t equal, uint4 *scores, int next_region,
                                Sink sink) const
    {
#pragma unroll 1
        for (int offset = 0; offset < cut_.region; offset += 256) {
            const uint4 now = *scores;
            if (offset + 256 < cut_.region)
                *scores = load_scores(region, offset + 256);
            else if (next_region >= 0)
                *scores = load_scores(next_region, 0);
            list_scores(now, region * cut_.region + offset, &above, &equal, sink);
        }
    }

    /* A lane's 8 scores of 256 of a region. */
    __device__ uint4 load_scores(int region, int offset) const
    {
        const int32_t first = region * cut_.region + offset;
        const uint16_t *scores = run_.scores + cut_.first_score + first + lane_id() * 8;
        return first < task_.end ? load_l2(reinterpret_cast<const uint4 *>(scores)) : uint4{};
    }

    /* What is selected of 256 scores, after so many of its region; adds to them. By a warp. */
    template <class Sink>
    __device__ void list_scores(const uint4 &scores, int32_t first, uint32_t *above_before, uint32_t *equal_before,
                                Sink sink) const
    {
        const int32_t position = first + lane_id() * 8;
        uint32_t mask = 0xff;
        if (position < task_.first)
            mask &= 0xffu << min(task_.first - position, 8);
        if (position + 8 > task_.end)
            mask &= 0xffu >> min(position + 8 - task_.end, 8);
        const uint32_t above = at_least_bits(scores, threshold_.key + 1) & mask,
                       both = at_least_bits(scores, threshold_.key) & mask;
        /* Both counts in one scan: they are below 2^16. */
        const uint32_t mine = count_ones(above) | count_ones(both & ~above) << 16, scan = warp_scan(mine),
                       total = from_lane(scan, 31);
        uint32_t num_above = *above_before + ((scan - mine) & 0xffff),
                 num_equal = *equal_before + ((scan - mine) >> 16);
        const MarksBy marks;
#pragma unroll 1
        for (uint32_t left = both; left; left &= left - 1) {
            const int bit = lowest_one(left);
            const bool is_above = above >> bit & 1;
            if (is_above || num_equal < threshold_.ties)
                sink(num_above + min(num_equal, threshold_.ties), marks.mark(position + bit, score_at(scores, bit)));
            num_above += is_above;
            num_equal += !is_above;
        }
        *above_before += total & 0xffff;
        *equal_before += total >> 16;
    }

    /* What is selected of a range's list. Of keyed candidates those that are kept count as above, and none as equal. By a warp. */
    template <class Sink>
    __device__ void list_candidates(int region, uint32_t above_before, uint32_t equal_before, ListStep *step,
                                    int next_region, Sink sink) const
    {
        if (kKeyed) {
            above_before = static_cast<uint32_t>(kept_before(region, {above_before, equal_before}));
            equal_before = 0;
        }
        const MarksBy marks;
        const RegionView of = view();
        of.each_step(region, step, next_region, [&](const auto &candidates, uint32_t place) {
            /* The threshold is not 0. Both counts in one scan: they are below 2^16. */
            uint32_t mine = 0, above = 0;
#pragma unroll
            for (int i = 0; i < ListStep::kPerLane; i++) {
                const uint32_t level = candidates[i] & 0xffff;
                bool is_above = level > threshold_.key;
                if (kKeyed && level == threshold_.key)
                    is_above = fine_of(load_l2(run_.keys + of.list_of(region) + place + i),
                                       of.position_of(region, candidates[i])) >= space_.fine_threshold;
                above |= is_above << i;
                mine += is_above ? 1 : !kKeyed && level == threshold_.key ? 1 << 16 : 0;
            }
            const uint32_t scan = warp_scan(mine), total = from_lane(scan, 31), before = scan - mine;
            uint32_t num_above = above_before + (before & 0xffff), num_equal = equal_before + (before >> 16);
#pragma unroll
            for (int i = 0; i < ListStep::kPerLane; i++) {
                const uint32_t level = candidates[i] & 0xffff;
                const bool is_above = above >> i & 1, is_equal = !kKeyed && level == threshold_.key;
                if (is_above || (is_equal && num_equal < threshold_.ties))
                    sink(num_above + min(num_equal, threshold_.ties),
                         marks.mark(static_cast<int>(of.position_of(region, candidates[i])), level));
                num_above += is_above;
                num_equal += is_equal;
            }
            above_before += total & 0xffff;
            equal_before += total >> 16;
        });
    }

    const RunBy<kBy> &run_;
    const RegionTask &task_;
    const RegionCut &cut_;
    SelectSpaceBy<kBy> &space_;
    const uint16_t *rows_; /* of the task, both */
    uint32_t *histogram_;
    const int used_, group_;    /* regions of the row, of a group */
    bool is_all_equal_ = false; /* the smallest positions are kept */
    Threshold threshold_ = {0, 0};
    uint2 mine_ = {0, 0}, before_ = {0, 0}; /* above the threshold and equal to it: in this thread's group, before it */
};

} // namespace hattn

#endif
