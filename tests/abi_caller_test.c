/* SPDX-License-Identifier: Apache-2.0
 * A caller that was built with the header of another version: each struct that tells its size has a field less, or one more
 * (HATTN_APPENDED). It is served, and nothing behind its structs is written.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hattn.h>

enum { HQ = 8, HKV = 2, D = 64, N = 300, K = 20 };

static int failures;

static void expect(int holds, const char *what)
{
    if (!holds)
        fprintf(stderr, "%s\n", what), failures++;
}

/* A struct of the caller's own size, with bytes behind it that must stay. */
#define GUARDED(type, name)                       \
    struct {                                      \
        type it;                                  \
        unsigned char guard[256];                 \
    } name;                                       \
    memset(&name.it, 0, sizeof(name.it));         \
    memset(name.guard, 0xaa, sizeof(name.guard)); \
    name.it.struct_size = sizeof(name.it)

static int is_intact(const unsigned char *guard)
{
    for (int i = 0; i < 256; i++)
        if (guard[i] != 0xaa)
            return 0;
    return 1;
}

static float q[HQ * D], k[HKV * N * D], v[HKV * N * D], map[HKV * D * 64], out[HQ * D], dense[HQ * D];

int main(void)
{
    int32_t length = N;
    uint32_t codes[HKV * N * 2];
    for (int i = 0; i < HKV * N * D; i++)
        k[i] = (float)(i * 7919 % 1000) / 500 - 1, v[i] = (float)(i * 1049 % 1000) / 500 - 1;
    for (int i = 0; i < HQ * D; i++)
        q[i] = (float)(i * 31 % 100) / 50 - 1;
    for (int i = 0; i < HKV * D * 64; i++)
        map[i] = (float)(i * 613 % 200) / 100 - 1;

    hattn_error error;
    hattn_device *device = NULL;
    hattn_plan *plan = NULL;
    GUARDED(hattn_device_options, options);
    options.it.backend = "cpu";
    expect(hattn_device_open(&options.it, &device, &error) == HATTN_OK, "device_open");
    GUARDED(hattn_device_info, info);
    expect(hattn_device_query(device, &info.it, &error) == HATTN_OK && !strcmp(info.it.backend, "cpu"), "device_query");
    GUARDED(hattn_backend_info, backend);
    expect(hattn_backend_query(0, &backend.it, &error) == HATTN_OK && backend.it.name[0], "backend_query");

    GUARDED(hattn_problem, problem);
    problem.it.num_q_heads = HQ, problem.it.num_kv_heads = HKV, problem.it.head_dim_qk = D, problem.it.code_bits = 64;
    problem.it.max_sequences = 1, problem.it.max_length = N, problem.it.k = K;
    problem.it.q.dtype = problem.it.k_cache.dtype = HATTN_F32;
    problem.it.k_new.stride[0] = D, problem.it.k_new.stride[1] = N * D;
    GUARDED(hattn_problem, complete);
    expect(hattn_problem_complete(&problem.it, &complete.it, &error) == HATTN_OK && complete.it.head_dim_v == D,
           "problem_complete");
    expect(hattn_plan_create(device, &complete.it, &plan, &error) == HATTN_OK, "plan_create");

    GUARDED(hattn_exec, exec);
    exec.it.workspace_size = (hattn_plan_workspace_size(plan) + 255) / 256 * 256;
    exec.it.workspace.data = aligned_alloc(256, exec.it.workspace_size);
    expect(hattn_workspace_init(device, exec.it.workspace, exec.it.workspace_size, NULL, &error) == HATTN_OK,
           "workspace");
    GUARDED(hattn_encode_keys_args, encode);
    encode.it.num_tokens = N, encode.it.k_new.data = k, encode.it.codes.data = codes;
    encode.it.key_map.weight[0].data = map;
    expect(hattn_encode_keys(plan, &encode.it, &exec.it, &error) == HATTN_OK, "encode_keys");
    GUARDED(hattn_decode_args, step);
    step.it.batch.num_sequences = step.it.batch.num_rows = step.it.batch.q_len = 1;
    step.it.batch.seq_len.data = &length;
    step.it.q.data = q, step.it.k_cache.data = k, step.it.v_cache.data = v, step.it.codes.data = codes;
    step.it.query_map.weight[0].data = map, step.it.out.data = out;
    expect(hattn_decode(plan, &step.it, &exec.it, &error) == HATTN_OK, "decode");
    GUARDED(hattn_attend_args, attend);
    attend.it.batch = step.it.batch;
    attend.it.q.data = q, attend.it.k_cache.data = k, attend.it.v_cache.data = v, attend.it.out.data = dense;
    expect(hattn_attend(plan, &attend.it, &exec.it, &error) == HATTN_OK, "attend");
    float most = 0;
    for (int i = 0; i < HQ * D; i++)
        most = out[i] * out[i] > most ? out[i] * out[i] : most;
    expect(most > 0 && memcmp(out, dense, sizeof(out)) != 0, "outputs of a selection and of all keys");

#ifdef HATTN_APPENDED
    hattn_plan *other = NULL;
    problem.it.appended[2] = 1;
    expect(hattn_plan_create(device, &problem.it, &other, &error) == HATTN_INVALID_ARGUMENT,
           "an unknown field is refused");
    step.it.appended[0] = 1;
    expect(hattn_decode(plan, &step.it, &exec.it, &error) == HATTN_INVALID_ARGUMENT, "an unknown argument is refused");
    expect(strstr(error.text, "args.struct_size") != NULL, error.text);
#endif
    const unsigned char *guards[] = {options.guard, info.guard,   backend.guard, problem.guard, complete.guard,
                                     exec.guard,    encode.guard, step.guard,    attend.guard};
    for (size_t i = 0; i < sizeof(guards) / sizeof(*guards); i++)
        expect(is_intact(guards[i]), "written behind a struct of the caller");
    free(exec.it.workspace.data);
    hattn_plan_destroy(plan);
    hattn_device_close(device);
    return failures != 0;
}
