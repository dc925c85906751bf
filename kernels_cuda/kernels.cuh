/* SPDX-License-Identifier: Apache-2.0
 * What the .cu files know of each other: loading and launching inside this folder.
 */
#ifndef HATTN_KERNELS_CUDA_KERNELS_CUH
#define HATTN_KERNELS_CUDA_KERNELS_CUH

#include <type_traits>

#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/device/launch.cuh"
#include "kernels_cuda/launch.h"

namespace hattn {

/* What the table holds. */
const char *error_text(int code);
int device_count(int *count);
int get_properties(int index, hattn_cuda_properties *properties);
int enter(int index, hattn_cuda_caller *caller);
void leave(const hattn_cuda_caller *caller);
int zero(void *address, uint64_t bytes, void *stream);
int load_plan(hattn_cuda_params *params);
int run_append(const hattn_cuda_params *params, const hattn_decode_args *args, void *stream);
int run_encode_keys(const hattn_cuda_params *params, const hattn_encode_keys_args *args, void *stream);
int run_encode_queries(const hattn_cuda_params *params, const hattn_encode_queries_args *args, void *stream);
int run_score(const hattn_cuda_params *params, const hattn_score_args *args, void *stream);
int run_topk(const hattn_cuda_params *params, const hattn_topk_args *args, hattn_buffer workspace, void *stream);
int run_attend(const hattn_cuda_params *params, const hattn_attend_args *args, hattn_buffer workspace, void *stream);
int run_merge(const hattn_cuda_params *params, const hattn_merge_args *args, void *stream);
int run_sum_values(const hattn_cuda_params *params, const hattn_sum_values_args *args, hattn_buffer workspace,
                   void *stream);
int run_decode(const hattn_cuda_params *params, const hattn_decode_args *args, hattn_buffer workspace, void *stream);

const hattn_cuda_kernels *kernels();

struct Wave; /* regions.cuh */

/* The element type behind with_dtype's pointer. */
template <class Pointer>
using value_of = std::remove_const_t<std::remove_pointer_t<Pointer>>;

/* Arguments that attend and decode have in common. */
struct Inputs {
    hattn_buffer q, k_cache, v_cache, k_scale, v_scale, sink_logits, out, lse, workspace;
};

/* Launches a kernel of kThreads that may start while the stream's previous one ends, where the plan found that
 * kernels wait. */
template <class... Parameters, class... Arguments>
DeviceError launch_dependent(const hattn_cuda_params &params, void (*kernel)(Parameters...), dim3 grid,
                             size_t shared_bytes, DeviceStream stream, const Arguments &...arguments)
{
    return launch({grid, kThreads, shared_bytes, stream, params.has_dependent_launch != 0}, kernel, arguments...);
}

/* Whether a decode's score blocks encode their own queries. Weights and steps that the caller wants to see are of all rows, also of those without
 * keys. */
inline bool encodes_in_score(const hattn_cuda_params &params, const hattn_decode_args &args)
{
    return params.encodes_in_score && !args.weights.data && !args.steps.data;
}

/* In builds that check, enqueues a kernel that ends in a fault if the workspace's control region is not as runs leave it. */
DeviceError check_workspace(hattn_buffer workspace, DeviceStream stream);

/* Whether kernels were compiled to wait for the one before them: params->has_dependent_launch. */
DeviceError find_dependent_launch(hattn_cuda_params *params);

DeviceError load_encode(const hattn_cuda_params &params);
DeviceError load_encode_keys_mma(const hattn_cuda_params &params);
DeviceError load_encode_keys_mlp(const hattn_cuda_params &params);
DeviceError load_score(const hattn_cuda_params &params);
DeviceError load_topk(const hattn_cuda_params &params);
DeviceError load_topk_heads(const hattn_cuda_params &params);

/* The separate call of an engine. */
struct AttendKernel {
    DeviceError (*load)(const hattn_cuda_params &params);
    /* is_dependent: a decode's, whose kernels before have waited for all that is the caller's. */
    DeviceError (*launch)(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                          DeviceStream stream, bool is_dependent);
};

/* A kernel of a decode. */
struct DecodeKernel {
    DeviceError (*load)(const hattn_cuda_params &params);
    DeviceError (*launch)(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                          hattn_buffer workspace, DeviceStream stream);
};

/* Functions, not objects: clang would look for an object's functions on the device, too. */
#define ENGINE(number, types, accepts, attend, decode, keyed) \
    AttendKernel attend();                                    \
    DecodeKernel decode();                                    \
    DecodeKernel keyed();
#include "kernels_cuda/engines.inc"
#undef ENGINE
#define CODE_WIDTH(words, is_loose, kernel) DecodeKernel kernel();
#include "kernels_cuda/code_widths.inc"
#undef CODE_WIDTH
#define FLOOR_ENGINE(number, types, floor, tail, attend) \
    DecodeKernel floor();                                \
    DecodeKernel tail();                                 \
    AttendKernel attend();
#define FLOOR_WIDTH(words, is_loose, kernel) DecodeKernel kernel();
#include "kernels_cuda/floors.inc"
#undef FLOOR_ENGINE
#undef FLOOR_WIDTH

DeviceError load_merge();
DeviceError load_values(const hattn_cuda_params &params);
DeviceError load_tail(const hattn_cuda_params &params);
DeviceError load_tail_totals();

/* What attend has left in the workspace becomes the caller's, with what the tail adds: where the engine has none of its own. */
DeviceError launch_tail(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                        DeviceStream stream);

/* Totals of the caller's shares, for an engine that has: params->tail_totals. */
DeviceError launch_tail_totals(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                               DeviceStream stream);

/* Attention with a tail where values of small weight are not read; totals of shares are there. */
DeviceError load_skip(const hattn_cuda_params &params);
DeviceError launch_skip(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                        DeviceStream stream, bool is_dependent);

/* After a top-k that has listed candidates. */
DeviceError launch_topk_heads(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace,
                              DeviceStream stream);

/* A decode's second kernel with candidates, whose head_weights are there. */
DeviceError load_list_heads(const hattn_cuda_params &params);
DeviceError launch_list_heads(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                              hattn_buffer workspace, DeviceStream stream);

/* A decode's second kernel where not all values are read: the selection, into the caller's list or the workspace's; shares, their totals and rests. */
DeviceError load_list_kept(const hattn_cuda_params &params);
DeviceError launch_list_kept(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                             hattn_buffer workspace, DeviceStream stream);

/* When candidates are scored: by launch_topk_heads, or by a decode. */
DeviceError launch_choose_heads(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace,
                                DeviceStream stream, bool is_after_topk);

DeviceError launch_encode_keys_mma(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   DeviceStream stream);
DeviceError launch_encode_keys_mlp(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   DeviceStream stream);
DeviceError launch_append(const hattn_cuda_params &params, const hattn_decode_args &args, DeviceStream stream);
DeviceError launch_sum_values(const hattn_cuda_params &params, const hattn_sum_values_args &args,
                              hattn_buffer workspace, DeviceStream stream);
DeviceError launch_encode_queries(const hattn_cuda_params &params, const hattn_encode_queries_args &args,
                                  DeviceStream stream);

/* Of each query head as a selection of its own. is_beside: behind a kernel of the same decode. */
DeviceError launch_encode_heads(const hattn_cuda_params &params, const hattn_encode_queries_args &args,
                                DeviceStream stream, bool is_beside);

} // namespace hattn

#endif
