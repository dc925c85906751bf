/* SPDX-License-Identifier: Apache-2.0
 * The CUDA side as backends/cuda sees it: C functions that return the runtime's error code (0: success), no CUDA
 * header.
 */
#ifndef HATTN_KERNELS_CUDA_LAUNCH_H
#define HATTN_KERNELS_CUDA_LAUNCH_H

#include "kernels_cuda/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the runtime ---- */
const char *hattn_cuda_error_text(int code);
int hattn_cuda_device_count(int *count);
typedef struct hattn_cuda_properties {
    char name[128];
    int32_t major, minor, num_multiprocessors;
    int32_t block_shared, multiprocessor_shared,
        reserved_shared; /* bytes of shared memory: most of a block, of all blocks, the system's own of a block */
    int32_t is_checked;  /* of the build: workspaces are checked */
} hattn_cuda_properties;
int hattn_cuda_get_properties(int index, hattn_cuda_properties *properties);
/* What a caller's thread has that is not ours: its current device, and whether it has yet to read an error of the
 * runtime. */
typedef struct hattn_cuda_caller {
    int device, has_error;
} hattn_cuda_caller;
/* Makes `index` current and returns what was, for hattn_cuda_leave to restore; of an error, nothing is to be
 * restored. */
int hattn_cuda_enter(int index, hattn_cuda_caller *caller);
void hattn_cuda_leave(const hattn_cuda_caller *caller);
int hattn_cuda_zero(void *address, uint64_t bytes, void *stream);

/* ---- kernels: enqueue, return the launch's error ---- */
/* Loads every kernel and raises shared memory limits, so that a first run may be captured; sets has_dependent_launch */
int hattn_cuda_load(hattn_cuda_params *params);
/* Codes of the rows' own keys. */
int hattn_cuda_append(const hattn_cuda_params *params, const hattn_decode_args *args, void *stream);
int hattn_cuda_encode_keys(const hattn_cuda_params *params, const hattn_encode_keys_args *args, void *stream);
int hattn_cuda_encode_queries(const hattn_cuda_params *params, const hattn_encode_queries_args *args, void *stream);
int hattn_cuda_score(const hattn_cuda_params *params, const hattn_score_args *args, void *stream);
int hattn_cuda_topk(const hattn_cuda_params *params, const hattn_topk_args *args, hattn_buffer workspace, void *stream);
int hattn_cuda_attend(const hattn_cuda_params *params, const hattn_attend_args *args, hattn_buffer workspace,
                      void *stream);
int hattn_cuda_merge(const hattn_cuda_params *params, const hattn_merge_args *args, void *stream);
/* Only where params->by_regions. */
int hattn_cuda_decode(const hattn_cuda_params *params, const hattn_decode_args *args, hattn_buffer workspace,
                      void *stream);

#ifdef __cplusplus
}
#endif
#endif
