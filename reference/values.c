/* SPDX-License-Identifier: Apache-2.0
 * Sums of values: api/hattn.h, hattn_sum_values.
 */
#include "reference/internal.h"

#include <math.h>

void hattn_reference_add_values(const hattn_problem *problem, const hattn_batch *batch, hattn_buffer v_cache,
                                int64_t sequence, int64_t kv_head, int64_t begin, int64_t end, int64_t *sums)
{
    const void *values = hattn_reference_address(v_cache);
    for (int64_t j = begin; j < end; j++) {
        const int64_t at = hattn_reference_key_offset(problem, batch, &problem->v_cache, sequence, j, kv_head);
        double value[HATTN_REFERENCE_MAX_DIM];
        hattn_reference_load_row(values, problem->v_cache.dtype, at, problem->head_dim_v, 1, value);
        for (int i = 0; i < problem->head_dim_v; i++) {
            const double bounded = value[i] > 65536 ? 65536 : value[i] < -65536 ? -65536 : value[i];
            sums[i] += value[i] == value[i] ? (int64_t)rint(bounded * 0x1p24) : 0;
        }
    }
}

void hattn_reference_sum_values(const hattn_problem *problem, const hattn_sum_values_args *args)
{
    const int32_t *slots = hattn_reference_address(args->value_slots),
                  *seq_len = hattn_reference_address(args->batch.seq_len);
    for (int64_t b = 0; b < args->batch.num_sequences; b++) {
        int64_t first;
        const int64_t num_tokens = hattn_reference_tokens(&args->batch, b, &first), state = slots ? slots[b] : b;
        int64_t end = seq_len[b] - num_tokens;
        end = end < 0 ? 0 : end > problem->max_length ? problem->max_length : end;
        if (num_tokens <= 0)
            continue;
        for (int64_t g = 0; g < problem->num_kv_heads; g++) {
            int32_t *length = (int32_t *)hattn_reference_address(args->value_lengths) +
                              state * problem->value_lengths.stride[0] + g * problem->value_lengths.stride[1];
            int64_t *sums = (int64_t *)hattn_reference_address(args->value_sums) +
                            state * problem->value_sums.stride[0] + g * problem->value_sums.stride[1];
            int64_t begin = *length;
            if (begin <= 0 || begin > end) {
                begin = 0;
                for (int i = 0; i < problem->head_dim_v; i++)
                    sums[i] = 0;
            }
            hattn_reference_add_values(problem, &args->batch, args->v_cache, b, g, begin, end, sums);
            *length = (int32_t)end;
        }
    }
}
