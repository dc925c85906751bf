/* SPDX-License-Identifier: Apache-2.0
 * Encoding many keys on tensor cores: the instances and their launch.
 */
#include "kernels_cuda/encode_keys_mma.cuh"

#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

template <class K, class T, int kSteps, int kBlocks, int kNumWarps, int kResident>
__global__ void __launch_bounds__(32 * kNumWarps, kResident)
    encode_keys_mma_kernel(const __grid_constant__ hattn_cuda_params params,
                           const __grid_constant__ hattn_encode_keys_args args)
{
    extern __shared__ __align__(128) char shared[];
    using Encoder = KeyEncoder<K, T, kSteps, kBlocks, kNumWarps>;
    const int combination = static_cast<int>(blockIdx.x), heads = params.problem.num_code_heads;
    const int first_bit = combination / heads * Encoder::kBits;
    const KeyShare share = share_of_block<typename Encoder::Tile>(
        args, combination % heads, first_bit, min(Encoder::kBits, params.problem.code_bits - first_bit));
    Encoder(params.problem, args, share, *reinterpret_cast<typename Encoder::Space *>(shared)).run();
}

/* kMost blocks of kNumWarps fit a multiprocessor: registers of the map decide. */
template <class K, class T, int kSteps, int kBlocks, int kNumWarps, int kResident>
struct Instance {
    using Encoder = KeyEncoder<K, T, kSteps, kBlocks, kNumWarps>;
    static constexpr int kMost = kResident, kThreads = 32 * kNumWarps;
    static constexpr auto kernel = encode_keys_mma_kernel<K, T, kSteps, kBlocks, kNumWarps, kResident>;
};

/* Calls f with the instance of the fewest steps that hold the dims. */
template <class K, class T, class F>
auto with_steps(int dim, F f)
{
    if (dim <= 64)
        return f(Instance<K, T, 4, 8, 4, 3>());
    if (dim <= 128)
        return f(Instance<K, T, 8, 8, 4, 2>());
    if (dim <= 192)
        return f(Instance<K, T, 12, 4, 8, 1>());
    if (dim <= 256)
        return f(Instance<K, T, 16, 4, 8, 1>());
    return f(Instance<K, T, 36, 2, 8, 1>());
}

template <class F>
auto with_instance(const hattn_problem &p, F f)
{
    switch (p.k_new.dtype) {
    case HATTN_F16: return with_steps<__half, __half>(p.head_dim_qk, f);
    case HATTN_BF16: return with_steps<__nv_bfloat16, __nv_bfloat16>(p.head_dim_qk, f);
    default: return with_steps<fp8_e4m3, __half>(p.head_dim_qk, f);
    }
}

} // namespace

size_t encode_keys_mma_bytes(const hattn_cuda_params &params)
{
    return with_instance(params.problem,
                         [](auto instance) { return sizeof(typename decltype(instance)::Encoder::Space); });
}

cudaError_t load_encode_keys_mma(const hattn_cuda_params &params)
{
    return with_instance(params.problem, [](auto instance) {
        using Chosen = decltype(instance);
        return prepare(Chosen::kernel, sizeof(typename Chosen::Encoder::Space));
    });
}

cudaError_t launch_encode_keys_mma(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   cudaStream_t stream)
{
    return with_instance(params.problem, [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int kTokens = Chosen::Encoder::kTokens, kBits = Chosen::Encoder::kBits;
        const int groups = (params.problem.code_bits + kBits - 1) / kBits,
                  combinations = groups * params.problem.num_code_heads;
        constexpr size_t kBytes = sizeof(typename Chosen::Encoder::Space);
        const dim3 grid = key_grid(params, args, kTokens, combinations, Chosen::kMost, kBytes);
        Chosen::kernel<<<grid, Chosen::kThreads, kBytes, stream>>>(params, args);
        return cudaGetLastError();
    });
}

} // namespace hattn
