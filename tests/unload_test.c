/* SPDX-License-Identifier: Apache-2.0
 * A plugin's life: the library is loaded, its threads work, its device is closed, the library is unloaded. Again and again, and the
 * process is still there. Usage: unload_test LIBRARY
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "api/hattn.h"

enum { HEADS = 8, DIM = 64, LENGTH = 256 };

static float q[HEADS * DIM], kv[HEADS * LENGTH * DIM], out[HEADS * DIM];

static int attend(void *library)
{
    __typeof__(&hattn_device_open) open_device = (__typeof__(open_device))dlsym(library, "hattn_device_open");
    __typeof__(&hattn_device_close) close_device = (__typeof__(close_device))dlsym(library, "hattn_device_close");
    __typeof__(&hattn_plan_create) create = (__typeof__(create))dlsym(library, "hattn_plan_create");
    __typeof__(&hattn_plan_destroy) destroy = (__typeof__(destroy))dlsym(library, "hattn_plan_destroy");
    __typeof__(&hattn_plan_workspace_size) size = (__typeof__(size))dlsym(library, "hattn_plan_workspace_size");
    __typeof__(&hattn_workspace_init) init = (__typeof__(init))dlsym(library, "hattn_workspace_init");
    __typeof__(&hattn_attend) run = (__typeof__(run))dlsym(library, "hattn_attend");
    hattn_device *device = NULL;
    hattn_plan *plan = NULL;
    int32_t length = LENGTH;
    hattn_problem problem = HATTN_STRUCT(hattn_problem, .num_q_heads = HEADS, .num_kv_heads = HEADS, .head_dim_qk = DIM,
                                         .code_bits = 64, .max_sequences = 1, .max_length = LENGTH, .k = 1);
    problem.q.dtype = problem.k_cache.dtype = HATTN_F32;
    if (open_device(&HATTN_STRUCT(hattn_device_options, .backend = "cpu", .max_threads = 4), &device, NULL) ||
        create(device, &problem, &plan, NULL))
        return 1;
    hattn_exec exec = HATTN_STRUCT(hattn_exec, .num_threads = 4, .workspace_size = (size(plan) + 255) / 256 * 256);
    exec.workspace.data = aligned_alloc(256, exec.workspace_size);
    hattn_batch batch = {.num_sequences = 1, .num_rows = 1, .q_len = 1, .seq_len.data = &length};
    hattn_attend_args args = HATTN_STRUCT(hattn_attend_args, .batch = batch, .q.data = q, .k_cache.data = kv,
                                          .v_cache.data = kv, .out.data = out);
    int failed = init(device, exec.workspace, exec.workspace_size, NULL, NULL) != HATTN_OK;
    for (int i = 0; i < 20; i++)
        failed |= run(plan, &args, &exec, NULL) != HATTN_OK;
    destroy(plan);
    close_device(device);
    free(exec.workspace.data);
    return failed;
}

int main(int argc, char **argv)
{
    for (int round = 0; argc == 2 && round < 50; round++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (!library || attend(library))
            return fprintf(stderr, "%s\n", library ? "a call failed" : dlerror()), 1;
        dlclose(library);
        nanosleep(&(struct timespec){0, 2000000}, NULL); /* for threads that would still be there */
    }
    return argc != 2;
}
