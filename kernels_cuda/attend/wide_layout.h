/* SPDX-License-Identifier: Apache-2.0
 * Shared memory of WideEngine (attend_wide.cuh): the plan sizes it, a launch, which knows where V is, lays it out, the
 * kernel finds its way in it. Rows are counted in chunks of 16 bytes; a stored row takes an odd number of them, so that
 * one chunk of 8 rows lies in all banks.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_WIDE_LAYOUT_H
#define HATTN_KERNELS_CUDA_ATTEND_WIDE_LAYOUT_H

#include "api/hattn.h"
#include "core/dtype.h"

enum {
    HATTN_WIDE_TILES = 4,         /* in shared memory, at most */
    HATTN_WIDE_ROWS = 128,        /* of a tile, at most: 16 for each warp */
    HATTN_WIDE_STATIC = 20 * 1024 /* for what a kernel with this engine declares by itself; its .cu file asserts it */
};

typedef struct hattn_wide_layout {
    int32_t k_chunks, v_chunks;     /* of a row in the caches; v_chunks 0: V is inside K */
    int32_t v_first;                /* chunk of a stored row that V starts with */
    int32_t q_bytes, row_bytes;     /* of a stored row */
    int32_t tile_rows, log2_rows;   /* 128, 64, 32 or 16 */
    int32_t num_tiles;              /* that there is room for, better two or more; 0: there is not enough */
    int32_t logits, weights, tiles; /* offsets; q is at 0 */
    int32_t result_columns;         /* floats of a head's results, which take the place of the tiles */
    int32_t used;
} hattn_wide_layout;

/* The chunk of K's rows that V's rows start with, -1 if they are elsewhere. */
static inline int32_t hattn_wide_v_inside(const hattn_problem *p, const void *k_cache, const void *v_cache)
{
    const int64_t offset = (const char *)v_cache - (const char *)k_cache;
    const int64_t spare = (p->head_dim_qk - p->head_dim_v) * (int64_t)hattn_dtype_size(p->k_cache.dtype);
    int is_inside = offset >= 0 && offset <= spare && offset % 16 == 0;
    for (int i = 0; i < 3; i++)
        is_inside &= p->k_cache.stride[i] == p->v_cache.stride[i];
    return is_inside ? (int32_t)(offset / 16) : -1;
}

/* `columns`: of the products. v_inside: the chunk of K's row that V starts with, or -1 where V's rows are loaded for
 * themselves. The largest tiles of which two fit: they cost the fewest barriers. */
static inline hattn_wide_layout hattn_wide_lay_out(const hattn_problem *p, int32_t columns, int32_t v_inside,
                                                   int32_t bytes)
{
    hattn_wide_layout l;
    const int32_t element = (int32_t)hattn_dtype_size(p->k_cache.dtype);
    l.k_chunks = p->head_dim_qk * element / 16;
    l.v_chunks = v_inside < 0 ? p->head_dim_v * element / 16 : 0;
    const int32_t k_even = l.k_chunks + l.k_chunks % 2, v_even = l.v_chunks + l.v_chunks % 2;
    l.v_first = v_inside < 0 ? k_even : v_inside;
    l.q_bytes = k_even * 16 * (2 / element) + 16;
    l.row_bytes = (k_even + v_even + 1) * 16;
    l.logits = columns * l.q_bytes;
    l.result_columns = (p->head_dim_v + 15) / 16 * 16 + 4;
    int32_t rows = HATTN_WIDE_ROWS;
    l.log2_rows = 7;
    for (;; rows /= 2, l.log2_rows--) {
        l.weights = l.logits + HATTN_WIDE_ROWS / rows * columns * (rows + 4) * 4;
        l.tiles = l.weights + columns * (rows + 8) * 2;
        if (rows == 16 || l.tiles + 2 * rows * l.row_bytes <= bytes)
            break;
    }
    l.tile_rows = rows;
    l.num_tiles = (bytes - l.tiles) / (rows * l.row_bytes);
    if (l.num_tiles > HATTN_WIDE_TILES)
        l.num_tiles = HATTN_WIDE_TILES;
    l.used = l.tiles + l.num_tiles * rows * l.row_bytes;
    const int32_t needed = l.tiles + columns * l.result_columns * 4;
    if (needed > bytes)
        l.num_tiles = 0;
    if (needed > l.used)
        l.used = needed;
    return l;
}

#endif
