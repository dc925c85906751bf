/* SPDX-License-Identifier: Apache-2.0
 * Codes and norms of keys, weights of queries.
 */
#include "backends/opencl/queue.h"

static void put_map(hattn_cl_run *r, const hattn_opencl_encoder *encoder, const hattn_map_buffers *buffers)
{
    hattn_cl_put(r, &encoder->encoding, sizeof(encoder->encoding));
    hattn_cl_put(r, &encoder->map, sizeof(encoder->map));
    for (int layer = 0; layer < 3; layer++)
        hattn_cl_put_buffer(r, layer < encoder->map.num_layers ? buffers->weight[layer] : (hattn_buffer){NULL, 0});
    for (int layer = 0; layer < 3; layer++)
        hattn_cl_put_buffer(r, layer < encoder->map.num_layers ? buffers->bias[layer] : (hattn_buffer){NULL, 0});
}

static void put_space(hattn_cl_run *r, const hattn_opencl_encoder *encoder)
{
    hattn_cl_put_local(r, (int64_t)encoder->vectors * encoder->encoding.width, sizeof(cl_float));
    hattn_cl_put_local(r, encoder->encoding.num_sums, sizeof(cl_float));
}

/* Groups that encode so many keys. */
static int64_t key_groups(const hattn_opencl_encoder *encoder, int64_t keys)
{
    return (keys + encoder->vectors - 1) / encoder->vectors * encoder->encoding.num_code_heads;
}

static void encode_keys(hattn_cl_run *r, const hattn_encode_keys_args *args)
{
    const cl_int num_tokens = args->num_tokens;
    hattn_cl_start(r, HATTN_OPENCL_ENCODE_KEYS);
    put_map(r, &r->plan->keys, &args->key_map);
    hattn_cl_put_buffer(r, args->k_new);
    hattn_cl_put_buffer(r, args->k_scale);
    hattn_cl_put_buffer(r, args->slot_mapping);
    hattn_cl_put_buffer(r, args->codes);
    hattn_cl_put_buffer(r, args->norms);
    hattn_cl_put(r, &num_tokens, sizeof(num_tokens));
    put_space(r, &r->plan->keys);
    hattn_cl_enqueue(r, key_groups(&r->plan->keys, num_tokens));
}

void hattn_opencl_append_keys(hattn_cl_run *r, const hattn_decode_args *args)
{
    hattn_cl_start(r, HATTN_OPENCL_APPEND_KEYS);
    put_map(r, &r->plan->append, &args->key_map);
    hattn_cl_put_batch(r, &args->batch);
    hattn_cl_put_buffer(r, args->batch.block_table);
    hattn_cl_put_buffer(r, args->k_cache);
    hattn_cl_put_buffer(r, args->k_scale);
    hattn_cl_put_buffer(r, args->codes);
    hattn_cl_put_buffer(r, args->norms);
    put_space(r, &r->plan->append);
    hattn_cl_enqueue(r, key_groups(&r->plan->append, args->batch.num_rows));
}

void hattn_opencl_weigh_queries(hattn_cl_run *r, const hattn_encode_queries_args *args, const hattn_opencl_encoding *e)
{
    hattn_opencl_encoder encoder = r->plan->queries;
    encoder.encoding = *e;
    hattn_cl_start(r, HATTN_OPENCL_ENCODE_QUERIES);
    put_map(r, &encoder, &args->query_map);
    hattn_cl_put_buffer(r, args->q);
    hattn_cl_put_buffer(r, args->weights);
    if (r->plan->has_shares) {
        hattn_cl_put_buffer(r, args->slopes);
        hattn_cl_put_buffer(r, args->steps);
    }
    if (r->plan->by_heads) {
        const hattn_buffer buffers[] = {args->head_slopes, args->head_weights, args->head_steps};
        hattn_cl_put_buffers(r, buffers, sizeof(buffers) / sizeof(*buffers));
    }
    put_space(r, &encoder);
    hattn_cl_enqueue(r, (int64_t)args->num_rows * r->plan->selection.num_heads);
}

hattn_status hattn_opencl_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args,
                                      const hattn_exec *exec, hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    encode_keys(&r, args);
    return hattn_cl_end(&r, error);
}

hattn_status hattn_opencl_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                         const hattn_exec *exec, hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    hattn_opencl_weigh_queries(&r, args, &r.plan->queries.encoding);
    return hattn_cl_end(&r, error);
}
