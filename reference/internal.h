/* SPDX-License-Identifier: Apache-2.0
 * What the reference's files share: addresses, rows and the place of a key.
 */
#ifndef HATTN_REFERENCE_INTERNAL_H
#define HATTN_REFERENCE_INTERNAL_H

#include "reference/reference.h"

/* The limits of hattn_problem: vectors live on the stack. */
enum { HATTN_REFERENCE_MAX_DIM = 576, HATTN_REFERENCE_MAX_BITS = 512, HATTN_REFERENCE_MAX_HIDDEN = 1024 };

/* NULL for a null buffer. */
static inline void *hattn_reference_address(hattn_buffer buffer)
{
    return buffer.data ? (char *)buffer.data + buffer.byte_offset : NULL;
}

/* T of a sequence, and its first row. */
int64_t hattn_reference_tokens(const hattn_batch *batch, int64_t sequence, int64_t *first_row);

/* The length of a row, clamped, and its sequence; padding: length 0, sequence -1. */
int64_t hattn_reference_row(const hattn_problem *problem, const hattn_batch *batch, int64_t row, int64_t *sequence);

/* Element offset of key j of a sequence in a tensor with strides {page, slot, head}. */
int64_t hattn_reference_key_offset(const hattn_problem *problem, const hattn_batch *batch, const hattn_tensor *tensor,
                                   int64_t sequence, int64_t j, int64_t head);

/* values[i] = element (offset + i) * scale. */
void hattn_reference_load_row(const void *data, int32_t dtype, int64_t offset, int n, double scale, double *values);

/* sums[i] += values of positions begin..end of a sequence and head, in 2^-24. */
void hattn_reference_add_values(const hattn_problem *problem, const hattn_batch *batch, hattn_buffer v_cache,
                                int64_t sequence, int64_t kv_head, int64_t begin, int64_t end, int64_t *sums);

/* sum w_r code_r + (sum of |w_r| with w_r < 0), and the largest score there can be, sum |w_r|. */
int64_t hattn_reference_score_of(const int8_t *weights, const uint32_t *code, int num_bits, int64_t *total);

/* T of api/hattn.h: the probability of a score so far below the largest, in 2^-30 of that one's. */
uint64_t hattn_reference_share(int64_t distance, int64_t step);

/* Of `length` scores from position 0, those that are not forced, begin..end: the least that is among the `wanted` best, and how many that
 * have it are. */
uint32_t hattn_reference_threshold(const hattn_problem *problem, const void *scores, int64_t begin, int64_t end,
                                   int64_t wanted, int64_t *ties);

/* Z: exact above `bound`, an estimate by every 61st position from there down; -1: all exact. */
uint64_t hattn_reference_sum(const uint16_t *scores, int64_t begin, int64_t end, uint32_t largest, int64_t bound,
                             int64_t step);

/* Of a row whose budget keeps `kept` positions: by scores per query head. Writes the list, with a tail shares and rests; returns how many. */
int64_t hattn_reference_select_by_heads(const hattn_problem *problem, const hattn_topk_args *args, int64_t row,
                                        int64_t s, int64_t sequence, int64_t length, int64_t kept, int32_t *indices);

/* k_scale or v_scale of a KV head; null buffer: 1. */
double hattn_reference_kv_scale(const hattn_problem *problem, hattn_buffer scale, int64_t kv_head);

#endif
