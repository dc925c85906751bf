/* SPDX-License-Identifier: Apache-2.0
 * Tails (api/hattn.h, hattn_attend): what all backends but the reference share. Inline, because kernels on devices use it too.
 */
#ifndef HATTN_CORE_TAIL_H
#define HATTN_CORE_TAIL_H

#include <stdint.h>
#include <string.h>

#include "core/rows.h"

#define HATTN_SHARE_ANCHOR 0x80000000u /* in shares of hattn_topk */

enum { HATTN_FEW_ANCHORS = 8 }; /* with fewer all are */

/* A value in 2^-24, to nearest even. */
HATTN_HOST_DEVICE static inline int64_t hattn_fixed_value(float value)
{
    const double all_bits = 6755399441055744.0; /* 1.5 * 2^52: a sum with it has the integer in its low bits */
    const double low = value > -65536.0f ? value : -65536.0f, bounded = low < 65536.0 ? low : 65536.0,
                 moved = (value == value ? bounded : 0.0) * 16777216.0 + all_bits;
    int64_t bits, zero;
    memcpy(&bits, &moved, sizeof(bits));
    memcpy(&zero, &all_bits, sizeof(zero));
    return bits - zero;
}

/* The mean of `length` values, out of their sum. */
HATTN_HOST_DEVICE static inline float hattn_mean_value(int64_t sum, int32_t length)
{
    return (float)((double)sum / ((double)length * 16777216.0));
}

/* A sequence's tokens before those of the step, which hattn_sum_values counts; -1: the batch has no rows of it. */
HATTN_HOST_DEVICE static inline int32_t hattn_values_end(const hattn_problem *problem, const hattn_batch *batch,
                                                         int32_t sequence)
{
    const int32_t *q_start = batch->q_start.data ? (const int32_t *)hattn_address(batch->q_start) : NULL;
    const int32_t tokens = q_start ? q_start[sequence + 1] - q_start[sequence] : batch->q_len;
    if (tokens <= 0)
        return -1;
    const int64_t end = (int64_t)((const int32_t *)hattn_address(batch->seq_len))[sequence] - tokens;
    return (int32_t)(end < 0 ? 0 : end > problem->max_length ? problem->max_length : end);
}

/* The state of a sequence and KV head. */
typedef struct hattn_value_state {
    int64_t *sums;
    int32_t *length;
} hattn_value_state;

HATTN_HOST_DEVICE static inline hattn_value_state hattn_find_values(const hattn_problem *problem, hattn_buffer slots,
                                                                    hattn_buffer sums, hattn_buffer lengths,
                                                                    int32_t sequence, int64_t kv_head)
{
    const int64_t state = slots.data ? ((const int32_t *)hattn_address(slots))[sequence] : sequence;
    hattn_value_state found;
    found.sums = (int64_t *)(void *)hattn_element(&problem->value_sums, sums, state, kv_head, 0);
    found.length = (int32_t *)(void *)hattn_element(&problem->value_lengths, lengths, state, kv_head, 0);
    return found;
}

/* Of what anchors and all with shares say: the smaller, but not a number where the former is not. */
HATTN_HOST_DEVICE static inline float hattn_smaller_tail(float by_near, float by_all)
{
    return by_near < by_all || by_near != by_near ? by_near : by_all;
}

/* R: sums of e^(x_j - base) of anchors and of all with shares, of their shares, and the rest; in e^base. */
HATTN_HOST_DEVICE static inline float hattn_tail_mass(float tail, float near, float all, uint64_t near_shares,
                                                      uint64_t all_shares, int64_t rest)
{
    if (near_shares == 0 || rest <= 0)
        return 0;
    return hattn_smaller_tail(tail * near * ((float)rest / (float)near_shares),
                              all * ((float)rest / (float)all_shares));
}

#endif
