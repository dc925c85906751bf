/* SPDX-License-Identifier: Apache-2.0
 * Runs: a kernel's arguments, and a place in the queue. A kernel object holds its arguments, so that runs of one plan on several threads
 * take turns; nobody waits for a device.
 */
#include <string.h>

#include "backends/opencl/opencl.h"
#include "core/workspace.h"

/* One run: its queue, and what went wrong first. */
typedef struct run {
    const hattn_opencl_plan *plan;
    const hattn_opencl_functions *cl;
    cl_command_queue queue;
    hattn_buffer workspace;
    cl_int code;
    const char *what;
    const hattn_opencl_kernel *kernel; /* whose arguments are being set */
    cl_uint num_arguments;
} run;

static run begin(const hattn_plan *base, const hattn_exec *exec)
{
    const hattn_opencl_plan *plan = (const hattn_opencl_plan *)base;
    const hattn_opencl_device *device = (const hattn_opencl_device *)base->device;
    pthread_mutex_lock((pthread_mutex_t *)&plan->lock);
    return (run){.plan = plan,
                 .cl = device->cl,
                 .queue = exec->stream ? (cl_command_queue)exec->stream : device->queue,
                 .workspace = exec->workspace};
}

static hattn_status end(const run *r, hattn_error *error)
{
    pthread_mutex_unlock((pthread_mutex_t *)&r->plan->lock);
    return hattn_opencl_from_code(r->code, r->what, error);
}

static void note(run *r, cl_int code, const char *what)
{
    if (!r->code && code) {
        r->code = code;
        r->what = what;
    }
}

static void start(run *r, int kernel)
{
    r->kernel = &r->plan->kernels[kernel];
    r->num_arguments = 0;
}

static void put(run *r, const void *value, size_t size)
{
    note(r, r->cl->clSetKernelArg(r->kernel->kernel, r->num_arguments++, size, value), "clSetKernelArg");
}

/* A handle and an offset; NULL: not there. */
static void put_buffer(run *r, hattn_buffer buffer)
{
    const cl_mem memory = (cl_mem)buffer.data;
    const cl_ulong offset = buffer.data ? buffer.byte_offset : 0;
    put(r, buffer.data ? &memory : NULL, sizeof(memory));
    put(r, &offset, sizeof(offset));
}

static void put_local(run *r, int64_t elements, size_t size) { put(r, NULL, (size_t)elements * size); }

static void enqueue(run *r, int64_t groups)
{
    const size_t local = (size_t)r->kernel->local, global = (size_t)groups * local;
    if (groups > 0 && !r->code)
        note(r, r->cl->clEnqueueNDRangeKernel(r->queue, r->kernel->kernel, 1, NULL, &global, &local, 0, NULL, NULL),
             "clEnqueueNDRangeKernel");
}

static hattn_buffer in_workspace(const run *r, uint64_t offset)
{
    return (hattn_buffer){r->workspace.data, r->workspace.byte_offset + offset};
}

static void put_batch(run *r, const hattn_batch *batch)
{
    hattn_opencl_rows rows = r->plan->rows;
    rows.num_rows = batch->num_rows;
    rows.num_sequences = batch->num_sequences;
    rows.q_len = batch->q_len;
    put(r, &rows, sizeof(rows));
    put_buffer(r, batch->q_start);
    put_buffer(r, batch->seq_len);
}

/* ---- The kernels ---- */

static void put_map(run *r, const hattn_opencl_encoder *encoder, const hattn_map_buffers *buffers)
{
    put(r, &encoder->encoding, sizeof(encoder->encoding));
    put(r, &encoder->map, sizeof(encoder->map));
    for (int layer = 0; layer < 3; layer++)
        put_buffer(r, layer < encoder->map.num_layers ? buffers->weight[layer] : (hattn_buffer){NULL, 0});
    for (int layer = 0; layer < 3; layer++)
        put_buffer(r, layer < encoder->map.num_layers ? buffers->bias[layer] : (hattn_buffer){NULL, 0});
}

static void put_space(run *r, const hattn_opencl_encoder *encoder)
{
    put_local(r, (int64_t)encoder->vectors * encoder->encoding.width, sizeof(cl_float));
    put_local(r, encoder->encoding.num_sums, sizeof(cl_float));
}

/* Groups that encode so many keys. */
static int64_t key_groups(const hattn_opencl_encoder *encoder, int64_t keys)
{
    return (keys + encoder->vectors - 1) / encoder->vectors * encoder->encoding.num_code_heads;
}

