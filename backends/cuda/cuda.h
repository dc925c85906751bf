/* SPDX-License-Identifier: Apache-2.0
 * The glue over kernels_cuda/launch.h, for the tables of backends whose kernels those are.
 */
#ifndef HATTN_BACKENDS_CUDA_CUDA_H
#define HATTN_BACKENDS_CUDA_CUDA_H

#include "backends/backend.h"
#include "kernels_cuda/launch.h"

/* Everything that loading needs and leaves; zeroed before. */
void hattn_cuda_choose(const hattn_cuda_properties *device, const hattn_problem *p, hattn_cuda_params *params);

/* Of attention: the engine, its heads a block and shared memory, strides as it counts them. params->group and dense_group are there. */
void hattn_cuda_choose_attention(const hattn_cuda_properties *device, const hattn_problem *p,
                                 hattn_cuda_params *params);

/* What launch limits rule out. name: the backend's. */
hattn_status hattn_cuda_check(const char *name, const hattn_cuda_properties *device, const hattn_cuda_params *params,
                              hattn_error *error);

/* A backend's device_count and open, for the kernels of one vendor. */
int hattn_cuda_count(const hattn_cuda_kernels *kernels, char *why, size_t size);
hattn_status hattn_cuda_open(const hattn_cuda_kernels *kernels, const hattn_backend *backend,
                             const hattn_device_options *options, hattn_device **device, hattn_error *error);

/* The slots that do not ask whose kernels they are: the device knows. */
void hattn_cuda_close(hattn_device *device);
hattn_status hattn_cuda_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan, hattn_error *error);
void hattn_cuda_plan_destroy(hattn_plan *plan);
__typeof__(hattn_workspace_init) hattn_cuda_workspace_init;
__typeof__(hattn_encode_keys) hattn_cuda_encode_keys;
__typeof__(hattn_encode_queries) hattn_cuda_encode_queries;
__typeof__(hattn_score) hattn_cuda_score;
__typeof__(hattn_topk) hattn_cuda_topk;
__typeof__(hattn_attend) hattn_cuda_attend;
__typeof__(hattn_merge) hattn_cuda_merge;
__typeof__(hattn_sum_values) hattn_cuda_sum_values;
__typeof__(hattn_decode) hattn_cuda_decode, hattn_cuda_append;

#define HATTN_CUDA_SLOTS                                                                                           \
    .pointer_alignment = 16, .close = hattn_cuda_close, .plan = hattn_cuda_plan,                                   \
    .plan_destroy = hattn_cuda_plan_destroy, .workspace_init = hattn_cuda_workspace_init,                          \
    .encode_keys = hattn_cuda_encode_keys, .encode_queries = hattn_cuda_encode_queries, .score = hattn_cuda_score, \
    .topk = hattn_cuda_topk, .attend = hattn_cuda_attend, .merge = hattn_cuda_merge,                               \
    .sum_values = hattn_cuda_sum_values, .decode = hattn_cuda_decode, .append = hattn_cuda_append

#endif
