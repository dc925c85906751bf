/* SPDX-License-Identifier: Apache-2.0
 * Codes and norms of keys, integer weights of queries.
 */
#include "reference/internal.h"

#include <math.h>

/* One linear layer: z_r = sum x_i W_ir + b_r, and the bound of its fp32 evaluation when x_i is off by error_i. */
static void layer(const hattn_map *map, const hattn_map_buffers *buffers, int index, int code_head, const double *x,
                  const double *error, int num_inputs, int num_outputs, double *z, double *bound)
{
    const void *weight = hattn_reference_address(buffers->weight[index]);
    const void *bias = hattn_reference_address(buffers->bias[index]);
    double roundings = (num_inputs + 8) * 0x1p-23;
    for (int r = 0; r < num_outputs; r++) {
        z[r] = bias ? hattn_reference_load(bias, map->dtype, code_head * map->bias_stride[index] + r) : 0;
        if (bound)
            bound[r] = 0;
    }
    for (int i = 0; i < num_inputs; i++) {
        double row[HATTN_REFERENCE_MAX_HIDDEN];
        hattn_reference_load_row(weight, map->dtype,
                                 code_head * map->weight_stride[index][0] + i * map->weight_stride[index][1],
                                 num_outputs, 1, row);
        for (int r = 0; r < num_outputs; r++)
            z[r] += x[i] * row[r];
        if (bound)
            for (int r = 0; r < num_outputs; r++)
                bound[r] += roundings * fabs(x[i] * row[r]) + (error ? 1.1 * error[i] * fabs(row[r]) : 0);
    }
}

static void silu(double *z, int n)
{
    for (int i = 0; i < n; i++)
        z[i] = z[i] / (1 + exp(-z[i]));
}

/* bound may be NULL. */
void hattn_reference_project(const hattn_problem *problem, const hattn_map *map, const hattn_map_buffers *buffers,
                             const double *x, int code_head, double *z, double *bound)
{
    if (problem->map_kind == HATTN_MAP_LINEAR) {
        layer(map, buffers, 0, code_head, x, NULL, problem->head_dim_qk, problem->code_bits, z, bound);
        return;
    }
    /* 1.1 in layer() is the steepest slope of SiLU, rounded up. */
    double first[HATTN_REFERENCE_MAX_HIDDEN], second[HATTN_REFERENCE_MAX_HIDDEN];
    double first_bound[HATTN_REFERENCE_MAX_HIDDEN], second_bound[HATTN_REFERENCE_MAX_HIDDEN];
    double *first_error = bound ? first_bound : NULL, *second_error = bound ? second_bound : NULL;
    layer(map, buffers, 0, code_head, x, NULL, problem->head_dim_qk, map->hidden[0], first, first_error);
    silu(first, map->hidden[0]);
    layer(map, buffers, 1, code_head, first, first_error, map->hidden[0], map->hidden[1], second, second_error);
    silu(second, map->hidden[1]);
    layer(map, buffers, 2, code_head, second, second_error, map->hidden[1], problem->code_bits, z, bound);
}

/* Where the codes and norms of one key go, for code head 0. */
typedef struct destination {
    uint32_t *codes;
    int64_t code_offset;
    void *norms;
    int64_t norm_offset;
} destination;

static void encode_key(const hattn_problem *problem, const hattn_map_buffers *buffers, const void *keys, int32_t dtype,
                       int64_t key_offset, int64_t key_stride_head, hattn_buffer k_scale, const destination *to)
{
    int num_words = (problem->code_bits + 31) / 32, d = problem->head_dim_qk;
    for (int c = 0; c < problem->num_code_heads; c++) {
        int64_t g = (int64_t)c * problem->num_kv_heads / problem->num_code_heads;
        double x[HATTN_REFERENCE_MAX_DIM], z[HATTN_REFERENCE_MAX_BITS];
        hattn_reference_load_row(keys, dtype, key_offset + g * key_stride_head, d,
                                 hattn_reference_kv_scale(problem, k_scale, g), x);
        hattn_reference_project(problem, &problem->key_map, buffers, x, c, z, NULL);

        uint32_t *code = to->codes + to->code_offset + c * problem->codes.stride[2];
        for (int w = 0; w < num_words; w++)
            code[w] = 0;
        for (int r = 0; r < problem->code_bits; r++)
            code[r / 32] |= (uint32_t)(z[r] > 0) << r % 32;

        if (to->norms) {
            double sum = 0;
            for (int i = 0; i < d; i++)
                sum += x[i] * x[i];
            hattn_reference_store(to->norms, HATTN_F16, to->norm_offset + c * problem->norms.stride[2], sqrt(sum));
        }
    }
}

void hattn_reference_encode_keys(const hattn_problem *problem, const hattn_encode_keys_args *args)
{
    const int64_t *slot_mapping = hattn_reference_address(args->slot_mapping);
    int64_t slots_per_page = problem->page_size > 0 ? problem->page_size : problem->max_length;
    for (int64_t t = 0; t < args->num_tokens; t++) {
        int64_t slot = slot_mapping ? slot_mapping[t] : t;
        if (slot < 0)
            continue;
        int64_t page = slot / slots_per_page;
        slot %= slots_per_page;
        destination to = {
            .codes = hattn_reference_address(args->codes),
            .code_offset = page * problem->codes.stride[0] + slot * problem->codes.stride[1],
            .norms = problem->key_norms ? hattn_reference_address(args->norms) : NULL,
            .norm_offset = page * problem->norms.stride[0] + slot * problem->norms.stride[1],
        };
        encode_key(problem, &args->key_map, hattn_reference_address(args->k_new), problem->k_new.dtype,
                   t * problem->k_new.stride[0], problem->k_new.stride[1], args->k_scale, &to);
    }
}

