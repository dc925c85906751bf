/* SPDX-License-Identifier: Apache-2.0
 * A floor of probability in a decode by regions (api/hattn.h, hattn_topk). The score kernel also counts every HATTN_FLOOR_STRIDE'th position apart:
 * a task's histogram is of pairs. From it each block of the attend kernel knows all that the rule asks for: the largest score, the budget's last
 * one, and with a barrier more the sum, hence the least score that stays.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_FLOOR_CUH
#define HATTN_KERNELS_CUDA_DECODE_FLOOR_CUH

#include "core/floor.h"
#include "kernels_cuda/decode/regions.cuh"
#include "kernels_cuda/decode/tail.cuh"
#include "kernels_cuda/select/select.cuh"

namespace hattn {

/* Of a decode with a floor or a tail. Others are spared the parameters. */
struct FloorRun : RegionRun {
    uint64_t tau; /* core/floor.h */
    int32_t min_k;
    const int32_t *slopes; /* by head, the bits of floats */
    int32_t *steps;        /* by row and head: made by score blocks, or given; the caller's, or in the workspace */
    int64_t slope_head, steps_row, steps_head;
};

/* What a selection is made by: scores; levels, and keys behind them; scores with a floor; the same, or without one, and attention with a tail. */
enum class SelectBy { SCORES, KEYS, FLOOR, TAIL };

template <SelectBy kBy>
constexpr bool kHasFloor = kBy == SelectBy::FLOOR || kBy == SelectBy::TAIL;

template <SelectBy kBy>
using RunBy = std::conditional_t<kHasFloor<kBy>, FloorRun, RegionRun>;

template <class Run>
Run make_run(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave, hattn_buffer workspace)
{
    if constexpr (std::is_same_v<Run, RegionRun>) {
        return region_run(params, args, wave, workspace);
    } else {
        const hattn_problem &p = params.problem;
        const bool shows = args.steps.data;
        FloorRun run = {};
        static_cast<RegionRun &>(run) = region_run(params, args, wave, workspace);
        const bool has_floor = p.min_probability > 0 && !p.num_candidates; /* that of candidates comes later */
        run.tau = has_floor ? params.floor_tau : 0;
        run.min_k = has_floor ? p.min_k : params.selected; /* without a floor all that the budget keeps */
        run.slopes = static_cast<const int32_t *>(hattn_address(args.slopes));
        run.slope_head = p.slopes.stride[0];
        run.steps = reinterpret_cast<int32_t *>(shows ? static_cast<char *>(hattn_address(args.steps))
                                                      : static_cast<char *>(hattn_address(workspace)) + params.steps);
        run.steps_row = shows ? p.steps.stride[0] : p.num_selection_heads;
        run.steps_head = shows ? p.steps.stride[1] : 1;
        return run;
    }
}

/* A pair for each level: all that have it, and those that the floor counts. */
__device__ inline int level_words(const FloorRun &run) { return 2 * run.row_size; }

/* A row that its budget does not shorten may be shortened by the floor. */
__device__ inline RegionTask region_task(const FloorRun &run, hattn_row_place place, int32_t seq_len, int32_t budget)
{
    RegionTask task = region_task(static_cast<const RegionRun &>(run), place, seq_len, budget);
    task.is_ranked = task.kept > run.num_sink + run.num_recent && (task.kept < task.length || task.kept > run.min_k);
    return task;
}

/* How many of the middle are so counted. */
__device__ inline uint32_t num_floor_positions(const RegionTask &task)
{
    return static_cast<uint32_t>(task.end + HATTN_FLOOR_STRIDE - 1) / HATTN_FLOOR_STRIDE -
           static_cast<uint32_t>(task.first + HATTN_FLOOR_STRIDE - 1) / HATTN_FLOOR_STRIDE;
}

struct FloorSpace {
    uint32_t factors[HATTN_FLOOR_FACTORS];
    uint64_t sums[kWarps];
    int32_t tops[kWarps];
    uint32_t kept; /* of a row that was scored anew */
};

/* Before a barrier. */
__device__ inline void load_factors(FloorSpace &space)
{
    static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
    if (threadIdx.x < HATTN_FLOOR_FACTORS)
        space.factors[threadIdx.x] = kFactors[threadIdx.x];
}

/* The largest distance from the largest score at which a share is at least `least`; -1: none. By all lanes of a warp alike, each with two of the
 * factors; inverse: of `step`, or of 1. */
__device__ inline int32_t floor_reach(uint64_t least, uint32_t step, float inverse, const uint32_t (&factors)[2])
{
    /* The octave of the last share that is, and how many of its 64 are: a distance times the step, in 1/1024, is below that. */
    const uint32_t share = static_cast<uint32_t>(least), octaves = 30 - bit_width(share - 1),
                   num = count_ones(ballot(factors[0] >> (octaves & 31) >= share)) +
                         count_ones(ballot(factors[1] >> (octaves & 31) >= share)),
                   limit = 16 * (64 * octaves + num) - 1;
    /* Exact: both are below 2^16, and the half is far more than what the product is off. */
    const int32_t reach = static_cast<int32_t>((static_cast<float>(limit & 0xffff) + 0.5f) * inverse);
    return least > 1u << 30 ? -1 : least == 0 || step == 0 ? HATTN_CUDA_LEVELS : reach;
}

