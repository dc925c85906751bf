/* SPDX-License-Identifier: Apache-2.0
 * What the zeros of a problem stand for.
 */
#include <math.h>
#include <stdbool.h>

#include "api/structs.h"
#include "api/validate.h"
#include "core/status.h"

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

static bool is_given(const int64_t *strides, int number)
{
    for (int i = 0; i < number; i++)
        if (strides[i])
            return true;
    return false;
}

/* Compact strides of [?, a, b, last], outermost first; the outermost extent is not needed. */
static void compact(hattn_tensor *tensor, int64_t a, int64_t b, int64_t last)
{
    if (is_given(tensor->stride, 3))
        return;
    tensor->stride[0] = times(times(a, b), last);
    tensor->stride[1] = times(b, last);
    tensor->stride[2] = last;
}

/* Of [?, a, last]. */
static void compact2(hattn_tensor *tensor, int64_t a, int64_t last)
{
    if (is_given(tensor->stride, 2))
        return;
    tensor->stride[0] = times(a, last);
    tensor->stride[1] = last;
}

/* Of a cache: [page][head][slot][last]. */
static void compact_cache(hattn_tensor *tensor, int64_t slots, int64_t heads, int64_t last)
{
    if (is_given(tensor->stride, 3))
        return;
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
        if (!is_given(map->weight_stride[layer], 2)) {
            map->weight_stride[layer][0] = times(dims[layer], dims[layer + 1]);
            map->weight_stride[layer][1] = dims[layer + 1];
        }
        if (!map->bias_stride[layer])
            map->bias_stride[layer] = dims[layer + 1];
    }
}

static void complete_dtypes(hattn_problem *p)
{
    default_i32(&p->codes.dtype, HATTN_U32);
    default_i32(&p->norms.dtype, HATTN_F16);
    default_i32(&p->weights.dtype, HATTN_I8);
    hattn_tensor *const integers[] = {&p->indices, &p->counts,        &p->block_table, &p->budgets,
                                      &p->steps,   &p->value_lengths, &p->head_steps};
    for (size_t i = 0; i < sizeof(integers) / sizeof(*integers); i++)
        default_i32(&integers[i]->dtype, HATTN_I32);
    hattn_tensor *const floats[] = {&p->lse, &p->partial_out, &p->partial_lse, &p->slopes, &p->head_slopes};
    for (size_t i = 0; i < sizeof(floats) / sizeof(*floats); i++)
        default_i32(&floats[i]->dtype, HATTN_F32);
    default_i32(&p->head_weights.dtype, HATTN_I8);
    default_i32(&p->shares.dtype, HATTN_U32);
    default_i32(&p->rests.dtype, HATTN_I64);
    default_i32(&p->value_sums.dtype, HATTN_I64);
    default_i32(&p->v_cache.dtype, p->k_cache.dtype);
    default_i32(&p->k_new.dtype, p->k_cache.dtype);
    /* Maps in fp8 do not exist: beside an fp8 cache they are as q. */
    const int32_t map_dtype = p->k_cache.dtype == HATTN_F8_E4M3 ? p->q.dtype : p->k_cache.dtype;
    default_i32(&p->key_map.dtype, map_dtype);
    default_i32(&p->query_map.dtype, map_dtype);
    default_i32(&p->out.dtype, p->q.dtype);
    default_i32(&p->scores.dtype, p->key_norms ? HATTN_F32 : HATTN_U16);
}

