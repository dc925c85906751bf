/* SPDX-License-Identifier: Apache-2.0
 * Defaults of a problem: what most users would write into it anyway.
 */
#include <math.h>
#include <string.h>

#include "api/hattn.h"

void hattn_problem_init(hattn_problem *problem)
{
    memset(problem, 0, sizeof(*problem));
    problem->struct_size = sizeof(*problem);
    problem->map_kind = HATTN_MAP_LINEAR;
    problem->score_kind = HATTN_SCORE_HAMMING;
    problem->weight_bits = 4;
    problem->max_q_len = 1;
    problem->codes.dtype = HATTN_U32;
    problem->norms.dtype = HATTN_F16;
    problem->weights.dtype = HATTN_I8;
    problem->indices.dtype = HATTN_I32;
    problem->counts.dtype = HATTN_I32;
    problem->lse.dtype = HATTN_F32;
    problem->partial_out.dtype = HATTN_F32;
    problem->partial_lse.dtype = HATTN_F32;
    problem->block_table.dtype = HATTN_I32;
    problem->budgets.dtype = HATTN_I32;
}

static void default_i32(int32_t *field, int32_t value)
{
    if (!*field)
        *field = value;
}

/* Saturates: fields may still be nonsense here, and validate refuses a stride that large. */
static int64_t times(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

/* Compact strides of [?, a, b, last], outermost first; the outermost extent is not needed. */
static void compact(hattn_tensor *tensor, int64_t a, int64_t b, int64_t last)
{
    tensor->stride[0] = times(times(a, b), last);
    tensor->stride[1] = times(b, last);
    tensor->stride[2] = last;
}

/* Of [?, a, last]. */
static void compact2(hattn_tensor *tensor, int64_t a, int64_t last)
{
    tensor->stride[0] = times(a, last);
    tensor->stride[1] = last;
    tensor->stride[2] = 0;
}

/* Of a cache: [page][head][slot][last]. */
static void compact_cache(hattn_tensor *tensor, int64_t slots, int64_t heads, int64_t last)
{
    tensor->stride[0] = times(times(heads, slots), last);
    tensor->stride[1] = last;
    tensor->stride[2] = times(slots, last);
}

static void compact_map(const hattn_problem *problem, hattn_map *map)
{
    int mlp = problem->map_kind == HATTN_MAP_MLP;
    int64_t dims[4] = {problem->head_dim_qk, map->hidden[0], map->hidden[1], problem->code_bits};
    if (!mlp)
        dims[1] = problem->code_bits;
    for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
        map->weight_stride[layer][0] = times(dims[layer], dims[layer + 1]);
        map->weight_stride[layer][1] = dims[layer + 1];
        map->bias_stride[layer] = dims[layer + 1];
    }
}

void hattn_problem_set_defaults(hattn_problem *problem)
{
    default_i32(&problem->num_code_heads, problem->num_kv_heads);
    default_i32(&problem->num_selection_heads, problem->num_kv_heads);
    default_i32(&problem->head_dim_v, problem->head_dim_qk);
    int64_t max_rows = (int64_t)problem->max_sequences * problem->max_q_len;
    default_i32(&problem->max_rows, max_rows > INT32_MAX ? INT32_MAX : (int32_t)max_rows);
    if (problem->scale == 0 && problem->head_dim_qk > 0)
        problem->scale = (float)(1 / sqrt(problem->head_dim_qk));

    default_i32(&problem->v_cache.dtype, problem->k_cache.dtype);
    default_i32(&problem->k_new.dtype, problem->k_cache.dtype);
    /* Maps in fp8 do not exist: beside an fp8 cache they are as q. */
    int32_t map_dtype = problem->k_cache.dtype == HATTN_F8_E4M3 ? problem->q.dtype : problem->k_cache.dtype;
    default_i32(&problem->key_map.dtype, map_dtype);
    default_i32(&problem->query_map.dtype, map_dtype);
    default_i32(&problem->out.dtype, problem->q.dtype);
    default_i32(&problem->scores.dtype, problem->key_norms ? HATTN_F32 : HATTN_U16);

    int64_t Hq = problem->num_q_heads, Hkv = problem->num_kv_heads, Hc = problem->num_code_heads,
            Hs = problem->num_selection_heads;
    int64_t d = problem->head_dim_qk, dv = problem->head_dim_v, rows = problem->max_rows;
    int64_t words = ((int64_t)problem->code_bits + 31) / 32;
    int64_t slots = problem->page_size ? problem->page_size : problem->max_length;
    compact2(&problem->q, Hq, d);
    compact2(&problem->k_new, Hkv, d);
    compact_cache(&problem->k_cache, slots, Hkv, d);
    compact_cache(&problem->v_cache, slots, Hkv, dv);
    compact_cache(&problem->codes, slots, Hc, words);
    compact_cache(&problem->norms, slots, Hc, 1);
    compact2(&problem->weights, Hs, problem->code_bits);
    compact2(&problem->scores, Hs, problem->max_length);
    compact2(&problem->indices, Hs, problem->k);
    compact2(&problem->counts, Hs, 1);
    compact2(&problem->out, Hq, dv);
    compact2(&problem->lse, Hq, 1);
    compact(&problem->partial_out, rows, Hq, dv);
    compact(&problem->partial_lse, rows, Hq, 1);
    problem->block_table.stride[0] = problem->page_size ? (problem->max_length + slots - 1) / slots : 0;
    compact2(&problem->budgets, Hs, 1);
    compact_map(problem, &problem->key_map);
    compact_map(problem, &problem->query_map);
}
