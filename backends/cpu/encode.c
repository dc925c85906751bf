/* SPDX-License-Identifier: Apache-2.0
 * Encode: keys in blocks (prefill), one key a row (append), and the queries of one selection head.
 */
#include "backends/cpu/cpu.h"
#include "core/floor.h"

enum { PROJECTION = 64 }; /* keys that are scored in the time in which one vector is projected: about a microsecond */

/* One side's map of one code head applied to num_x fp32 vectors in scratch; returns z [num_x, code_bits] there. */
static const float *project(const hattn_crew *crew, char *scratch, const hattn_map *map,
                            const hattn_map_buffers *buffers, int64_t code_head, int num_x)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const hattn_cpu_scratch *at = &crew->plan->scratch;
    const bool mlp = p->map_kind == HATTN_MAP_MLP;
    const int num_layers = mlp ? 3 : 1;
    const int64_t element = hattn_dtype_size(map->dtype);
    float *const z = (float *)(scratch + at->z);
    float *const outputs[3] = {mlp ? (float *)(scratch + at->hidden[0]) : z, (float *)(scratch + at->hidden[1]), z};
    const float *x = (const float *)(scratch + at->x);
    int64_t stride_x = crew->plan->stride_q;
    int num_inputs = p->head_dim_qk;
    for (int i = 0; i < num_layers; i++) {
        const bool last = i == num_layers - 1;
        const int num_outputs = last ? p->code_bits : map->hidden[i];
        const char *bias = buffers->bias[i].data ? (const char *)hattn_address(buffers->bias[i]) +
                                                       code_head * map->bias_stride[i] * element
                                                 : NULL;
        const hattn_layer layer = {
            .x = x,
            .stride_x = stride_x,
            .num_x = num_x,
            .num_inputs = num_inputs,
            .num_outputs = num_outputs,
            .silu = !last,
            .weight = (const char *)hattn_address(buffers->weight[i]) + code_head * map->weight_stride[i][0] * element,
            .stride_weight = map->weight_stride[i][1],
            .bias = bias,
            .dtype = map->dtype,
            .z = outputs[i],
            .stride_z = num_outputs,
        };
        crew->plan->kernels.project(&layer);
        x = outputs[i];
        stride_x = num_inputs = num_outputs;
    }
    return z;
}

/* A code (and norm) into a slot of a page: whole, also where another unit has a token for the same slot. */
static void store_code(hattn_crew *crew, hattn_buffer codes, hattn_buffer norms, int64_t page, int64_t slot_in_page,
                       int64_t code_head, const float *z, const float *x)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const uint16_t norm = p->key_norms ? crew->plan->kernels.norm(x, p->head_dim_qk) : 0;
    uint32_t *code = (uint32_t *)(void *)hattn_element(&p->codes, codes, page, slot_in_page, code_head);
    hattn_crew_lock(crew, code);
    crew->plan->kernels.pack(z, p->code_bits, code);
    if (p->key_norms)
        *(uint16_t *)(void *)hattn_element(&p->norms, norms, page, slot_in_page, code_head) = norm;
    hattn_crew_unlock(crew, code);
}

static void encode_keys_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_encode_keys_args *args = run.encode_keys;
    const hattn_problem *p = &crew->plan->base.problem;
    const int64_t slots = p->page_size ? p->page_size : p->max_length;
    const int64_t *mapping = args->slot_mapping.data ? hattn_address(args->slot_mapping) : NULL;
    const int64_t blocks = ((int64_t)args->num_tokens + HATTN_KEY_BLOCK - 1) / HATTN_KEY_BLOCK;
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    float *x = (float *)(scratch + crew->plan->scratch.x);
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_ENCODE, blocks * p->num_code_heads, &unit)) {
        const int64_t code_head = unit / blocks, first = unit % blocks * HATTN_KEY_BLOCK;
        const int64_t kv_head = code_head * p->num_kv_heads / p->num_code_heads;
        const float scale = hattn_kv_scale(p, args->k_scale, kv_head);
        int64_t places[HATTN_KEY_BLOCK];
        int num_x = 0; /* skipped tokens are not read */
        for (int64_t t = first; t < args->num_tokens && t < first + HATTN_KEY_BLOCK; t++) {
            places[num_x] = mapping ? mapping[t] : t;
            if (places[num_x] < 0)
                continue;
            crew->plan->kernels.load(hattn_element(&p->k_new, args->k_new, t, kv_head, 0), p->k_new.dtype,
                                     p->head_dim_qk, scale, x + num_x++ * crew->plan->stride_q);
        }
        if (!num_x)
            continue;
        const float *z = project(crew, scratch, &p->key_map, &args->key_map, code_head, num_x);
        for (int i = 0; i < num_x; i++)
            store_code(crew, args->codes, args->norms, places[i] / slots, places[i] % slots, code_head,
                       z + (int64_t)i * p->code_bits, x + i * crew->plan->stride_q);
    }
}

hattn_status hattn_cpu_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                                   hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, (int64_t)args->num_tokens * plan->problem.num_code_heads * PROJECTION,
                         encode_keys_body, (hattn_cpu_args){.encode_keys = args});
}

