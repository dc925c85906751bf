/* SPDX-License-Identifier: Apache-2.0
 * The form of a decode in two kernels, of codes that can be counted on tensor cores. The keys of a task are cut into chunks, one a
 * block of the score kernel; a chunk into 8 ranges, one a warp; a range into regions. A warp keeps one histogram over its range and after each region leaves a row: how many keys of the range up to here score at
 * least 1, 2, ... levels. Blocks add their histograms up to the task's. The attend kernel then knows the threshold from the task's
 * histogram, and from two entries of each row which regions hold the ranks of its share, and each of its warps takes regions of its own:
 * nothing waits for another warp between a key's code and its place in a list.
 * Long ranges are sampled: each block scores a few thousand keys spread over the whole row, takes a bound that almost certainly is below
 * the threshold, and lists only the keys that reach it, with their scores: no score array is written or read again. Histograms and rows
 * then count what is listed. If less is listed than wanted, the bound was too high, and the attend kernel scores the row anew.
 * Scores that one histogram cannot hold (fp32 with norms, or sums above HATTN_CUDA_LEVELS) are keyed: always sampled, the range of the
 * sample is cut into levels that take the place of scores, and each candidate's key is listed beside it. The few keys of the threshold's
 * level are then ranked against each other.
 * Of more tasks than there are histograms the two kernels take a wave at a time, of rows or, if one has too many, of its heads.
 * Positions are absolute; sinks and recents have scores like all others but are in no histogram.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_REGIONS_CUH
#define HATTN_KERNELS_CUDA_DECODE_REGIONS_CUH

#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

/* Some rows of a decode, and some of their selection heads. */
struct Wave {
    int32_t first_row, num_rows, first_head, num_heads;

    __host__ bool is_first() const { return first_row == 0 && first_head == 0; }
};

/* What both kernels know, resolved on the host and small: a block reads its parameters from a cold cache. */
struct RegionRun {
    hattn_batch batch;
    const int32_t *budgets; /* or NULL */
    int64_t budget_stride[2];
    int32_t max_length, k, num_sink, num_recent;
    int32_t first_row, first_head; /* of the wave: tasks count from here */
    int32_t num_heads;             /* selection heads of the wave */
    int32_t region, range, chunk;  /* keys */
    int32_t num_regions;           /* of max_length */
    hattn_cuda_divisor region_size;
    hattn_cuda_divisor regions_per_range;
    int32_t num_levels, row_size; /* the largest score; entries of a row, a multiple of 8 */
    int32_t is_sampled;
    int32_t overlaps; /* with the decode after it */
    int32_t is_paged;
    uint16_t
        *scores; /* [task, score_stride]; sampled: u32, in each range its candidates, position - start << 16 | score */
    int64_t score_stride;
    uint32_t *keys;  /* NULL: scores are levels. Of candidates, like the list, in the order of scores */
    int8_t *weights; /* of the queries: made by score blocks, or given; the caller's, or in the workspace */
    int64_t weights_row, weights_head;
    uint16_t *rows;       /* [task, num_regions, row_size]: entry b - 1 is the count of scores >= b */
    uint32_t *histograms; /* [task, HATTN_CUDA_BINS]: entry b - 1 is the count of scores == b */
};

inline RegionRun region_run(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                            hattn_buffer workspace)
{
    const hattn_problem &p = params.problem;
    char *base = static_cast<char *>(hattn_address(workspace));
    RegionRun run = {};
    run.batch = args.batch;
    run.budgets = args.budgets.data ? static_cast<const int32_t *>(hattn_address(args.budgets)) : nullptr;
    run.budget_stride[0] = p.budgets.stride[0];
    run.budget_stride[1] = p.budgets.stride[1];
    run.max_length = p.max_length;
    run.k = p.k;
    run.num_sink = p.num_sink;
    run.num_recent = p.num_recent;
    run.first_row = wave.first_row;
    run.first_head = wave.first_head;
    run.num_heads = wave.num_heads;
    run.region = params.region;
    run.region_size = params.region_size;
    run.range = params.score_chunk / kWarps;
    run.chunk = params.score_chunk;
    run.num_regions = params.num_regions;
    run.regions_per_range = params.regions_per_range;
    run.num_levels = params.num_levels;
    run.row_size = params.row_size;
    run.is_sampled = params.is_sampled;
    run.is_paged = p.page_size > 0;
    /* A decode's first kernel waits beside the last one's blocks, and then shares L1 with their shared memory. That is no time for many codes: where
     * attention has much of it, where keys are listed too, or where each code is a line in flight. */
    const bool has_small_pages = p.page_size > 0 && p.page_size < 8;
    run.overlaps =
        !params.is_keyed &&
        !(params.is_sampled && (params.attend_shared > 0 || params.engine == HATTN_CUDA_PLAIN || has_small_pages));
    if (args.weights.data) {
        run.weights = static_cast<int8_t *>(hattn_address(args.weights));
        run.weights_row = p.weights.stride[0];
        run.weights_head = p.weights.stride[1];
    } else {
        run.weights = reinterpret_cast<int8_t *>(base + params.weights);
        run.weights_row = static_cast<int64_t>(p.num_selection_heads) * p.code_bits;
        run.weights_head = p.code_bits;
    }
    run.scores = reinterpret_cast<uint16_t *>(base + params.scores);
    run.score_stride = params.score_stride;
    run.keys = params.is_keyed ? reinterpret_cast<uint32_t *>(base + params.keys) : nullptr;
    run.rows = reinterpret_cast<uint16_t *>(base + params.rows);
    run.histograms = &reinterpret_cast<hattn_cuda_control *>(base)->histogram[0][0];
    return run;
}

