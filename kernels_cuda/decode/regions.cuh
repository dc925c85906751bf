/* SPDX-License-Identifier: Apache-2.0
 * The form of a decode in two kernels, of codes that can be counted on tensor cores. A task is a row and a selection head. Its keys are cut into
 * pieces, one a block of the score kernel; a piece into 8 ranges, one a warp; a range into regions:
 *
 *     positions  0        2048     4096     6144     8192 ...      S1: 32768 keys in 16 pieces of 2048
 *     piece      |   0    |   1    |   2    |   3    |
 *     range      |01234567|...                                     256 keys, a warp's; here a region each
 *
 * A warp keeps one histogram over its range and after each region leaves a row: how many keys of the range up to here score at
 * least 1, 2, ... levels. Blocks add their histograms up to the task's. The attend kernel then knows the threshold from the task's
 * histogram, and from two entries of each row which regions hold the ranks of its share, and each of its warps takes regions of its own:
 * nothing waits for another warp between a key's code and its place in a list.
 * Long ranges are sampled: each block scores a few thousand keys spread over the whole row, takes a bound that almost certainly is below
 * the threshold, and lists only the keys that reach it, with their scores: no score array is written or read again. Histograms and rows
 * then count what is listed. If less is listed than wanted, the bound was too high, and the attend kernel scores the row anew (rescore.cuh).
 * Scores that one histogram cannot hold (fp32 with norms, or sums above HATTN_CUDA_LEVELS) are keyed: always sampled, the range of the
 * sample is cut into levels that take the place of scores, and each candidate's key is listed beside it. The few keys of the threshold's
 * level are then ranked against each other.
 * Who does what follows from the rows that are there, not from the plan's maxima (cut.h, schedule.cuh). Of more tasks than there are histograms
 * the two kernels take a wave at a time, of rows or, if one has too many, of its heads.
 * Positions are absolute; sinks and recents have scores like all others but are in no histogram.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_REGIONS_CUH
#define HATTN_KERNELS_CUDA_DECODE_REGIONS_CUH

#include <algorithm>

#include "kernels_cuda/decode/cut.h"
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
    Wave wave;                            /* tasks count from here */
    hattn_cuda_divisor heads;             /* wave.num_heads */
    int32_t first_sequence, end_sequence; /* that may have rows in the wave */
    int32_t num_blocks;                   /* that are resident together */
    /* How the rows that are launched are cut. Alone: they are of one sequence, and none is padding. */
    int32_t is_alone;
    hattn_cuda_divisor tasks, pieces, splits, q_len; /* in all; of each task; of its selection */
    uint32_t even_units, room;                       /* of the largest piece; of a range's list */
    uint32_t units, least_pieces;                    /* of the longest task */
    uint32_t list_entries;                           /* of all lists */
    int32_t range_shift, region_shift;               /* of the range unit; how many times a region may double it */
    int32_t unscored_length;                         /* rows of so many keys keep all of them */
    int32_t num_levels, row_size;                    /* the largest score; entries of a row, a multiple of 8 */
    int32_t sample_size;
    int32_t is_sampled;
    int32_t overlaps; /* with the decode after it */
    int32_t is_paged;
    uint16_t *
        scores; /* of a piece, by position; sampled: u32, of each range its candidates, position - start << 16 | score */
    uint32_t *keys;  /* NULL: scores are levels. Of candidates, like the list, in the order of scores */
    int8_t *weights; /* of the queries: made by score blocks, or given; the caller's, or in the workspace */
    int64_t weights_row, weights_head;
    uint16_t *rows;       /* [region, row_size]: entry b - 1 is the count of scores >= b */
    uint32_t *histograms; /* [task, row_size + HATTN_CUDA_FLAGS]: entry b - 1 is the count of scores == b */
    uint64_t *rescored;   /* counts tasks */
};

