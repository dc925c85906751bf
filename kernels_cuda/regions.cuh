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
 * Of more tasks than there are histograms the two kernels take a wave of rows at a time.
 * Positions are absolute; sinks and recents have scores like all others but are in no histogram.
 */
#ifndef HATTN_KERNELS_CUDA_REGIONS_CUH
#define HATTN_KERNELS_CUDA_REGIONS_CUH

#include "kernels_cuda/device.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

/* Rows first_row..first_row+num_rows of a decode. */
struct Wave {
    int32_t first_row, num_rows;
};

/* What both kernels know, resolved on the host and small: a block reads its parameters from a cold cache. */
struct RegionRun {
    hattn_batch batch;
    const int32_t *budgets; /* or NULL */
    int64_t budget_stride[2];
    int32_t max_length, k, num_sink, num_recent;
    int32_t num_heads;            /* of selections */
    int32_t first_row;            /* of the wave: tasks count from here */
    int32_t region, range, chunk; /* keys */
    int32_t num_regions;          /* of max_length */
    hattn_cuda_divisor regions_per_range;
    int32_t num_levels, row_size; /* the largest score; entries of a row, a multiple of 8 */
    int32_t is_sampled;
    int32_t overlaps; /* with the decode after it */
    uint16_t *scores; /* [task, score_stride]; sampled: u32, in each range its candidates, position - start << 16 | score */
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
    run.num_heads = p.num_selection_heads;
    run.first_row = wave.first_row;
    run.region = params.region;
    run.range = params.score_chunk / kWarps;
    run.chunk = params.score_chunk;
    run.num_regions = params.num_regions;
    run.regions_per_range = params.regions_per_range;
    run.num_levels = params.num_levels;
    run.row_size = params.row_size;
    run.is_sampled = params.is_sampled;
    /* A decode's first kernel waits beside the last one's blocks, and then shares L1 with their shared memory. That is no time for many codes: where
     * attention has much of it, where keys are listed too, or where each code is a line in flight. */
    const bool has_small_pages = p.page_size > 0 && p.page_size < 8;
    run.overlaps = !params.is_keyed && !(params.is_sampled && (params.engine != HATTN_CUDA_MMA || has_small_pages));
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

__device__ inline RegionTask resolve_task(const RegionRun &run, int32_t row, int32_t head)
{
    RegionTask task;
    task.task = static_cast<int64_t>(row - run.first_row) * run.num_heads + head;
    task.row = hattn_resolve_row_of(run.max_length, &run.batch, row);
    const int32_t forced = run.num_sink + run.num_recent;
    int32_t budget = run.k;
    if (run.budgets && task.row.length)
        budget = run.budgets[task.row.sequence * run.budget_stride[0] + head * run.budget_stride[1]];
    task.kept = hattn_kept_of(budget, run.k, forced, task.row.length);
    task.first = run.num_sink;
    task.end = task.row.length - run.num_recent;
    task.is_ranked = task.kept < task.row.length && task.kept > forced;
    return task;
}

/* The largest level, from 1, that at least `wanted` reach, or 0; *above: how many reach the next one. load(x, i) gives the counts of
 * levels i + 1 .. i + 8. By a warp. */
template <class Load>
__device__ inline uint32_t find_level(int row_size, uint32_t wanted, uint32_t *above, Load load)
{
    uint32_t before = 0, x[8] = {}, below[8] = {};
    const int last = (row_size - 1) / 256 * 256, lane = lane_id() * 8;
    if (last + lane < row_size)
        load(x, last + lane);
#pragma unroll 1
    for (int block = last; block >= 0; block -= 256) {
        if (block)
            load(below, block - 256 + lane); /* on its way while this one is summed */
        uint32_t any = 0;
#pragma unroll
        for (int k = 0; k < 8; k++)
            any |= x[k];
        if (__any_sync(kFullMask, any)) { /* the highest levels are often empty */
#pragma unroll
            for (int k = 6; k >= 0; k--)
                x[k] += x[k + 1];
            const uint32_t at_least = warp_scan_down(x[0]), base = before + at_least - x[0];
            uint32_t mine = 0,
                     next = base; /* levels that are reached, and the count at the lowest of this lane that is not */
#pragma unroll
            for (int k = 7; k >= 0; k--) {
                if (x[k] + base < wanted)
                    next = x[k] + base;
                mine += x[k] + base >= wanted;
            }
            const uint32_t reached = __reduce_add_sync(kFullMask, mine);
            if (reached) {
                *above = __shfl_sync(kFullMask, next, (reached - 1) / 8);
                return block + reached;
            }
            before += __shfl_sync(kFullMask, at_least, 0);
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            x[k] = below[k];
    }
    *above = before;
    return 0;
}

} // namespace hattn

#endif
