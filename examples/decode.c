/* SPDX-License-Identifier: Apache-2.0
 * One decode step of 8 query heads on 2 KV heads over 16384 cached keys. The key of token 12345 is made to match the
 * queries of the first KV head; the step has to find it by its 128-bit code.
 */
#include <hattn.h>
#include <stdio.h>
#include <stdlib.h>

enum { HQ = 8, HKV = 2, D = 128, BITS = 128, N = 16384, K = 512, WANTED = 12345 };

/* q [HQ, D], k and v [HKV, N, D], map [HKV, D, BITS]: encode all keys, then one step over them. */
static hattn_status decode(float *q, float *k, float *v, float *map, float *out, int32_t *kept, hattn_error *error)
{
    hattn_device *device = NULL;
    hattn_plan *plan = NULL;
    hattn_problem problem = HATTN_STRUCT(hattn_problem, .num_q_heads = HQ, .num_kv_heads = HKV, .head_dim_qk = D,
                                         .code_bits = BITS, .max_sequences = 1, .max_length = N, .k = K);
    problem.q.dtype = problem.k_cache.dtype = HATTN_F32;
    problem.k_new.stride[0] = D, problem.k_new.stride[1] = N * D; /* encode straight from the cache */
    hattn_status status = hattn_device_open(&HATTN_STRUCT(hattn_device_options, .backend = "cpu"), &device, error);
    status = status ? status : hattn_plan_create(device, &problem, &plan, error);
    hattn_exec exec = HATTN_STRUCT(hattn_exec, .workspace_size = hattn_plan_workspace_size(plan));
    exec.workspace.data = aligned_alloc(256, (exec.workspace_size + 255) / 256 * 256);
    status = status ? status : hattn_workspace_init(device, exec.workspace, exec.workspace_size, NULL, error);
    hattn_encode_keys_args encode = HATTN_STRUCT(hattn_encode_keys_args, .num_tokens = N, .k_new.data = k,
                                                 .codes.data = malloc(HKV * N * BITS / 8));
    encode.key_map.weight[0].data = map;
    status = status ? status : hattn_encode_keys(plan, &encode, &exec, error);
    hattn_batch batch = {.num_sequences = 1, .num_rows = 1, .q_len = 1, .seq_len.data = &(int32_t){N}};
    hattn_decode_args step =
        HATTN_STRUCT(hattn_decode_args, .batch = batch, .q.data = q, .k_cache.data = k, .v_cache.data = v,
                     .codes = encode.codes, .query_map = encode.key_map, .out.data = out, .indices.data = kept);
    status = status ? status : hattn_decode(plan, &step, &exec, error);
    free(encode.codes.data), free(exec.workspace.data), hattn_plan_destroy(plan), hattn_device_close(device);
    return status;
}

static float *random_floats(size_t count)
{
    float *values = malloc(count * sizeof(*values));
    for (size_t i = 0; i < count; i++)
        values[i] = 2.0f * rand() / RAND_MAX - 1.0f;
    return values;
}

int main(void)
{
    float *q = random_floats(HQ * D), *map = random_floats(HKV * D * BITS), out[HQ * D];
    float *k = random_floats(HKV * N * D), *v = random_floats(HKV * N * D);
    for (int i = 0; i < D; i++)
        k[WANTED * D + i] = 4 * (q[i] + q[D + i] + q[2 * D + i] + q[3 * D + i]);

    int32_t kept[HKV * K];
    hattn_error error;
    if (decode(q, k, v, map, out, kept, &error))
        return fprintf(stderr, "%s\n", error.text), 1;
    int found = 0;
    for (int i = 0; i < K; i++)
        found |= kept[i] == WANTED;
    printf("kept %d of %d tokens, token %d %s them; attention gave %.3f where its value is %.3f\n", K, N, WANTED,
           found ? "among" : "not among", out[0], v[WANTED * D]);
    free(q), free(k), free(v), free(map);
    return !found;
}
