/* SPDX-License-Identifier: Apache-2.0
 * Encoding many keys by an MLP on tensor cores: the instances and their launch.
 */
#include "kernels_cuda/encode/encode_keys_mlp.cuh"

#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

constexpr int kResident = 2; /* blocks that fit a multiprocessor beside each other */

template <class Encoder>
__global__ void __launch_bounds__(kThreads, kResident)
    encode_keys_mlp_kernel(const __grid_constant__ hattn_cuda_params params,
                           const __grid_constant__ hattn_encode_keys_args args)
{
    extern __shared__ __align__(128) char shared[];
    const KeyShare share = share_of_block<typename Encoder::Tile>(args, blockIdx.x, 0, params.problem.code_bits);
    Encoder(params.problem, args, share, *reinterpret_cast<typename Encoder::Space *>(shared)).run();
}

template <class Encoder_>
struct Instance {
    using Encoder = Encoder_;
    static constexpr size_t kBytes = sizeof(typename Encoder::Space);
};

template <class T, class F>
DeviceError with_stages(const hattn_cuda_params &params, F f)
{
    using Usual = Instance<MlpEncoder<T, 3>>;
    using Small = Instance<MlpEncoder<T, 2>>;
    static_assert(Usual::kBytes == HATTN_MLP_BYTES(3) && Small::kBytes == HATTN_MLP_BYTES(2), "the plan counts on it");
    if constexpr (Usual::kBytes <= kMostShared)
        if (params.key_encoder == 3)
            return f(Usual());
    if constexpr (Small::kBytes <= kMostShared)
        if (params.key_encoder == 2)
            return f(Small());
    return kNoSuchKernel;
}

/* Calls f with the instance of the map's type and the plan's stages. */
template <class F>
DeviceError with_instance(const hattn_cuda_params &params, F f)
{
    return params.problem.key_map.dtype == HATTN_F16 ? with_stages<float16>(params, f)
                                                     : with_stages<bfloat16>(params, f);
}

} // namespace

DeviceError load_encode_keys_mlp(const hattn_cuda_params &params)
{
    return with_instance(params, [](auto instance) {
        using Chosen = decltype(instance);
        return prepare(encode_keys_mlp_kernel<typename Chosen::Encoder>, Chosen::kBytes);
    });
}

DeviceError launch_encode_keys_mlp(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   DeviceStream stream)
{
    return with_instance(params, [&](auto instance) {
        using Chosen = decltype(instance);
        const dim3 grid = key_grid(params, args, Chosen::Encoder::kTokens, params.problem.num_code_heads,
                                   blocks_of(params, Chosen::kBytes, kResident));
        return launch({grid, kThreads, Chosen::kBytes, stream}, encode_keys_mlp_kernel<typename Chosen::Encoder>,
                      params, args);
    });
}

} // namespace hattn