static void encode_keys(run *r, const hattn_encode_keys_args *args)
{
    const cl_int num_tokens = args->num_tokens;
    start(r, HATTN_OPENCL_ENCODE_KEYS);
    put_map(r, &r->plan->keys, &args->key_map);
    put_buffer(r, args->k_new);
    put_buffer(r, args->k_scale);
    put_buffer(r, args->slot_mapping);
    put_buffer(r, args->codes);
    put_buffer(r, args->norms);
    put(r, &num_tokens, sizeof(num_tokens));
    put_space(r, &r->plan->keys);
    enqueue(r, key_groups(&r->plan->keys, num_tokens));
}

static void append_keys(run *r, const hattn_decode_args *args)
{
    start(r, HATTN_OPENCL_APPEND_KEYS);
    put_map(r, &r->plan->append, &args->key_map);
    put_batch(r, &args->batch);
    put_buffer(r, args->batch.block_table);
    put_buffer(r, args->k_cache);
    put_buffer(r, args->k_scale);
    put_buffer(r, args->codes);
    put_buffer(r, args->norms);
    put_space(r, &r->plan->append);
    enqueue(r, key_groups(&r->plan->append, args->batch.num_rows));
}

/* strides: of weights and steps, {row, head}. */
static void encode_queries(run *r, const hattn_encode_queries_args *args, const cl_long *weights, const cl_long *steps)
{
    hattn_opencl_encoder encoder = r->plan->queries;
    memcpy(encoder.encoding.to, weights, 2 * sizeof(*weights));
    memcpy(encoder.encoding.steps, steps, 2 * sizeof(*steps));
    start(r, HATTN_OPENCL_ENCODE_QUERIES);
    put_map(r, &encoder, &args->query_map);
    put_buffer(r, args->q);
    put_buffer(r, args->weights);
    if (r->plan->has_shares) {
        put_buffer(r, args->slopes);
        put_buffer(r, args->steps);
    }
    put_space(r, &encoder);
    enqueue(r, (int64_t)args->num_rows * r->plan->selection.num_heads);
}

/* Rows times selection heads. */
static int64_t num_tasks(const run *r, const hattn_batch *batch)
{
    return (int64_t)batch->num_rows * r->plan->selection.num_heads;
}

/* s: the plan's, with the strides of what args hold. Leaves counts in the workspace. */
static void score(run *r, const hattn_score_args *args, hattn_opencl_selection s)
{
    const int64_t tasks = num_tasks(r, &args->batch);
    s.num_chunks = hattn_opencl_num_chunks(r->plan, tasks);
    start(r, HATTN_OPENCL_SCORE);
    put(r, &s, sizeof(s));
    put_batch(r, &args->batch);
    put_buffer(r, args->batch.block_table);
    put_buffer(r, args->weights);
    put_buffer(r, args->codes);
    put_buffer(r, args->norms);
    put_buffer(r, args->scores);
    put_buffer(r, in_workspace(r, r->plan->layout.histograms));
    put_local(r, s.num_buckets ? (int64_t)r->plan->histograms * s.num_buckets : 1, r->plan->is_cpu ? 2 : 4);
    enqueue(r, tasks * s.num_chunks);
}

/* has_counts: score has left them in the workspace. */
static void topk(run *r, const hattn_topk_args *args, hattn_opencl_selection s, const hattn_opencl_floor *f,
                 bool has_counts)
{
    const int64_t tasks = num_tasks(r, &args->batch);
    s.num_chunks = hattn_opencl_num_chunks(r->plan, tasks);
    start(r, has_counts ? HATTN_OPENCL_SELECT_NARROW : HATTN_OPENCL_SELECT_WIDE);
    put(r, &s, sizeof(s));
    put_batch(r, &args->batch);
    put_buffer(r, args->budgets);
    put_buffer(r, args->scores);
    put_buffer(r, args->indices);
    put_buffer(r, args->counts);
    if (r->plan->has_shares) {
        put(r, f, sizeof(*f));
        put_buffer(r, args->steps);
        put_buffer(r, args->shares);
        put_buffer(r, args->rests);
    }
    if (has_counts) {
        put_buffer(r, in_workspace(r, r->plan->layout.histograms));
        put_local(r, 2 * (int64_t)s.num_buckets, sizeof(cl_uint));
    }
    enqueue(r, has_counts ? tasks * s.num_chunks : tasks);
}

