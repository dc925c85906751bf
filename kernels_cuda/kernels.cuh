/* SPDX-License-Identifier: Apache-2.0
 * What the .cu files know of each other: loading and launching inside this folder.
 */
#ifndef HATTN_KERNELS_CUDA_KERNELS_CUH
#define HATTN_KERNELS_CUDA_KERNELS_CUH

#include <cuda_runtime.h>

#include <initializer_list>
#include <type_traits>

#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/launch.h"

namespace hattn {

struct Wave; /* regions.cuh */

/* The element type behind with_dtype's pointer. */
template <class Pointer>
using value_of = std::remove_const_t<std::remove_pointer_t<Pointer>>;

/* Arguments that attend and decode have in common. */
struct Inputs {
    hattn_buffer q, k_cache, v_cache, k_scale, v_scale, sink_logits, out, lse, workspace;
};

inline cudaError_t first_error(std::initializer_list<cudaError_t> errors)
{
    for (const cudaError_t error : errors)
        if (error != cudaSuccess)
            return error;
    return cudaSuccess;
}

/* Loads a kernel onto the device (the runtime is lazy) and allows it its dynamic shared memory. The limit belongs to the kernel and not
 * to the plan: 48 KiB are allowed anyway, and who needs more raises it as far as it goes, so that no plan takes from another. */
template <class Kernel>
cudaError_t prepare(Kernel *kernel, size_t shared_bytes)
{
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error || attributes.sharedSizeBytes + shared_bytes <= 48 * 1024)
        return error;
    int device = 0, most = 0;
    const cudaError_t queried = first_error(
        {cudaGetDevice(&device), cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)});
    if (queried || attributes.sharedSizeBytes + shared_bytes > static_cast<size_t>(most))
        return queried ? queried : cudaErrorInvalidConfiguration;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most - static_cast<int>(attributes.sharedSizeBytes));
}

/* Launches a kernel of kThreads that may start while the stream's previous one ends; it has a wait_for_previous. */
template <class... Parameters, class... Arguments>
cudaError_t launch_dependent(const hattn_cuda_params &params, void (*kernel)(Parameters...), dim3 grid,
                             size_t shared_bytes, cudaStream_t stream, const Arguments &...arguments)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = params.has_dependent_launch ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* Whether a decode's score blocks encode their own queries. Weights that the caller wants to see are of all rows, also of those without keys. */
inline bool encodes_in_score(const hattn_cuda_params &params, const hattn_decode_args &args)
{
    return params.encodes_in_score && !args.weights.data;
}

size_t encode_keys_mma_bytes(const hattn_cuda_params &params);
size_t encode_keys_mlp_bytes(const hattn_cuda_params &params);

cudaError_t load_encode(const hattn_cuda_params &params);
cudaError_t load_encode_keys_mma(const hattn_cuda_params &params);
cudaError_t load_encode_keys_mlp(const hattn_cuda_params &params);
cudaError_t load_score(const hattn_cuda_params &params);
cudaError_t load_topk(const hattn_cuda_params &params);
cudaError_t load_attend_mma(const hattn_cuda_params &params);
cudaError_t load_attend_mma_bytes(const hattn_cuda_params &params);
cudaError_t load_attend_plain(const hattn_cuda_params &params);
cudaError_t load_attend_wide(const hattn_cuda_params &params);

/* A kernel of a decode. */
struct DecodeKernel {
    cudaError_t (*load)(const hattn_cuda_params &params);
    cudaError_t (*launch)(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                          hattn_buffer workspace, cudaStream_t stream);
};
/* The first one: of codes of so many words. */
extern const DecodeKernel decode_score_1, decode_score_2, decode_score_4, decode_score_8, decode_score_16,
    decode_score_loose_4, decode_score_loose_8, decode_score_loose_16;
/* The second one: of an engine, without or with keys. */
extern const DecodeKernel decode_attend_mma, decode_attend_mma_keyed, decode_attend_mma_bytes,
    decode_attend_mma_bytes_keyed, decode_attend_plain, decode_attend_plain_keyed, decode_attend_wide,
    decode_attend_wide_keyed;

cudaError_t load_merge();

cudaError_t launch_encode_keys_mma(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   cudaStream_t stream);
cudaError_t launch_encode_keys_mlp(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   cudaStream_t stream);
cudaError_t launch_append(const hattn_cuda_params &params, const hattn_decode_args &args, cudaStream_t stream);
cudaError_t launch_encode_queries(const hattn_cuda_params &params, const hattn_encode_queries_args &args,
                                  cudaStream_t stream);
cudaError_t launch_attend_mma(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                              cudaStream_t stream);
cudaError_t launch_attend_mma_bytes(const hattn_cuda_params &params, const hattn_attend_args &args,
                                    hattn_buffer workspace, cudaStream_t stream);
cudaError_t launch_attend_plain(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                                cudaStream_t stream);
cudaError_t launch_attend_wide(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                               cudaStream_t stream);

} // namespace hattn

#endif
