/* SPDX-License-Identifier: Apache-2.0
 * Small integers all through, so that codes, weights, scores and selections are the same however sums are rounded.
 */
#include "backends/known_answer.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/status.h"
#include "reference/reference.h"

enum { LENGTH = 72, DIM = 32, DIM_V = 40, HEADS = 4, BITS = 96, WORDS = 3, K = 20, PARTS = 3 };

/* What the operations leave. */
typedef struct results {
    _Alignas(256) uint32_t codes[LENGTH * WORDS];
    _Alignas(256) int8_t weights[BITS];
    _Alignas(256) uint16_t scores[LENGTH];
    _Alignas(256) int32_t indices[K];
    _Alignas(256) int32_t count[1];
    _Alignas(256) float out[HEADS * DIM_V];
    _Alignas(256) float lse[HEADS];
    _Alignas(256) float merged[HEADS * DIM_V];
    _Alignas(256) float merged_lse[HEADS];
} results;

/* All tensors, once on the host and once on the device. Each call reads what is right and writes elsewhere, so that a wrong one
 * misleads no other. */
typedef struct tensors {
    _Alignas(256) uint16_t k[LENGTH * DIM];
    _Alignas(256) uint16_t v[LENGTH * DIM_V];
    _Alignas(256) uint16_t q[HEADS * DIM];
    _Alignas(256) uint16_t map[DIM * BITS];
    _Alignas(256) int32_t length[1];
    _Alignas(256) float partial_out[PARTS * HEADS * DIM_V];
    _Alignas(256) float partial_lse[PARTS * HEADS];
    results right, got, fused; /* by the reference, the separate calls, decode */
} tensors;

/* -range..range, the same numbers each time. */
static double next_integer(uint32_t *state, int range)
{
    *state = *state * 1664525u + 1013904223u;
    return (int)(*state >> 16) % (2 * range + 1) - range;
}

static void fill(tensors *t)
{
    uint32_t state = 1;
    memset(t, 0xAA, sizeof(*t));
    for (int i = 0; i < LENGTH * DIM; i++)
        hattn_reference_store(t->k, HATTN_F16, i, next_integer(&state, 3));
    for (int i = 0; i < LENGTH * DIM_V; i++)
        hattn_reference_store(t->v, HATTN_F16, i, next_integer(&state, 8));
    for (int i = 0; i < HEADS * DIM; i++)
        hattn_reference_store(t->q, HATTN_F16, i, next_integer(&state, 3));
    for (int i = 0; i < DIM * BITS; i++)
        hattn_reference_store(t->map, HATTN_F16, i, next_integer(&state, 2));
    for (int i = 0; i < PARTS * HEADS * DIM_V; i++)
        t->partial_out[i] = (float)next_integer(&state, 8);
    for (int i = 0; i < PARTS * HEADS; i++)
        t->partial_lse[i] = (float)next_integer(&state, 2);
    t->length[0] = LENGTH;
}

/* Complete, as plans are given it: one sequence, one KV head. */
static hattn_problem describe(void)
{
    hattn_problem p = {.struct_size = sizeof(p),
                       .num_q_heads = HEADS,
                       .num_kv_heads = 1,
                       .num_code_heads = 1,
                       .num_selection_heads = 1,
                       .head_dim_qk = DIM,
                       .head_dim_v = DIM_V,
                       .code_bits = BITS,
                       .map_kind = HATTN_MAP_LINEAR,
                       .score_kind = HATTN_SCORE_HAMMING,
                       .weight_bits = 4,
                       .max_sequences = 1,
                       .max_rows = 1,
                       .max_q_len = 1,
                       .max_length = LENGTH,
                       .k = K,
                       .num_sink = 1,
                       .num_recent = 2,
                       .scale = 0.0625f};
    p.key_map = p.query_map =
        (hattn_map){.dtype = HATTN_F16, .weight_stride = {{DIM * BITS, BITS}}, .bias_stride = {BITS}};
    p.q = (hattn_tensor){HATTN_F16, 0, {HEADS * DIM, DIM}};
    p.k_new = (hattn_tensor){HATTN_F16, 0, {DIM, DIM}};
    p.k_cache = (hattn_tensor){HATTN_F16, 0, {LENGTH * DIM, DIM, LENGTH * DIM}};
    p.v_cache = (hattn_tensor){HATTN_F16, 0, {LENGTH * DIM_V, DIM_V, LENGTH * DIM_V}};
    p.codes = (hattn_tensor){HATTN_U32, 0, {LENGTH * WORDS, WORDS, LENGTH * WORDS}};
    p.norms = (hattn_tensor){HATTN_F16, 0, {LENGTH, 1, LENGTH}};
    p.weights = (hattn_tensor){HATTN_I8, 0, {BITS, BITS}};
    p.scores = (hattn_tensor){HATTN_U16, 0, {LENGTH, LENGTH}};
    p.indices = (hattn_tensor){HATTN_I32, 0, {K, K}};
    p.counts = (hattn_tensor){HATTN_I32, 0, {1, 1}};
    p.out = (hattn_tensor){HATTN_F32, 0, {HEADS * DIM_V, DIM_V}};
    p.lse = (hattn_tensor){HATTN_F32, 0, {HEADS, 1}};
    p.partial_out = (hattn_tensor){HATTN_F32, 0, {HEADS * DIM_V, HEADS * DIM_V, DIM_V}};
    p.partial_lse = (hattn_tensor){HATTN_F32, 0, {HEADS, HEADS, 1}};
    p.block_table = (hattn_tensor){HATTN_I32, 0, {1}};
    p.budgets = (hattn_tensor){HATTN_I32, 0, {1, 1}};
    return p;
}

