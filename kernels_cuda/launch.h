/* SPDX-License-Identifier: Apache-2.0
 * The kernels' side as backends/cuda sees it: tables of C functions, no header of a vendor's.
 */
#ifndef HATTN_KERNELS_CUDA_LAUNCH_H
#define HATTN_KERNELS_CUDA_LAUNCH_H

#include "kernels_cuda/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hattn_cuda_properties {
    char name[128], isa[20]; /* sm_90 ... */
    int32_t has_kernels;     /* in this build */
    int32_t num_multiprocessors;
    int32_t block_shared, multiprocessor_shared,
        reserved_shared; /* bytes of shared memory: most of a block, of all blocks, the system's own of a block */
    int64_t most_blocks; /* of a grid */
    int32_t is_checked;  /* of the build: workspaces are checked */
} hattn_cuda_properties;

/* What a caller's thread has that is not ours: its current device, and whether it has yet to read an error of the
 * runtime. */
typedef struct hattn_cuda_caller {
    int device, has_error;
} hattn_cuda_caller;

/* A stream of its own, and memory in its order, for what a device is asked when it is opened. All of it may run while other
 * threads capture their streams, and waits for nobody's work but its own. Functions return the runtime's error code. */
typedef struct hattn_cuda_scratch {
    int (*open)(void **stream);
    void (*close)(void *stream);
    int (*allocate)(uint64_t size, void *stream, void **address); /* aligned to 256 bytes */
    void (*release)(void *address, void *stream);
    int (*copy)(void *to, const void *from, uint64_t size, void *stream); /* one side on the host; waits */
} hattn_cuda_scratch;

/* The kernels as one vendor's compiler has made them, and its runtime. Functions return the runtime's error code. */
typedef struct hattn_cuda_kernels {
    const char *targets; /* what they were compiled for */

    /* ---- the runtime ---- */
    const char *(*error_text)(int code);
    int (*device_count)(int *count);
    int (*get_properties)(int index, hattn_cuda_properties *properties);
    /* Makes `index` current and returns what was, for leave to restore; of an error, nothing is to be restored. */
    int (*enter)(int index, hattn_cuda_caller *caller);
    void (*leave)(const hattn_cuda_caller *caller);
    int (*zero)(void *address, uint64_t bytes, void *stream);

    /* ---- kernels: enqueue, return the launch's error ---- */
    /* Loads every kernel and raises shared memory limits, so that a first run may be captured; sets
     * has_dependent_launch. */
    int (*load)(hattn_cuda_params *params);
    /* Codes of the rows' own keys. */
    int (*append)(const hattn_cuda_params *params, const hattn_decode_args *args, void *stream);
    int (*encode_keys)(const hattn_cuda_params *params, const hattn_encode_keys_args *args, void *stream);
    int (*encode_queries)(const hattn_cuda_params *params, const hattn_encode_queries_args *args, void *stream);
    int (*score)(const hattn_cuda_params *params, const hattn_score_args *args, void *stream);
    int (*topk)(const hattn_cuda_params *params, const hattn_topk_args *args, hattn_buffer workspace, void *stream);
    int (*attend)(const hattn_cuda_params *params, const hattn_attend_args *args, hattn_buffer workspace, void *stream);
    int (*merge)(const hattn_cuda_params *params, const hattn_merge_args *args, void *stream);
    int (*sum_values)(const hattn_cuda_params *params, const hattn_sum_values_args *args, hattn_buffer workspace,
                      void *stream);
    /* Only where params->by_regions. */
    int (*decode)(const hattn_cuda_params *params, const hattn_decode_args *args, hattn_buffer workspace, void *stream);

    const hattn_cuda_scratch *scratch; /* NULL: its devices are opened without a known answer */
} hattn_cuda_kernels;

/* By nvcc: kernels_cuda/cuda.cu. */
const hattn_cuda_kernels *hattn_cuda_kernels_by_nvcc(void);

#ifdef __cplusplus
}
#endif
#endif