inline void cut_run(const hattn_cuda_params &params, RegionRun *run)
{
    const int64_t tasks = static_cast<int64_t>(run->wave.num_rows) * run->wave.num_heads;
    run->is_sampled = hattn_cuda_is_sampled(&params, tasks);
    run->num_blocks = hattn_cuda_blocks(&params);
    run->units = static_cast<uint32_t>(hattn_cuda_units(&params));
    run->least_pieces =
        static_cast<uint32_t>(hattn_cuda_divide_up(hattn_cuda_units(&params), hattn_cuda_most_units(&params)));
    run->list_entries = params.list_entries;
    while (params.range_unit >> run->range_shift > 1)
        run->range_shift++;
    while (!run->is_sampled && params.range_unit << run->region_shift < 4 * params.num_levels)
        run->region_shift++;
    const hattn_batch &batch = run->batch;
    const bool has_q_start = batch.q_start.data;
    run->end_sequence = batch.num_sequences;
    if (!has_q_start) {
        const int64_t last_row = static_cast<int64_t>(run->wave.first_row) + run->wave.num_rows - 1;
        run->first_sequence = run->wave.first_row / batch.q_len;
        run->end_sequence = static_cast<int32_t>(std::min<int64_t>(batch.num_sequences, last_row / batch.q_len + 1));
    }
    run->is_alone = !has_q_start && batch.num_sequences == 1;
    const int32_t pieces = hattn_cuda_pieces(&params, tasks);
    run->tasks = hattn_cuda_make_divisor(static_cast<uint32_t>(tasks));
    run->pieces = hattn_cuda_make_divisor(static_cast<uint32_t>(pieces));
    run->q_len = hattn_cuda_make_divisor(static_cast<uint32_t>(has_q_start ? 1 : batch.q_len));
    run->even_units = static_cast<uint32_t>(hattn_cuda_divide_up(hattn_cuda_units(&params), pieces));
    run->room = static_cast<uint32_t>(run->list_entries / (kWarps * tasks * pieces) & ~7);
}

inline RegionRun region_run(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                            hattn_buffer workspace)
{
    const hattn_problem &p = params.problem;
    char *base = static_cast<char *>(hattn_address(workspace));
    RegionRun run = {};
    run.batch = args.batch;
    if (args.budgets.data && !p.num_candidates) /* which are as many, whatever is kept of them */
        run.budgets = static_cast<const int32_t *>(hattn_address(args.budgets));
    run.budget_stride[0] = p.budgets.stride[0];
    run.budget_stride[1] = p.budgets.stride[1];
    run.max_length = p.max_length;
    run.k = params.selected;
    run.num_sink = p.num_sink;
    run.num_recent = p.num_recent;
    run.wave = wave;
    run.heads = hattn_cuda_make_divisor(static_cast<uint32_t>(wave.num_heads));
    cut_run(params, &run);
    run.unscored_length = run.budgets ? 0 : params.selected;
    run.num_levels = params.num_levels;
    run.row_size = params.row_size;
    run.sample_size = params.sample_size;
    run.is_paged = p.page_size > 0;
    /* A decode's first kernel waits beside the last one's blocks, and then shares L1 with their shared memory. That is no time for many codes: where
     * attention has much of it, where keys are listed too, or where each code is a line in flight. */
    const bool has_small_pages = p.page_size > 0 && p.page_size < 8;
    run.overlaps =
        !params.is_keyed &&
        !(run.is_sampled && (params.attend_shared > 0 || params.engine == HATTN_CUDA_PLAIN || has_small_pages));
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
    run.keys = params.is_keyed ? reinterpret_cast<uint32_t *>(base + params.keys) : nullptr;
    run.rows = reinterpret_cast<uint16_t *>(base + params.rows);
    hattn_cuda_head *head = reinterpret_cast<hattn_cuda_head *>(base);
    run.histograms = &head->control.histogram[0][0];
    run.rescored = &head->rescored;
    return run;
}

/* Words of a task's histogram before its flags. */
__device__ inline int level_words(const RegionRun &run) { return run.row_size; }

template <class Run>
__device__ inline uint32_t *histogram_of(const Run &run, uint32_t task)
{
    return run.histograms + static_cast<uint64_t>(task) * static_cast<uint32_t>(level_words(run) + HATTN_CUDA_FLAGS);
}