void hattn_reference_append(const hattn_problem *problem, const hattn_decode_args *args)
{
    const hattn_batch *batch = &args->batch;
    const int32_t *seq_len = hattn_reference_address(batch->seq_len);
    for (int64_t b = 0; b < batch->num_sequences; b++) {
        int64_t first_row;
        int64_t num_tokens = hattn_reference_tokens(batch, b, &first_row);
        for (int64_t j = seq_len[b] - num_tokens; j < seq_len[b]; j++) {
            if (j < 0 || j >= problem->max_length)
                continue;
            destination to = {
                .codes = hattn_reference_address(args->codes),
                .code_offset = hattn_reference_key_offset(problem, batch, &problem->codes, b, j, 0),
                .norms = problem->key_norms ? hattn_reference_address(args->norms) : NULL,
                .norm_offset = hattn_reference_key_offset(problem, batch, &problem->norms, b, j, 0),
            };
            encode_key(problem, &args->key_map, hattn_reference_address(args->k_cache), problem->k_cache.dtype,
                       hattn_reference_key_offset(problem, batch, &problem->k_cache, b, j, 0),
                       problem->k_cache.stride[2], args->k_scale, &to);
        }
    }
}

static void hamming_weights(const double *sum_of_signs, int num_bits, int group, int8_t *weights)
{
    for (int r = 0; r < num_bits; r++)
        weights[r] = (int8_t)(group % 2 == 0 ? sum_of_signs[r] / 2 : sum_of_signs[r]);
}

/* Returns what a weight of 1 is worth in u; 0 where all are 0. */
static double rounded_weights(const double *u, int num_bits, int weight_bits, int8_t *weights)
{
    double qmax = (1 << (weight_bits - 1)) - 1, largest = 0;
    int finite = 1;
    for (int r = 0; r < num_bits; r++) {
        finite &= isfinite(u[r]) != 0;
        largest = fmax(largest, fabs(u[r]));
    }
    for (int r = 0; r < num_bits; r++)
        weights[r] = finite && largest > 0 ? (int8_t)rint(u[r] * qmax / largest) : 0;
    return finite ? largest / qmax : 0;
}

/* What one score is worth, in 1/1024 of a factor of 2; NaN gives 0. */
static int32_t step(double slope, double unit)
{
    const double exact = 2048 / log(2) * slope * unit;
    return exact > 0 ? (int32_t)rint(fmin(exact, 32768)) : 0;
}

/* Weights of a query head by itself. */
static void encode_head(const hattn_problem *problem, const hattn_encode_queries_args *args, int64_t row, int64_t h,
                        const double *z)
{
    const float *slopes = hattn_reference_address(args->head_slopes);
    int8_t *weights = (int8_t *)hattn_reference_address(args->head_weights) + row * problem->head_weights.stride[0] +
                      h * problem->head_weights.stride[1];
    int32_t *steps = hattn_reference_address(args->head_steps);
    const double unit = rounded_weights(z, problem->code_bits, problem->weight_bits, weights);
    steps[row * problem->head_steps.stride[0] + h * problem->head_steps.stride[1]] =
        step(slopes[h * problem->head_slopes.stride[0]], unit);
}

void hattn_reference_encode_queries(const hattn_problem *problem, const hattn_encode_queries_args *args)
{
    const void *q = hattn_reference_address(args->q);
    int group = problem->num_q_heads / problem->num_selection_heads, num_bits = problem->code_bits;
    for (int64_t row = 0; row < args->num_rows; row++) {
        for (int s = 0; s < problem->num_selection_heads; s++) {
            double sum[HATTN_REFERENCE_MAX_BITS] = {0};
            for (int h = s * group; h < (s + 1) * group; h++) {
                double x[HATTN_REFERENCE_MAX_DIM], z[HATTN_REFERENCE_MAX_BITS];
                int code_head = (int)((int64_t)h * problem->num_code_heads / problem->num_q_heads);
                hattn_reference_load_row(q, problem->q.dtype, row * problem->q.stride[0] + h * problem->q.stride[1],
                                         problem->head_dim_qk, 1, x);
                hattn_reference_project(problem, &problem->query_map, &args->query_map, x, code_head, z, NULL);
                if (problem->num_candidates)
                    encode_head(problem, args, row, h, z);
                for (int r = 0; r < num_bits; r++)
                    sum[r] += problem->score_kind == HATTN_SCORE_WEIGHTED ? z[r] : z[r] > 0 ? 1 : -1;
            }
            int8_t *weights = (int8_t *)hattn_reference_address(args->weights) + row * problem->weights.stride[0] +
                              s * problem->weights.stride[1];
            double unit = 1;
            if (problem->score_kind == HATTN_SCORE_WEIGHTED)
                unit = rounded_weights(sum, num_bits, problem->weight_bits, weights);
            else
                hamming_weights(sum, num_bits, group, weights);
            if (problem->tail > 0 || (problem->min_probability > 0 && !problem->num_candidates)) {
                const float *slopes = hattn_reference_address(args->slopes);
                int32_t *steps = hattn_reference_address(args->steps);
                steps[row * problem->steps.stride[0] + s * problem->steps.stride[1]] =
                    step(slopes[s * problem->slopes.stride[0]], unit);
            }
        }
    }
}