void hattn_complete_problem(hattn_problem *p)
{
    default_i32(&p->num_code_heads, p->num_kv_heads);
    default_i32(&p->num_selection_heads, p->num_kv_heads);
    default_i32(&p->head_dim_v, p->head_dim_qk);
    default_i32(&p->map_kind, HATTN_MAP_LINEAR);
    default_i32(&p->score_kind, HATTN_SCORE_HAMMING);
    default_i32(&p->weight_bits, 4);
    default_i32(&p->max_q_len, 1);
    if (p->min_probability > 0)
        default_i32(&p->min_k, p->k < 64 ? p->k : 64);
    int64_t max_rows = (int64_t)p->max_sequences * p->max_q_len;
    default_i32(&p->max_rows, max_rows > INT32_MAX ? INT32_MAX : (int32_t)max_rows);
    if (p->scale == 0 && p->head_dim_qk > 0)
        p->scale = (float)(1 / sqrt(p->head_dim_qk));
    complete_dtypes(p);

    int64_t Hq = p->num_q_heads, Hkv = p->num_kv_heads, Hc = p->num_code_heads, Hs = p->num_selection_heads;
    int64_t d = p->head_dim_qk, dv = p->head_dim_v, rows = p->max_rows;
    int64_t words = ((int64_t)p->code_bits + 31) / 32;
    int64_t slots = p->page_size ? p->page_size : p->max_length;
    compact2(&p->q, Hq, d);
    compact2(&p->k_new, Hkv, d);
    compact_cache(&p->k_cache, slots, Hkv, d);
    compact_cache(&p->v_cache, slots, Hkv, dv);
    compact_cache(&p->codes, slots, Hc, words);
    compact_cache(&p->norms, slots, Hc, 1);
    compact2(&p->weights, Hs, p->code_bits);
    compact2(&p->scores, Hs, p->max_length);
    compact2(&p->indices, Hs, p->k);
    compact2(&p->counts, Hs, 1);
    compact2(&p->out, Hq, dv);
    compact2(&p->lse, Hq, 1);
    compact(&p->partial_out, rows, Hq, dv);
    compact(&p->partial_lse, rows, Hq, 1);
    if (p->page_size && !p->block_table.stride[0])
        p->block_table.stride[0] = ((int64_t)p->max_length + slots - 1) / slots;
    compact2(&p->budgets, Hs, 1);
    if (!p->slopes.stride[0])
        p->slopes.stride[0] = 1;
    compact2(&p->steps, Hs, 1);
    const int64_t Hr = p->num_candidates ? Hq : Hs;
    compact2(&p->shares, Hr, p->k);
    compact2(&p->rests, Hr, 1);
    compact2(&p->head_weights, Hq, p->code_bits);
    if (!p->head_slopes.stride[0])
        p->head_slopes.stride[0] = 1;
    compact2(&p->head_steps, Hq, 1);
    compact2(&p->value_sums, Hkv, dv);
    compact2(&p->value_lengths, Hkv, 1);
    compact_map(p, &p->key_map);
    compact_map(p, &p->query_map);
}

hattn_status hattn_problem_complete(const hattn_problem *problem, hattn_problem *complete, hattn_error *error)
{
    hattn_problem made;
    if (problem == complete)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "problem and complete are one struct");
    const hattn_status status = HATTN_TAKE(made, problem);
    if (status)
        return status;
    hattn_complete_problem(&made);
    return HATTN_GIVE(complete, made);
}

static void resolve(int64_t *strides, int number)
{
    for (int i = 0; i < number; i++)
        if (strides[i] == HATTN_BROADCAST)
            strides[i] = 0;
}

void hattn_resolve_broadcasts(hattn_problem *p)
{
    hattn_tensor *const tensors[] = {
        &p->q,          &p->k_new,         &p->k_cache,      &p->v_cache,     &p->codes,
        &p->norms,      &p->weights,       &p->scores,       &p->indices,     &p->counts,
        &p->out,        &p->lse,           &p->partial_out,  &p->partial_lse, &p->block_table,
        &p->budgets,    &p->slopes,        &p->steps,        &p->shares,      &p->rests,
        &p->value_sums, &p->value_lengths, &p->head_weights, &p->head_slopes, &p->head_steps};
    for (size_t i = 0; i < sizeof(tensors) / sizeof(*tensors); i++)
        resolve(tensors[i]->stride, 3);
    hattn_map *const maps[] = {&p->key_map, &p->query_map};
    for (int i = 0; i < 2; i++) {
        for (int layer = 0; layer < 3; layer++)
            resolve(maps[i]->weight_stride[layer], 2);
        resolve(maps[i]->bias_stride, 3);
    }
}
