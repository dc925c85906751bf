/* SPDX-License-Identifier: Apache-2.0
 * How the rows of an attention block come out of DRAM while earlier ones are computed with.
 */
#ifndef HATTN_KERNELS_CPU_ATTEND_ROWS_H
#define HATTN_KERNELS_CPU_ATTEND_ROWS_H

#include <math.h>
#include <stdbool.h>

#include "kernels_cpu/kernels.h"

enum {
    LINE = 64,
    /* How far ahead rows are prefetched, into L2 (L1 holds less than a block). Zen 4, AVX-512, 4 queries: gathers 29 us at 8
     * rows of 256 bytes, 26 to 27 from 16 to 64; contiguous rows 222 us at 24 rows, 235 to 260 at 16, 32, 48 and 64,
     * multiples of 4 KiB. */
    BYTES_AHEAD = 6144,
    MIN_ROWS_AHEAD = 8,
    NOTHING_AHEAD = 1 << 30
};

static inline void prefetch_row(const void *const *rows, int row, int num_known, size_t size)
{
    if (row >= num_known)
        return;
    for (size_t i = 0; i < size; i += LINE)
        __builtin_prefetch((const char *)rows[row] + i, 0, 2);
}

static inline void touch_row(const void *row, size_t size)
{
    for (size_t i = 0; i < size; i += LINE)
        (void)*((const volatile char *)row + i);
}

/* The rows of a block on their way, in the block's manner; a size of 0: none of K, or none of V. Returns how far ahead to prefetch, for the first
 * queries of the group; NOTHING_AHEAD: not at all. */
static inline int fetch_block(const hattn_attend_block *block, size_t size_k, size_t size_v)
{
    if (block->loads_first) {
        for (int j = 0; j < block->num_rows; j++) {
            touch_row(block->k_rows[j], size_k);
            touch_row(block->v_rows[j], size_v);
        }
        return NOTHING_AHEAD;
    }
    const int fit = BYTES_AHEAD / (int)(size_k ? size_k : size_v), ahead = fit > MIN_ROWS_AHEAD ? fit : MIN_ROWS_AHEAD;
    /* No call before this one has prefetched its first rows, as far as can be seen. Zen 4: 512 random rows in calls that
     * know nothing of each other 28 us, without this 44; in calls that do, 26. */
    if (block->max[0] == -INFINITY || block->num_rows_ahead == 0) {
        for (int j = 0; j < ahead; j++) {
            prefetch_row(block->k_rows, j, block->num_rows, size_k);
            prefetch_row(block->v_rows, j, block->num_rows, size_v);
        }
    }
    return ahead;
}

#endif
