/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/cpu/cpu.h"

/* The last sequence whose first row is at or before `row`: empty sequences share a start with the next one. */
static int32_t find_sequence(const int32_t *q_start, int32_t num_sequences, int32_t row)
{
    int32_t low = 0, high = num_sequences; /* q_start[low] <= row < q_start[high] */
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (q_start[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

hattn_cpu_row hattn_cpu_resolve_row(const hattn_problem *problem, const hattn_batch *batch, int32_t row)
{
    const int32_t *q_start = batch->q_start.data ? hattn_cpu_address(batch->q_start) : NULL;
    const int32_t *seq_len = hattn_cpu_address(batch->seq_len);
    if (batch->num_sequences == 0 || (q_start && row >= q_start[batch->num_sequences]))
        return (hattn_cpu_row){-1, 0, -1};
    int32_t sequence = q_start ? find_sequence(q_start, batch->num_sequences, row) : row / batch->q_len;
    int32_t first = q_start ? q_start[sequence] : sequence * batch->q_len;
    int32_t tokens = q_start ? q_start[sequence + 1] - first : batch->q_len;
    int64_t position = (int64_t)seq_len[sequence] - tokens + (row - first);
    int64_t length = position + 1;
    length = length < 0 ? 0 : length > problem->max_length ? problem->max_length : length;
    return (hattn_cpu_row){sequence, (int32_t)length, position};
}

hattn_cpu_pages hattn_cpu_sequence_pages(const hattn_problem *problem, const hattn_batch *batch, int32_t sequence)
{
    if (!problem->page_size)
        return (hattn_cpu_pages){NULL, sequence, problem->max_length};
    const int32_t *table = hattn_cpu_address(batch->block_table);
    return (hattn_cpu_pages){table + sequence * problem->block_table.stride[0], sequence, problem->page_size};
}

float hattn_cpu_kv_scale(const hattn_problem *problem, hattn_buffer scale, int64_t kv_head)
{
    if (!scale.data)
        return 1;
    const float *scales = hattn_cpu_address(scale);
    return scales[problem->per_head_kv_scales ? kv_head : 0];
}