/* t NULL: no tail. */
static void join_splits(run *r, const hattn_attend_args *args, const hattn_opencl_attention *a,
                        const hattn_opencl_tail *t)
{
    start(r, t ? HATTN_OPENCL_JOIN_TAIL : HATTN_OPENCL_JOIN);
    put(r, a, sizeof(*a));
    put_buffer(r, in_workspace(r, r->plan->layout.parts));
    put_buffer(r, args->v_scale);
    put_buffer(r, args->sink_logits);
    put_buffer(r, args->out);
    put_buffer(r, args->lse);
    if (t) {
        put(r, t, sizeof(*t));
        put_batch(r, &args->batch);
        const hattn_buffer buffers[] = {
            args->batch.block_table, args->v_cache,       args->counts,     args->shares, args->rests,
            args->value_sums,        args->value_lengths, args->value_slots};
        for (size_t i = 0; i < sizeof(buffers) / sizeof(*buffers); i++)
            put_buffer(r, buffers[i]);
    }
    enqueue(r, (int64_t)args->batch.num_rows * a->num_q_heads);
}

static void sum_values(run *r, const hattn_sum_values_args *args)
{
    const hattn_opencl_attention *a = &r->plan->dense.attention;
    start(r, HATTN_OPENCL_SUM_VALUES);
    put(r, a, sizeof(*a));
    put(r, &r->plan->tail, sizeof(r->plan->tail));
    put_batch(r, &args->batch);
    const hattn_buffer buffers[] = {args->batch.block_table, args->v_cache, args->value_slots, args->value_sums,
                                    args->value_lengths};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(*buffers); i++)
        put_buffer(r, buffers[i]);
    const int32_t columns = a->head_dim_v / 8, lanes = r->kernel->local / columns;
    put_local(r, (int64_t)(lanes > 1 ? lanes : 1) * a->head_dim_v, sizeof(cl_long));
    enqueue(r, (int64_t)args->batch.num_sequences * a->num_kv_heads);
}

/* s, f: strides of what a decode selected; NULL: as the plan has them. */
static void attend(run *r, const hattn_attend_args *args, const hattn_opencl_selection *s, const hattn_opencl_floor *f)
{
    const bool is_sparse = args->indices.data;
    const hattn_opencl_attender *attender = is_sparse ? &r->plan->sparse : &r->plan->dense;
    hattn_opencl_attention a = attender->attention;
    hattn_opencl_tail t = r->plan->tail;
    const bool has_tail = is_sparse && r->plan->has_tail;
    a.num_splits = hattn_opencl_num_splits(r->plan, attender, args->batch.num_rows);
    for (int i = 0; s && i < 2; i++) {
        a.indices[i] = s->indices[i];
        a.counts[i] = s->counts[i];
        t.shares[i] = f->shares[i];
        t.rests[i] = f->rests[i];
    }
    start(r, is_sparse ? HATTN_OPENCL_ATTEND_SPARSE : HATTN_OPENCL_ATTEND_DENSE);
    put(r, &a, sizeof(a));
    put_batch(r, &args->batch);
    put_buffer(r, args->batch.block_table);
    const hattn_buffer buffers[] = {args->q,
                                    args->k_cache,
                                    args->v_cache,
                                    args->k_scale,
                                    args->v_scale,
                                    args->sink_logits,
                                    args->indices,
                                    args->counts,
                                    args->out,
                                    args->lse,
                                    in_workspace(r, r->plan->layout.parts)};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(*buffers); i++)
        put_buffer(r, buffers[i]);
    if (has_tail) {
        put(r, &t, sizeof(t));
        put_buffer(r, args->shares);
    }
    put_local(r, (int64_t)attender->heads * a.head_dim_qk, sizeof(cl_float));
    enqueue(r, (int64_t)args->batch.num_rows * (a.num_q_heads / a.group) * a.num_blocks * a.num_splits);
    if (has_tail || a.num_splits > 1)
        join_splits(r, args, &a, has_tail ? &t : NULL);
}

/* ---- The slots ---- */

hattn_status hattn_opencl_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args,
                                      const hattn_exec *exec, hattn_error *error)
{
    run r = begin(plan, exec);
    encode_keys(&r, args);
    return end(&r, error);
}

hattn_status hattn_opencl_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                         const hattn_exec *exec, hattn_error *error)
{
    run r = begin(plan, exec);
    encode_queries(&r, args, r.plan->queries.encoding.to, r.plan->queries.encoding.steps);
    return end(&r, error);
}

