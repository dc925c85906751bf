/* SPDX-License-Identifier: Apache-2.0
 * How the host cuts a wave of a decode: by the rows that are launched, not by the plan's maxima. How the device cuts anew where
 * some of these are padding is in schedule.cuh.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_CUT_H
#define HATTN_KERNELS_CUDA_DECODE_CUT_H

#include "core/rows.h"
#include "kernels_cuda/params.h"

enum {
    HATTN_CUDA_WARPS = 8,            /* of a block */
    HATTN_CUDA_MOST_RANGE = 32768,   /* keys: their counts and places have 16 bits */
    HATTN_CUDA_SAMPLED_RANGE = 2048, /* shorter ones are scored as a whole */
    HATTN_CUDA_RESCORE_BINS = 2048,  /* histograms and counts of chunks in a list's memory: rescore.cuh */
    HATTN_CUDA_RESCORE_CHUNKS = 256
};

HATTN_HOST_DEVICE static inline int64_t hattn_cuda_divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Blocks of a score or attend kernel that are resident together: what a grid has at most. */
HATTN_HOST_DEVICE static inline int32_t hattn_cuda_blocks(const hattn_cuda_params *params)
{
    return 2 * params->num_multiprocessors;
}

/* Words of a task's histogram: levels and flags; with a floor or a tail two for each level (floor.cuh). */
HATTN_HOST_DEVICE static inline int32_t hattn_cuda_histogram_words(const hattn_cuda_params *params)
{
    return (hattn_has_shares(&params->problem) ? 2 : 1) * params->row_size + HATTN_CUDA_FLAGS;
}

/* Pieces of rows are of units of keys: a range unit for each warp. */
HATTN_HOST_DEVICE static inline int64_t hattn_cuda_units(const hattn_cuda_params *params)
{
    return hattn_cuda_divide_up(params->problem.max_length, (int64_t)params->range_unit * HATTN_CUDA_WARPS);
}

/* Of one piece. */
HATTN_HOST_DEVICE static inline int64_t hattn_cuda_most_units(const hattn_cuda_params *params)
{
    const int64_t units = hattn_cuda_units(params), most = HATTN_CUDA_MOST_RANGE / params->range_unit;
    return units < most ? units : most;
}

/* Blocks that score a task where there are so many. */
HATTN_HOST_DEVICE static inline int32_t hattn_cuda_pieces(const hattn_cuda_params *params, int64_t tasks)
{
    const int64_t units = hattn_cuda_units(params), wanted = hattn_cuda_blocks(params) / tasks,
                  least = hattn_cuda_divide_up(units, hattn_cuda_most_units(params)),
                  pieces = wanted > least ? wanted : least;
    return (int32_t)(pieces < units ? pieces : units);
}

/* Whether candidates above a sampled bound are listed, instead of all scores: where a warp has many keys if all lengths are the largest. */
HATTN_HOST_DEVICE static inline int32_t hattn_cuda_is_sampled(const hattn_cuda_params *params, int64_t tasks)
{
    const hattn_problem *p = &params->problem;
    const int64_t units = hattn_cuda_divide_up(hattn_cuda_units(params), hattn_cuda_pieces(params, tasks));
    return params->is_keyed ||
           (units * params->range_unit >= HATTN_CUDA_SAMPLED_RANGE && p->max_length >= 8 * (int64_t)params->selected);
}

/* The most pieces of so many tasks or fewer. */
HATTN_HOST_DEVICE static inline int64_t hattn_cuda_most_pieces(const hattn_cuda_params *params, int64_t tasks)
{
    return tasks * hattn_cuda_divide_up(hattn_cuda_units(params), hattn_cuda_most_units(params)) +
           hattn_cuda_blocks(params);
}

/* Blocks of the score kernel: for these tasks, and, unless they are of one sequence, for fewer. */
HATTN_HOST_DEVICE static inline int64_t hattn_cuda_score_grid(const hattn_cuda_params *params, int64_t tasks,
                                                              int is_alone)
{
    const int64_t pieces = tasks * hattn_cuda_pieces(params, tasks), blocks = hattn_cuda_blocks(params),
                  units = tasks * hattn_cuda_units(params), fewer = units < blocks ? units : blocks;
    return is_alone || pieces > fewer ? pieces : fewer;
}

/* Units of keys that the pieces of `tasks` have memory for, each as much as the largest. */
HATTN_HOST_DEVICE static inline int64_t hattn_cuda_scored_units(const hattn_cuda_params *params, int64_t tasks)
{
    return 2 * tasks * hattn_cuda_units(params) + hattn_cuda_blocks(params);
}

#endif
