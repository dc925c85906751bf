/* SPDX-License-Identifier: Apache-2.0
 * What rows, pages and strides mean, once for all backends but the reference (which has its own, to be checked against).
 * Inline, because kernels on devices use it too; buffers must hold addresses that the caller of these can read.
 */
#ifndef HATTN_CORE_ROWS_H
#define HATTN_CORE_ROWS_H

#include "api/hattn.h"
#include "core/dtype.h"

HATTN_HOST_DEVICE static inline void *hattn_address(hattn_buffer buffer)
{
    return (char *)buffer.data + buffer.byte_offset;
}

/* The address of element [i, j, k, 0] of a tensor. */
HATTN_HOST_DEVICE static inline char *hattn_element(const hattn_tensor *tensor, hattn_buffer buffer, int64_t i,
                                                    int64_t j, int64_t k)
{
    const int64_t offset = i * tensor->stride[0] + j * tensor->stride[1] + k * tensor->stride[2];
    return (char *)hattn_address(buffer) + offset * hattn_dtype_size(tensor->dtype);
}

typedef struct hattn_row {
    int32_t sequence; /* -1: padding */
    int32_t length;   /* clamped to 0..max_length */
    int64_t position; /* of the row's own token, not clamped */
} hattn_row;

/* The last sequence whose first row is at or before `row`: empty sequences share a start with the next one. Volatile: on a
 * device the kernel before may just have written what an old line of a cache still holds. */
HATTN_HOST_DEVICE static inline int32_t hattn_find_sequence(const volatile int32_t *q_start, int32_t num_sequences,
                                                            int32_t row)
{
    int32_t low = 0, high = num_sequences; /* q_start[low] <= row < q_start[high] */
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        if (q_start[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Whose row it is, and how many of its sequence's rows come after it: all that there is to know before lengths. */
typedef struct hattn_row_place {
    int32_t sequence; /* -1: padding */
    int32_t after;
} hattn_row_place;

/* Reads q_start alone, if there is one. */
HATTN_HOST_DEVICE static inline hattn_row_place hattn_place_row(const hattn_batch *batch, int32_t row)
{
    const volatile int32_t *q_start = NULL;
    if (batch->q_start.data)
        q_start = (const volatile int32_t *)hattn_address(batch->q_start);
    hattn_row_place place = {-1, 0};
    if (batch->num_sequences == 0 || (q_start && row >= q_start[batch->num_sequences]))
        return place;
    place.sequence = q_start ? hattn_find_sequence(q_start, batch->num_sequences, row) : row / batch->q_len;
    place.after = (q_start ? q_start[place.sequence + 1] : (place.sequence + 1) * batch->q_len) - 1 - row;
    return place;
}

/* seq_len: of its sequence. */
HATTN_HOST_DEVICE static inline hattn_row hattn_resolve_place(int32_t max_length, hattn_row_place place,
                                                              int32_t seq_len)
{
    hattn_row resolved = {-1, 0, -1};
    if (place.sequence < 0)
        return resolved;
    resolved.sequence = place.sequence;
    resolved.position = (int64_t)seq_len - 1 - place.after;
    const int64_t length = resolved.position + 1;
    resolved.length = (int32_t)(length < 0 ? 0 : length > max_length ? max_length : length);
    return resolved;
}

HATTN_HOST_DEVICE static inline hattn_row hattn_resolve_row_of(int32_t max_length, const hattn_batch *batch,
                                                               int32_t row)
{
    const hattn_row_place place = hattn_place_row(batch, row);
    return hattn_resolve_place(
        max_length, place, place.sequence < 0 ? 0 : ((const int32_t *)hattn_address(batch->seq_len))[place.sequence]);
}

HATTN_HOST_DEVICE static inline hattn_row hattn_resolve_row(const hattn_problem *problem, const hattn_batch *batch,
                                                            int32_t row)
{
    return hattn_resolve_row_of(problem->max_length, batch, row);
}

/* Where keys of a sequence are. */
typedef struct hattn_pages {
    const int32_t *table; /* NULL: contiguous */
    int64_t sequence;
    int32_t page_size; /* max_length when contiguous */
} hattn_pages;

HATTN_HOST_DEVICE static inline hattn_pages hattn_sequence_pages(const hattn_problem *problem, const hattn_batch *batch,
                                                                 int32_t sequence)
{
    hattn_pages pages = {NULL, sequence, problem->max_length};
    if (problem->page_size) {
        pages.table = (const int32_t *)hattn_address(batch->block_table) + sequence * problem->block_table.stride[0];
        pages.page_size = problem->page_size;
    }
    return pages;
}

/* The page of a position, and its slot there. */
HATTN_HOST_DEVICE static inline int64_t hattn_page(const hattn_pages *pages, int32_t position, int32_t *slot)
{
    if (!pages->table) {
        *slot = position;
        return pages->sequence;
    }
    *slot = position % pages->page_size;
    return pages->table[position / pages->page_size];
}

/* k_scale or v_scale of a KV head; 1 where there is none. */
HATTN_HOST_DEVICE static inline float hattn_kv_scale(const hattn_problem *problem, hattn_buffer scale, int64_t kv_head)
{
    return scale.data ? ((const float *)hattn_address(scale))[problem->per_head_kv_scales ? kv_head : 0] : 1;
}

/* Floors and tails both look at what scores promise: slopes, steps. Scores per query head have their own. */
HATTN_HOST_DEVICE static inline int hattn_has_shares(const hattn_problem *problem)
{
    return problem->tail > 0 || (problem->min_probability > 0 && !problem->num_candidates);
}

/* Heads that have shares and rests of their own. */
HATTN_HOST_DEVICE static inline int32_t hattn_heads_of_shares(const hattn_problem *problem)
{
    return problem->num_candidates ? problem->num_q_heads : problem->num_selection_heads;
}

/* How many positions of `length` a budget keeps; it counts only up to k, and forced ones are kept in any case. */
HATTN_HOST_DEVICE static inline int32_t hattn_kept_of(int32_t budget, int32_t k, int32_t forced, int32_t length)
{
    budget = budget < 0 ? 0 : budget > k ? k : budget;
    const int32_t wanted = budget > forced ? budget : forced;
    return wanted < length ? wanted : length;
}

/* How many positions of a row and selection head are kept. */
HATTN_HOST_DEVICE static inline int32_t hattn_kept(const hattn_problem *problem, hattn_buffer budgets,
                                                   const hattn_row *row, int64_t head)
{
    int32_t budget = problem->k;
    if (budgets.data && row->length)
        budget = *(const int32_t *)hattn_element(&problem->budgets, budgets, row->sequence, head, 0);
    return hattn_kept_of(budget, problem->k, problem->num_sink + problem->num_recent, row->length);
}

#endif
