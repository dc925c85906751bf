/* SPDX-License-Identifier: Apache-2.0
 * Rows to sequences, positions to slots: api/hattn.h, hattn_batch.
 */
#include "reference/internal.h"

int64_t hattn_reference_tokens(const hattn_batch *batch, int64_t sequence, int64_t *first_row)
{
    const int32_t *q_start = hattn_reference_address(batch->q_start);
    if (!q_start) {
        *first_row = sequence * batch->q_len;
        return batch->q_len;
    }
    *first_row = q_start[sequence];
    return (int64_t)q_start[sequence + 1] - q_start[sequence];
}

int64_t hattn_reference_row(const hattn_problem *problem, const hattn_batch *batch, int64_t row, int64_t *sequence)
{
    const int32_t *seq_len = hattn_reference_address(batch->seq_len);
    for (int64_t b = 0; b < batch->num_sequences; b++) {
        int64_t first;
        int64_t num_tokens = hattn_reference_tokens(batch, b, &first);
        if (row >= first && row < first + num_tokens) {
            int64_t length = seq_len[b] - num_tokens + (row - first) + 1;
            *sequence = b;
            return length < 0 ? 0 : length > problem->max_length ? problem->max_length : length;
        }
    }
    *sequence = -1;
    return 0;
}

int64_t hattn_reference_key_offset(const hattn_problem *problem, const hattn_batch *batch, const hattn_tensor *tensor,
                                   int64_t sequence, int64_t j, int64_t head)
{
    int64_t page = sequence, slot = j;
    if (problem->page_size > 0) {
        const int32_t *block_table = hattn_reference_address(batch->block_table);
        page = block_table[sequence * problem->block_table.stride[0] + j / problem->page_size];
        slot = j % problem->page_size;
    }
    return page * tensor->stride[0] + slot * tensor->stride[1] + head * tensor->stride[2];
}

double hattn_reference_kv_scale(const hattn_problem *problem, hattn_buffer scale, int64_t kv_head)
{
    const float *scales = hattn_reference_address(scale);
    return !scales ? 1.0 : scales[problem->per_head_kv_scales ? kv_head : 0];
}