/* Arguments over tensors that start at `base`, on either side. */
typedef struct calls {
    hattn_encode_keys_args encode_keys;
    hattn_encode_queries_args encode_queries;
    hattn_score_args score;
    hattn_topk_args topk;
    hattn_attend_args attend;
    hattn_merge_args merge;
    hattn_decode_args decode;
} calls;

#define IN(field) ((hattn_buffer){base.data, base.byte_offset + offsetof(tensors, field)})
#define OUT(field) ((hattn_buffer){base.data, base.byte_offset + outputs + offsetof(results, field)})

/* outputs: where the results of the separate calls are. */
static calls make_calls(hattn_buffer base, size_t outputs)
{
    const hattn_batch batch = {.num_sequences = 1, .num_rows = 1, .q_len = 1, .seq_len = IN(length)};
    const hattn_map_buffers map = {.weight = {IN(map)}};
    return (calls){
        .encode_keys = HATTN_STRUCT(hattn_encode_keys_args, .num_tokens = LENGTH, .k_new = IN(k), .key_map = map,
                                    .codes = OUT(codes)),
        .encode_queries = HATTN_STRUCT(hattn_encode_queries_args, .num_rows = 1, .q = IN(q), .query_map = map,
                                       .weights = OUT(weights)),
        .score = HATTN_STRUCT(hattn_score_args, .batch = batch, .weights = IN(right.weights), .codes = IN(right.codes),
                              .scores = OUT(scores)),
        .topk = HATTN_STRUCT(hattn_topk_args, .batch = batch, .scores = IN(right.scores), .indices = OUT(indices),
                             .counts = OUT(count)),
        .attend =
            HATTN_STRUCT(hattn_attend_args, .batch = batch, .q = IN(q), .k_cache = IN(k), .v_cache = IN(v),
                         .indices = IN(right.indices), .counts = IN(right.count), .out = OUT(out), .lse = OUT(lse)),
        .merge = HATTN_STRUCT(hattn_merge_args, .num_parts = PARTS, .num_rows = 1, .partial_out = IN(partial_out),
                              .partial_lse = IN(partial_lse), .out = OUT(merged), .lse = OUT(merged_lse)),
        .decode = HATTN_STRUCT(hattn_decode_args, .batch = batch, .q = IN(q), .k_cache = IN(k), .v_cache = IN(v),
                               .codes = IN(right.codes), .query_map = map, .out = IN(fused.out), .lse = IN(fused.lse),
                               .weights = IN(fused.weights), .indices = IN(fused.indices), .counts = IN(fused.count)),
    };
}

/* Fills t->right. */
static void answer(const hattn_problem *p, tensors *t)
{
    const calls c = make_calls((hattn_buffer){t, 0}, offsetof(tensors, right));
    hattn_reference_encode_keys(p, &c.encode_keys);
    hattn_reference_encode_queries(p, &c.encode_queries);
    hattn_reference_score(p, &c.score);
    hattn_reference_topk(p, &c.topk);
    hattn_reference_attend(p, &c.attend);
    hattn_reference_merge(p, &c.merge);
}

/* A tensor's place among the results and what it is compared as. */
typedef struct check {
    const char *operation, *tensor;
    size_t results, offset, count;
    int32_t dtype;
} check;

#define CHECK(operation, tensor, of, field, dtype)                                \
    {                                                                             \
        operation, tensor, offsetof(tensors, of), offsetof(results, field),       \
            sizeof(((results *)0)->field) / sizeof(*((results *)0)->field), dtype \
    }

static const check checks[] = {
    CHECK("encode_keys", "codes", got, codes, HATTN_U32), CHECK("encode_queries", "weights", got, weights, HATTN_I8),
    CHECK("score", "scores", got, scores, HATTN_U16),     CHECK("topk", "counts", got, count, HATTN_I32),
    CHECK("topk", "indices", got, indices, HATTN_I32),    CHECK("attend", "out", got, out, HATTN_F32),
    CHECK("attend", "lse", got, lse, HATTN_F32),          CHECK("merge", "out", got, merged, HATTN_F32),
    CHECK("merge", "lse", got, merged_lse, HATTN_F32),    CHECK("decode", "weights", fused, weights, HATTN_I8),
    CHECK("decode", "counts", fused, count, HATTN_I32),   CHECK("decode", "indices", fused, indices, HATTN_I32),
    CHECK("decode", "out", fused, out, HATTN_F32),        CHECK("decode", "lse", fused, lse, HATTN_F32),
};