hattn_status hattn_opencl_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                                hattn_error *error)
{
    run r = begin(plan, exec);
    score(&r, args, r.plan->selection);
    return end(&r, error);
}

hattn_status hattn_opencl_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    run r = begin(plan, exec);
    topk(&r, args, r.plan->selection, &r.plan->floor, false);
    return end(&r, error);
}

hattn_status hattn_opencl_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                                 hattn_error *error)
{
    run r = begin(plan, exec);
    attend(&r, args, NULL, NULL);
    return end(&r, error);
}

hattn_status hattn_opencl_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                                hattn_error *error)
{
    run r = begin(plan, exec);
    hattn_opencl_join join = r.plan->join;
    join.num_parts = args->num_parts;
    start(&r, HATTN_OPENCL_MERGE);
    put(&r, &join, sizeof(join));
    put_buffer(&r, args->partial_out);
    put_buffer(&r, args->partial_lse);
    put_buffer(&r, args->out);
    put_buffer(&r, args->lse);
    enqueue(&r, (int64_t)args->num_rows * join.num_q_heads);
    return end(&r, error);
}

hattn_status hattn_opencl_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                     hattn_error *error)
{
    run r = begin(plan, exec);
    sum_values(&r, args);
    return end(&r, error);
}

/* A tensor of a decode: the caller's, or one of the workspace, compact. */
static hattn_buffer place(const run *r, hattn_buffer given, uint64_t offset, int64_t heads, int64_t last,
                          cl_long *stride)
{
    if (given.data)
        return given;
    stride[0] = heads * last;
    stride[1] = last;
    return in_workspace(r, offset);
}

hattn_status hattn_opencl_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                 hattn_error *error)
{
    run r = begin(plan, exec);
    const hattn_opencl_layout *l = &r.plan->layout;
    const hattn_buffer none = {NULL, 0};
    hattn_opencl_selection s = r.plan->selection;
    hattn_opencl_floor f = r.plan->floor;
    const int64_t heads = s.num_heads;
    const hattn_buffer weights = place(&r, args->weights, l->weights, heads, s.code_bits, s.weights),
                       scores = place(&r, none, l->scores, heads, hattn_opencl_scores_stride(r.plan), s.scores),
                       indices = place(&r, args->indices, l->indices, heads, s.k, s.indices),
                       counts = place(&r, args->counts, l->counts, heads, 1, s.counts),
                       steps = place(&r, args->steps, l->steps, heads, 1, f.steps);
    hattn_buffer shares = none, rests = none;
    if (r.plan->has_tail) {
        shares = place(&r, none, l->shares, heads, s.k, f.shares);
        rests = place(&r, none, l->rests, heads, 1, f.rests);
    }
    if (args->append)
        append_keys(&r, args);
    if (args->append && r.plan->has_tail)
        sum_values(&r, &(hattn_sum_values_args){.batch = args->batch,
                                                .v_cache = args->v_cache,
                                                .value_slots = args->value_slots,
                                                .value_sums = args->value_sums,
                                                .value_lengths = args->value_lengths});
    encode_queries(&r,
                   &(hattn_encode_queries_args){.num_rows = args->batch.num_rows,
                                                .q = args->q,
                                                .query_map = args->query_map,
                                                .weights = weights,
                                                .slopes = args->slopes,
                                                .steps = steps},
                   s.weights, f.steps);
    score(&r,
          &(hattn_score_args){
              .batch = args->batch, .weights = weights, .codes = args->codes, .norms = args->norms, .scores = scores},
          s);
    topk(&r,
         &(hattn_topk_args){.batch = args->batch,
                            .scores = scores,
                            .budgets = args->budgets,
                            .indices = indices,
                            .counts = counts,
                            .steps = steps,
                            .shares = shares,
                            .rests = rests},
         s, &f, s.num_buckets > 0);
    attend(&r,
           &(hattn_attend_args){.batch = args->batch,
                                .q = args->q,
                                .k_cache = args->k_cache,
                                .v_cache = args->v_cache,
                                .k_scale = args->k_scale,
                                .v_scale = args->v_scale,
                                .sink_logits = args->sink_logits,
                                .indices = indices,
                                .counts = counts,
                                .out = args->out,
                                .lse = args->lse,
                                .shares = shares,
                                .rests = rests,
                                .value_sums = args->value_sums,
                                .value_lengths = args->value_lengths,
                                .value_slots = args->value_slots},
           &s, &f);
    return end(&r, error);
}
