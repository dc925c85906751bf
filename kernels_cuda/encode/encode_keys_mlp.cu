/* SPDX-License-Identifier: Apache-2.0
 * Encoding many keys by an MLP on tensor cores: the instances and their launch.
 */
#include "kernels_cuda/encode/encode_keys_mlp.cuh"

#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

constexpr int kResident = 2; /* blocks that fit a multiprocessor beside each other */

template <class T>
__global__ void __launch_bounds__(kThreads, kResident)
    encode_keys_mlp_kernel(const __grid_constant__ hattn_cuda_params params,
                           const __grid_constant__ hattn_encode_keys_args args)
{
    extern __shared__ __align__(128) char shared[];
    using Encoder = MlpEncoder<T>;
    const KeyShare share = share_of_block<typename Encoder::Tile>(args, blockIdx.x, 0, params.problem.code_bits);
    Encoder(params.problem, args, share, *reinterpret_cast<typename Encoder::Space *>(shared)).run();
}

/* Calls f with a null pointer of the map's type. */
template <class F>
auto with_type(const hattn_problem &p, F f)
{
    return p.key_map.dtype == HATTN_F16 ? f(static_cast<float16 *>(nullptr)) : f(static_cast<bfloat16 *>(nullptr));
}

} // namespace

size_t encode_keys_mlp_bytes(const hattn_cuda_params &params)
{
    return with_type(params.problem, [](auto t) { return sizeof(typename MlpEncoder<value_of<decltype(t)>>::Space); });
}

DeviceError load_encode_keys_mlp(const hattn_cuda_params &params)
{
    return with_type(params.problem, [](auto t) {
        using T = value_of<decltype(t)>;
        return prepare(encode_keys_mlp_kernel<T>, sizeof(typename MlpEncoder<T>::Space));
    });
}

DeviceError launch_encode_keys_mlp(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   DeviceStream stream)
{
    return with_type(params.problem, [&](auto t) {
        using T = value_of<decltype(t)>;
        constexpr size_t kBytes = sizeof(typename MlpEncoder<T>::Space);
        const dim3 grid = key_grid(params, args, MlpEncoder<T>::kTokens, params.problem.num_code_heads,
                                   blocks_of(params, kBytes, kResident));
        return launch({grid, kThreads, kBytes, stream}, encode_keys_mlp_kernel<T>, params, args);
    });
}

} // namespace hattn