static double value_of(const void *data, int32_t dtype, size_t i)
{
    switch (dtype) {
    case HATTN_U32: return ((const uint32_t *)data)[i];
    case HATTN_I32: return ((const int32_t *)data)[i];
    case HATTN_U16: return ((const uint16_t *)data)[i];
    case HATTN_I8: return ((const int8_t *)data)[i];
    default: return ((const float *)data)[i];
    }
}

/* Values are up to 8: numerics.md's tolerance of sums with fp16 weights, and some. */
static const double TOLERANCE = 0.03;

static hattn_status compare(const hattn_device *device, const tensors *got, const results *right, hattn_error *error)
{
    for (size_t n = 0; n < sizeof(checks) / sizeof(*checks); n++) {
        const check *c = &checks[n];
        for (size_t i = 0; i < c->count; i++) {
            const double a = value_of((const char *)got + c->results + c->offset, c->dtype, i),
                         b = value_of((const char *)right + c->offset, c->dtype, i);
            if (!(fabs(a - b) <= (c->dtype == HATTN_F32 ? TOLERANCE : 0)))
                return hattn_fail(error, HATTN_DEVICE_ERROR,
                                  "%s: %s computes wrongly: the known answer of %s has %s[%zu] %.9g, it gives %.9g "
                                  "(HATTN_SELFTEST=0 opens it all the same)",
                                  device->backend->name, device->info.name, c->operation, c->tensor, i, b, a);
        }
    }
    return HATTN_OK;
}

/* All calls on the device. */
static hattn_status run(const hattn_plan *plan, hattn_buffer there, const hattn_exec *exec, hattn_error *error)
{
    const hattn_backend *backend = plan->backend;
    const calls c = make_calls(there, offsetof(tensors, got));
    hattn_status status =
        backend->workspace_init(plan->device, exec->workspace, exec->workspace_size, exec->stream, error);
    status = status ? status : backend->encode_keys(plan, &c.encode_keys, exec, error);
    status = status ? status : backend->encode_queries(plan, &c.encode_queries, exec, error);
    status = status ? status : backend->score(plan, &c.score, exec, error);
    status = status ? status : backend->topk(plan, &c.topk, exec, error);
    status = status ? status : backend->attend(plan, &c.attend, exec, error);
    status = status ? status : backend->merge(plan, &c.merge, exec, error);
    return status ? status : (plan->is_composed ? hattn_compose_decode : backend->decode)(plan, &c.decode, exec, error);
}

/* With a plan, and tensors on both sides. */
static hattn_status try_plan(const hattn_plan *plan, const hattn_known_memory *memory, tensors *got, tensors *want,
                             hattn_error *error)
{
    hattn_device *device = plan->device;
    hattn_buffer there = {NULL, 0}, workspace = {NULL, 0};
    fill(want);
    answer(&plan->problem, want);
    hattn_status status = memory->allocate(device, sizeof(*want), &there, error);
    status = status ? status : memory->allocate(device, plan->workspace_size, &workspace, error);
    status = status ? status : memory->write(device, there, want, sizeof(*want), error);
    if (!status) {
        const hattn_exec exec = HATTN_STRUCT(hattn_exec, .workspace = workspace, .workspace_size = plan->workspace_size,
                                             .stream = memory->stream);
        status = run(plan, there, &exec, error);
    }
    status = status ? status : memory->read(device, got, there, sizeof(*got), error);
    status = status ? status : compare(device, got, &want->right, error);
    if (there.data)
        memory->release(device, there);
    if (workspace.data)
        memory->release(device, workspace);
    return status;
}

hattn_status hattn_known_answer(hattn_device *device, const hattn_known_memory *memory, hattn_error *error)
{
    const char *wish = getenv("HATTN_SELFTEST");
    if (wish && !strcmp(wish, "0"))
        return HATTN_OK;
    const hattn_problem problem = describe();
    hattn_plan *plan = NULL;
    hattn_status status = device->backend->plan(device, &problem, &plan, error);
    if (status)
        return status;
    plan->backend = device->backend;
    plan->device = device;
    plan->problem = problem;
    plan->backend_workspace_size = plan->workspace_size;
    plan->is_composed = plan->is_composed || !device->backend->decode;
    if (plan->is_composed)
        plan->workspace_size += hattn_compose_workspace_size(&problem);
    tensors *both = aligned_alloc(256, 2 * sizeof(*both));
    status = both ? try_plan(plan, memory, &both[0], &both[1], error)
                  : hattn_fail(error, HATTN_OUT_OF_MEMORY, "%s: no memory for the known answer", device->backend->name);
    free(both);
    device->backend->plan_destroy(plan);
    return status;
}