/* The middle of a task, and what its budget and its floor leave of it. */
struct FloorQuery {
    uint32_t middle, wanted, least; /* positions; kept by the budget, and in any case */
    uint32_t step;
    uint64_t tau;
};

__device__ inline FloorQuery floor_query(const FloorRun &run, int32_t row, int32_t head, uint32_t middle,
                                         uint32_t wanted)
{
    const int32_t least = max(run.min_k - run.num_sink - run.num_recent, 0);
    return {middle, wanted, min(static_cast<uint32_t>(least), wanted),
            static_cast<uint32_t>(load_l2(run.steps + row * run.steps_row + head * run.steps_head)), run.tau};
}

struct FloorFound {
    Threshold threshold;
    uint32_t kept;
    bool is_known; /* the budget's last score, if there is one, is not 0 */
};

/* How many reach the scores of a warp's share, lane w (and those 8, 16 and 24 after it) of warp w's. */
class SharesAbove
{
public:
    /* After leave_levels and a barrier. By all lanes of a warp, as all of it. */
    __device__ explicit SharesAbove(const LevelSpace &space)
    {
        const uint32_t mine = space.totals[lane_id() % kWarps];
        reaching_ = mine;
#pragma unroll
        for (int offset = 1; offset < kWarps; offset *= 2) {
            const uint32_t after = from_after(reaching_, offset);
            reaching_ += lane_id() % kWarps + offset < kWarps ? after : 0;
        }
        above_ = reaching_ - mine;
    }

    /* The share's least score, or more than its largest. */
    __device__ uint32_t reaching(int share) const { return from_lane(reaching_, share); }
    __device__ uint32_t above(int share) const { return from_lane(above_, share); }

    /* The largest score that at least `wanted` reach, and what is left of them. */
    template <int kPerLane>
    __device__ Threshold look_up(uint32_t wanted, const LevelSpace &space) const
    {
        constexpr int kShare = kLevelShare<kPerLane>;
        const int share = max(bit_width(ballot(reaching_ >= wanted) & ((1u << kWarps) - 1)) - 1, 0);
        const uint32_t *at_least = &space.at_least[share * kShare];
        const uint32_t before = above(share);
        int reached = 0;
#pragma unroll
        for (int k = 0; k < kPerLane; k++)
            reached += count_ones(ballot(before + at_least[k * 32 + lane_id()] >= wanted));
        return {static_cast<uint32_t>(reached ? share * kShare + reached : 0),
                wanted - before - (reached < kShare ? at_least[reached] : 0)};
    }

private:
    uint32_t reaching_, above_;
};

/* What a step's octaves and factors make of shares. */
struct ShareScale {
    uint32_t largest, step;
    float inverse;
    const uint32_t *table;
    uint32_t factors[2]; /* of a lane */

    __device__ uint32_t share(uint32_t score) const
    {
        return hattn_floor_share(largest - score, static_cast<int32_t>(step), table);
    }

    /* The least score whose share is at least so large; above the largest where there is none. */
    __device__ int32_t reach(uint64_t least) const
    {
        return static_cast<int32_t>(largest) - floor_reach(least, step, inverse, factors);
    }
};

/* A tail's part of what the histogram says, for tail_sums, before a barrier. counts: of this thread's levels, from first + 1 on; sum: of all shares. */
template <int kPerLane>
__device__ inline void tell_tail(const FloorFound &found, const uint32_t (&counts)[kPerLane], int first, uint64_t sum,
                                 const ShareScale &scale, const SharesAbove &shares, const LevelSpace &space)
{
    TailSums &tail = tail_sums();
    const uint32_t threshold = found.threshold.key;
    /* Of scores from 1 on. */
    auto num_reaching = [&](int32_t score) {
        const int32_t level = min(max(score - 1, 0), HATTN_CUDA_LEVELS - 1);
        return space.at_least[level] + shares.above(level / kLevelShare<kPerLane>);
    };
    /* The least share of those that are kept and have one, and how many have. */
    const int32_t top = static_cast<int32_t>(scale.largest);
    const uint32_t of_threshold = scale.share(threshold);
    uint32_t least = of_threshold, num = found.kept;
    int32_t lowest = 0;
    if (least == 0) { /* seldom */
        lowest = scale.reach(1);
        num = num_reaching(lowest);
        least = scale.share(shares.look_up<kPerLane>(num, space).key);
    }
    int32_t near_end = scale.reach(4 * static_cast<uint64_t>(least));
    if (num - (near_end > top ? 0 : num_reaching(near_end)) < HATTN_FEW_ANCHORS)
        near_end = top + 1;

    uint64_t kept = 0, near = 0;
#pragma unroll
    for (int k = 0; k < kPerLane; k++) {
        const int32_t score = first + k + 1;
        const uint64_t its = score > static_cast<int32_t>(threshold)
                                 ? static_cast<uint64_t>(counts[k]) * scale.share(static_cast<uint32_t>(score))
                                 : 0;
        kept += its;
        near += score < near_end ? its : 0;
    }
    kept = warp_total_of_large(kept);
    near = warp_total_of_large(near);
    if (lane_id() == 0) {
        tail.kept[warp_id()] = kept;
        tail.near[warp_id()] = near;
    }
    if (threadIdx.x == 0) {
        tail.sum = sum;
        tail.of_ties = static_cast<uint64_t>(found.threshold.ties) * of_threshold;
        tail.least = lowest;
        tail.near_end = near_end;
    }
}