void hattn_cpu_append(hattn_crew *crew, const hattn_decode_args *args)
{
    const hattn_problem *p = &crew->plan->base.problem;
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    float *x = (float *)(scratch + crew->plan->scratch.x);
    const int64_t units = (int64_t)args->batch.num_rows * p->num_code_heads;
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_APPEND, units, &unit)) {
        const int64_t code_head = unit % p->num_code_heads, kv_head = code_head * p->num_kv_heads / p->num_code_heads;
        const hattn_row row = hattn_resolve_row(p, &args->batch, (int32_t)(unit / p->num_code_heads));
        if (row.sequence < 0 || row.position < 0 || row.position >= p->max_length)
            continue;
        const hattn_pages pages = hattn_sequence_pages(p, &args->batch, row.sequence);
        int32_t slot_in_page;
        const int64_t page = hattn_page(&pages, (int32_t)row.position, &slot_in_page);
        crew->plan->kernels.load(hattn_element(&p->k_cache, args->k_cache, page, slot_in_page, kv_head),
                                 p->k_cache.dtype, p->head_dim_qk, hattn_kv_scale(p, args->k_scale, kv_head), x);
        const float *z = project(crew, scratch, &p->key_map, &args->key_map, code_head, 1);
        store_code(crew, args->codes, args->norms, page, slot_in_page, code_head, z, x);
    }
    if (p->tail > 0) {
        const hattn_sum_values_args sums = {.batch = args->batch,
                                            .v_cache = args->v_cache,
                                            .value_slots = args->value_slots,
                                            .value_sums = args->value_sums,
                                            .value_lengths = args->value_lengths};
        hattn_cpu_sum_values_units(crew, &sums);
    }
    hattn_crew_finish(crew, HATTN_STEP_APPEND, units);
}

int32_t hattn_cpu_encode_queries_unit(const hattn_crew *crew, char *scratch, hattn_buffer q,
                                      const hattn_map_buffers *map, hattn_buffer slopes, int64_t row, int64_t head,
                                      int8_t *weights)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const int group = crew->plan->group;
    float *x = (float *)(scratch + crew->plan->scratch.x);
    for (int i = 0; i < group; i++)
        crew->plan->kernels.load(hattn_element(&p->q, q, row, head * group + i, 0), p->q.dtype, p->head_dim_qk, 1,
                                 x + i * crew->plan->stride_q);
    const int64_t code_head = head * p->num_code_heads / p->num_selection_heads;
    const float *z = project(crew, scratch, &p->query_map, map, code_head, group);
    const int qmax = p->score_kind == HATTN_SCORE_WEIGHTED ? (1 << (p->weight_bits - 1)) - 1 : 0;
    const float largest = crew->plan->kernels.weights(z, p->code_bits, group, p->code_bits, qmax, weights);
    if (!slopes.data)
        return 0;
    const float slope = *(const float *)hattn_element(&p->slopes, slopes, head, 0, 0);
    return hattn_floor_step(slope, qmax ? largest / (float)qmax : 1);
}

int32_t hattn_cpu_encode_head(const hattn_crew *crew, char *scratch, hattn_buffer slopes, int64_t head, int i,
                              int8_t *weights)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const float *z = (const float *)(const void *)(scratch + crew->plan->scratch.z) + (int64_t)i * p->code_bits;
    const int qmax = (1 << (p->weight_bits - 1)) - 1;
    const float largest = crew->plan->kernels.weights(z, p->code_bits, 1, p->code_bits, qmax, weights);
    return hattn_floor_step(*(const float *)hattn_element(&p->head_slopes, slopes, head, 0, 0), largest / (float)qmax);
}

static void encode_queries_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_encode_queries_args *args = run.encode_queries;
    const hattn_problem *p = &crew->plan->base.problem;
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_ENCODE, (int64_t)args->num_rows * p->num_selection_heads, &unit)) {
        const int64_t row = unit / p->num_selection_heads, head = unit % p->num_selection_heads;
        const int32_t step =
            hattn_cpu_encode_queries_unit(crew, scratch, args->q, &args->query_map, args->slopes, row, head,
                                          (int8_t *)hattn_element(&p->weights, args->weights, row, head, 0));
        if (args->steps.data)
            *(int32_t *)(void *)hattn_element(&p->steps, args->steps, row, head, 0) = step;
        for (int i = 0; p->num_candidates && i < crew->plan->group; i++) {
            const int64_t of = head * crew->plan->group + i;
            *(int32_t *)(void *)hattn_element(&p->head_steps, args->head_steps, row, of, 0) =
                hattn_cpu_encode_head(crew, scratch, args->head_slopes, of, i,
                                      (int8_t *)hattn_element(&p->head_weights, args->head_weights, row, of, 0));
        }
    }
}

hattn_status hattn_cpu_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                      const hattn_exec *exec, hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, (int64_t)args->num_rows * plan->problem.num_q_heads * PROJECTION,
                         encode_queries_body, (hattn_cpu_args){.encode_queries = args});
}