/* One row and selection head. */
struct RegionTask {
    int64_t task;
    hattn_row row;
    int32_t kept, first, end; /* the middle, which is ranked: positions first..end */
    bool is_ranked;           /* some of the middle are kept and some are not */
};

/* From a row and a selection head to their task: what can be known before lengths may be read, asking for those, the task. */
class TaskFinder
{
public:
    /* Reads q_start alone, if there is one. */
    __device__ TaskFinder(const RegionRun &run, int32_t row, int32_t head)
        : run_(run), place_(hattn_place_row(&run.batch, row))
    {
        index_ = static_cast<int64_t>(row - run.first_row) * run.num_heads + (head - run.first_head);
        length_ = static_cast<const int32_t *>(hattn_address(run.batch.seq_len)) + place_.sequence;
        budget_ =
            run.budgets ? run.budgets + place_.sequence * run.budget_stride[0] + head * run.budget_stride[1] : nullptr;
        compute_now(length_);
        compute_now(budget_);
    }

    __device__ int32_t sequence() const { return place_.sequence; }

    __device__ void ask()
    {
        if (place_.sequence < 0)
            return;
        seq_len_ = load_now(length_);
        if (budget_)
            k_ = load_now(budget_);
    }

    __device__ RegionTask task() const
    {
        RegionTask task;
        task.task = index_;
        task.row = hattn_resolve_place(run_.max_length, place_, seq_len_);
        const int32_t forced = run_.num_sink + run_.num_recent;
        task.kept = hattn_kept_of(budget_ ? k_ : run_.k, run_.k, forced, task.row.length);
        task.first = run_.num_sink;
        task.end = task.row.length - run_.num_recent;
        task.is_ranked = task.kept < task.row.length && task.kept > forced;
        return task;
    }

private:
    const RegionRun &run_;
    const hattn_row_place place_;
    int64_t index_;
    const int32_t *length_, *budget_; /* the second may be NULL */
    int32_t seq_len_ = 0, k_ = 0;
};

__device__ inline RegionTask resolve_task(const RegionRun &run, int32_t row, int32_t head)
{
    TaskFinder finder(run, row, head);
    finder.ask();
    return finder.task();
}

struct LevelSpace {
    uint32_t at_least[HATTN_CUDA_LEVELS]; /* that reach a level, of those in the same warp's share of levels */
    uint32_t totals[kWarps];
};

template <int kPerLane, class Load>
__device__ inline uint32_t find_level_in(int row_size, uint32_t wanted, uint32_t *above, LevelSpace &space, Load load)
{
    constexpr int kShare = 32 * kPerLane; /* levels of a warp */
    const int first = warp_id() * kShare + lane_id() * kPerLane;
    uint32_t x[kPerLane] = {};
    if (first < row_size)
        load(x, first);
#pragma unroll
    for (int k = kPerLane - 2; k >= 0; k--)
        x[k] += x[k + 1];
    const uint32_t scan = warp_scan_down(x[0]);
#pragma unroll
    for (int k = 0; k < kPerLane; k++)
        space.at_least[first + k] = scan - x[0] + x[k];
    if (lane_id() == 0)
        space.totals[warp_id()] = scan;
    __syncthreads();

    uint32_t before = 0; /* in the shares above the one with the level, or above the lowest */
    int share = kWarps - 1;
#pragma unroll
    for (int w = kWarps - 1; w > 0; w--)
        if (share == w && before + space.totals[w] < wanted) {
            before += space.totals[w];
            share = w - 1;
        }
    const uint32_t *at_least = &space.at_least[share * kShare];
    int reached = 0;
#pragma unroll
    for (int k = 0; k < kPerLane; k++)
        reached += count_ones(ballot(before + at_least[k * 32 + lane_id()] >= wanted));
    *above = before + (reached < kShare ? at_least[reached] : 0);
    return reached ? share * kShare + reached : 0;
}

/* The largest level, from 1, that at least `wanted` reach, or 0; *above: how many reach the next one. load(x, i) gives the counts of one level or
 * four, from level i + 1 on. All threads; there is a barrier in it, and space may be used again after another one. */
template <class Load>
__device__ inline uint32_t find_level(int row_size, uint32_t wanted, uint32_t *above, LevelSpace &space, Load load)
{
    return row_size <= kThreads ? find_level_in<1>(row_size, wanted, above, space, load)
                                : find_level_in<HATTN_CUDA_LEVELS / kThreads>(row_size, wanted, above, space, load);
}

} // namespace hattn

#endif