/* Little code, in one piece, and no branches that are often taken: it runs once, out of a cold cache. */
template <bool kTail, int kPerLane, class Load>
__device__ inline FloorFound find_floor_in(int row_size, const FloorQuery &query, LevelSpace &space, FloorSpace &floor,
                                           uint32_t zeros, Load load)
{
    constexpr int kShare = kLevelShare<kPerLane>;
    const int first = warp_id() * kShare + lane_id() * kPerLane;
    uint32_t counts[kPerLane] = {}, sampled[kPerLane] = {}, at_least[kPerLane];
    if (first < row_size)
        load(counts, sampled, first);
    int32_t top = 0;
#pragma unroll
    for (int k = 0; k < kPerLane; k++) {
        at_least[k] = counts[k];
        top = counts[k] ? first + k + 1 : top;
    }
    top = warp_largest(top);
    if (lane_id() == 0)
        floor.tops[warp_id()] = top;
    leave_levels(at_least, first, space);
    __syncthreads();

    const uint32_t largest = static_cast<uint32_t>(warp_largest(floor.tops[lane_id() % kWarps]));
    const SharesAbove shares(space);
    const uint32_t total = shares.reaching(0), above = shares.above(warp_id());
    /* The sum in 1/2^30 of the largest score's share: below 2^62. What fewer reach than the budget keeps is above its last score. */
    const bool keeps_all = query.wanted == query.middle;
    auto share = [&](uint32_t score) {
        return hattn_floor_share(largest - score, static_cast<int32_t>(query.step), floor.factors);
    };
    uint64_t mine = 0;
#pragma unroll
    for (int k = 0; k < kPerLane; k++) {
        const bool is_above = keeps_all || space.at_least[first + k] + above < query.wanted;
        mine += static_cast<uint64_t>(is_above ? counts[k] : HATTN_FLOOR_STRIDE * sampled[k]) *
                share(static_cast<uint32_t>(first + k + 1));
    }
    mine = warp_total_of_large(mine);
    if (lane_id() == 0)
        floor.sums[warp_id()] = mine;
    const uint64_t of_zeros =
        static_cast<uint64_t>(keeps_all ? query.middle - total : HATTN_FLOOR_STRIDE * zeros) * share(0);
    const uint32_t factors[2] = {floor.factors[lane_id()], floor.factors[32 + lane_id()]};
    const float inverse = fast_inverse(static_cast<float>(max(query.step, 1u)));
    __syncthreads();

    uint64_t sums[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; w++)
        sums[w] = floor.sums[w];
#pragma unroll
    for (int half = kWarps / 2; half; half /= 2)
#pragma unroll
        for (int w = 0; w < half; w++)
            sums[w] += sums[w + half];
    const int32_t reach =
        floor_reach(hattn_floor_least_share(query.tau, sums[0] + of_zeros), query.step, inverse, factors);
    /* How many reach the least score that stays, if any does; all reach 0. */
    const int32_t score = static_cast<int32_t>(largest) - reach, level = min(max(score - 1, 0), HATTN_CUDA_LEVELS - 1);
    const uint32_t some = space.at_least[level] + shares.above(level / kShare), reaching = reach < 0    ? 0
                                                                                           : score <= 0 ? query.middle
                                                                                                        : some;
    FloorFound found;
    found.is_known = keeps_all || total >= query.wanted;
    found.kept = min(max(reaching, query.least), query.wanted);
    found.threshold = shares.look_up<kPerLane>(found.kept, space);
    if constexpr (kTail)
        tell_tail(found, counts, first, sums[0] + of_zeros,
                  {largest, query.step, inverse, floor.factors, {factors[0], factors[1]}}, shares, space);
    return found;
}

/* The selection of a task: positions above the threshold's key and the first `ties` that have it, `kept` in all. load(x, y, i) gives the counts of one
 * score or four, from i + 1 on, in x and those of HATTN_FLOOR_STRIDE'th positions in y; zeros: of these, those of score 0. All threads, after
 * load_factors; there are two barriers in it, and space may be used again after another one. kTail: also what tail_sums has, for after that one. */
template <bool kTail, class Load>
__device__ inline FloorFound find_floor(int row_size, const FloorQuery &query, LevelSpace &space, FloorSpace &floor,
                                        uint32_t zeros, Load load)
{
    return row_size <= kThreads
               ? find_floor_in<kTail, 1>(row_size, query, space, floor, zeros, load)
               : find_floor_in<kTail, HATTN_CUDA_LEVELS / kThreads>(row_size, query, space, floor, zeros, load);
}

} // namespace hattn

#endif