/* How the keys of a task are cut, and where what is made of them is. */
struct RegionCut {
    int32_t range, region; /* keys */
    uint32_t per_range;    /* regions */
    float inverse;         /* of that */
    uint32_t room;         /* entries of a range's list */
    uint32_t first_row;    /* of its first region */
    uint32_t first_score;  /* of its first piece; sampled: of its first list */

    /* Exact for the regions that there can be: the half is far more than what the product is off. */
    __device__ uint32_t range_of(uint32_t region) const
    {
        return per_range == 1 ? region : static_cast<uint32_t>((static_cast<float>(region) + 0.5f) * inverse);
    }
};

/* Of a task with pieces of `units`, in memory for pieces of `most_units` from piece `slot` on. */
__device__ inline RegionCut make_cut(const RegionRun &run, uint32_t units, uint32_t most_units, uint32_t slot,
                                     uint32_t room)
{
    RegionCut cut;
    /* Sampled: a region is a range. */
    const int shift = run.is_sampled ? 0 : min(lowest_one(units), run.region_shift);
    cut.range = static_cast<int32_t>(units) << run.range_shift;
    cut.per_range = run.is_sampled ? 1 : units >> shift;
    cut.region = run.is_sampled ? cut.range : 1 << (run.range_shift + shift);
    cut.inverse = fast_inverse(static_cast<float>(cut.per_range));
    cut.room = room;
    cut.first_row = slot * kWarps * (run.is_sampled ? 1 : most_units);
    cut.first_score = slot * kWarps * (run.is_sampled ? room : most_units << run.range_shift);
    return cut;
}

/* A row and selection head. */
struct RegionTask {
    int32_t length, kept, first, end; /* the middle, which is ranked: positions first..end */
    bool is_ranked;                   /* some of the middle are kept and some are not */
};

/* budget: of the row's sequence and its head, if there are budgets. */
__device__ inline RegionTask region_task(const RegionRun &run, hattn_row_place place, int32_t seq_len, int32_t budget)
{
    RegionTask task;
    task.length = hattn_resolve_place(run.max_length, place, seq_len).length;
    const int32_t forced = run.num_sink + run.num_recent;
    task.kept = hattn_kept_of(run.budgets ? budget : run.k, run.k, forced, task.length);
    task.first = run.num_sink;
    task.end = task.length - run.num_recent;
    task.is_ranked = task.kept < task.length && task.kept > forced;
    return task;
}

struct LevelSpace {
    uint32_t at_least[HATTN_CUDA_LEVELS]; /* that reach a level, of those in the same warp's share of levels */
    uint32_t totals[kWarps];
};

/* Levels of a warp, of which a lane has so many neighbours. */
template <int kPerLane>
constexpr int kLevelShare = 32 * kPerLane;

/* From a lane's counts, its first level being first + 1; before a barrier. */
template <int kPerLane>
__device__ inline void leave_levels(uint32_t (&x)[kPerLane], int first, LevelSpace &space)
{
#pragma unroll
    for (int k = kPerLane - 2; k >= 0; k--)
        x[k] += x[k + 1];
    const uint32_t scan = warp_scan_down(x[0]);
#pragma unroll
    for (int k = 0; k < kPerLane; k++)
        space.at_least[first + k] = scan - x[0] + x[k];
    if (lane_id() == 0)
        space.totals[warp_id()] = scan;
}

/* find_level, after the barrier. */
template <int kPerLane>
__device__ inline uint32_t look_up_level(uint32_t wanted, uint32_t *above, const LevelSpace &space)
{
    constexpr int kShare = kLevelShare<kPerLane>;
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

template <int kPerLane, class Load>
__device__ inline uint32_t find_level_in(int row_size, uint32_t wanted, uint32_t *above, LevelSpace &space, Load load)
{
    const int first = warp_id() * kLevelShare<kPerLane> + lane_id() * kPerLane;
    uint32_t x[kPerLane] = {};
    if (first < row_size)
        load(x, first);
    leave_levels(x, first, space);
    __syncthreads();
    return look_up_level<kPerLane>(wanted, above, space);
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
