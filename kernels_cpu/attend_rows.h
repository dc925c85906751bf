/* SPDX-License-Identifier: Apache-2.0
 * How the rows of an attention block come out of DRAM while earlier ones are computed with.
 */
#ifndef HATTN_KERNELS_CPU_ATTEND_ROWS_H
#define HATTN_KERNELS_CPU_ATTEND_ROWS_H

#include <math.h>

#include "kernels_cpu/kernels.h"

enum {
    LINE = 64,
    /* How far ahead rows are prefetched, into L2 (L1 holds less than a block). Zen 4: gathers of rows of 256 bytes gain
     * nothing from 16 rows on; multiples of 4 KiB are worse for contiguous rows. */
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

/* Prefetches of random rows leave most of the misses to the loads on Intel's cores (Granite Rapids: 658 us for what a
 * burst of loads did in 459), which therefore load each line of the block once, back to back, before they compute.
 * Others prefetch. Returns how far ahead to prefetch, for the first queries of the group; NOTHING_AHEAD: not at all. */
static inline int fetch_block(const hattn_attend_block *block, size_t size_k, size_t size_v)
{
#ifdef __x86_64__
    if (__builtin_cpu_is("intel")) {
        for (int j = 0; j < block->num_rows; j++) {
            touch_row(block->k_rows[j], size_k);
            touch_row(block->v_rows[j], size_v);
        }
        return NOTHING_AHEAD;
    }
#endif
    const int ahead = BYTES_AHEAD / (int)size_k > MIN_ROWS_AHEAD ? BYTES_AHEAD / (int)size_k : MIN_ROWS_AHEAD;
    /* No call before this one has prefetched its first rows, as far as can be seen. */
    if (block->max[0] == -INFINITY || block->num_rows_ahead == 0) {
        for (int j = 0; j < ahead; j++) {
            prefetch_row(block->k_rows, j, block->num_rows, size_k);
            prefetch_row(block->v_rows, j, block->num_rows, size_v);
        }
    }
    return ahead;
}

#endif
