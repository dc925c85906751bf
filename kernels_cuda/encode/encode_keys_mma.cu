/* SPDX-License-Identifier: Apache-2.0
 * Encoding many keys on tensor cores: the instances and their launch.
 */
#include "kernels_cuda/encode/encode_keys_mma.cuh"

#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

template <class Encoder, int kResident>
__global__ void __launch_bounds__(Encoder::Tile::kNumThreads, kResident)
    encode_keys_mma_kernel(const __grid_constant__ hattn_cuda_params params,
                           const __grid_constant__ hattn_encode_keys_args args)
{
    extern __shared__ __align__(128) char shared[];
    const int combination = static_cast<int>(blockIdx.x), heads = params.problem.num_code_heads;
    const int first_bit = combination / heads * Encoder::kBits;
    const KeyShare share = share_of_block<typename Encoder::Tile>(
        args, combination % heads, first_bit, min(Encoder::kBits, params.problem.code_bits - first_bit));
    Encoder(params.problem, args, share, *reinterpret_cast<typename Encoder::Space *>(shared)).run();
}

/* An encoder of which kMost blocks have room beside each other: the map's registers decide, and shared memory. */
template <class Encoder_, int kResident>
struct Instance {
    using Encoder = Encoder_;
    static constexpr int kMost = kResident, kThreads = Encoder::Tile::kNumThreads;
    static constexpr size_t kBytes = sizeof(typename Encoder::Space);
    static constexpr auto kernel = encode_keys_mma_kernel<Encoder, kResident>;
};

/* Calls f with the instance of the fewest steps that hold the dims. Two blocks with tiles of 128 keys of 128 dims
 * take the shared memory of an H100's multiprocessor and are 5 % faster there than those of 64; an A100's has room
 * for two of these. */
template <class K, class T, class F>
auto with_steps(const hattn_cuda_params &params, F f)
{
    const int dim = params.problem.head_dim_qk;
    if (dim <= 64)
        return f(Instance<KeyEncoder<K, T, 4, 8, 4, 128, 3>, 3>());
    if (dim <= 128) {
        using Large = Instance<KeyEncoder<K, T, 8, 8, 4, 128, 3>, 2>;
        if (blocks_of(params, Large::kBytes, Large::kMost) == Large::kMost)
            return f(Large());
        return f(Instance<KeyEncoder<K, T, 8, 8, 4, 64, 4>, 2>());
    }
    if (dim <= 192)
        return f(Instance<KeyEncoder<K, T, 12, 4, 8, 64, 3>, 1>());
    if (dim <= 256)
        return f(Instance<KeyEncoder<K, T, 16, 4, 8, 64, 3>, 1>());
    return f(Instance<KeyEncoder<K, T, 36, 2, 8, sizeof(K) == 1 ? 64 : 32, 3>, 1>());
}

template <class F>
auto with_instance(const hattn_cuda_params &params, F f)
{
    switch (params.problem.k_new.dtype) {
    case HATTN_F16: return with_steps<float16, float16>(params, f);
    case HATTN_BF16: return with_steps<bfloat16, bfloat16>(params, f);
    default: return with_steps<fp8_e4m3, float16>(params, f);
    }
}

} // namespace

size_t encode_keys_mma_bytes(const hattn_cuda_params &params)
{
    return with_instance(params, [](auto instance) { return decltype(instance)::kBytes; });
}

DeviceError load_encode_keys_mma(const hattn_cuda_params &params)
{
    return with_instance(params, [](auto instance) {
        using Chosen = decltype(instance);
        return prepare(Chosen::kernel, Chosen::kBytes);
    });
}

DeviceError launch_encode_keys_mma(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   DeviceStream stream)
{
    return with_instance(params, [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int kTokens = Chosen::Encoder::kTokens, kBits = Chosen::Encoder::kBits;
        const int groups = (params.problem.code_bits + kBits - 1) / kBits,
                  combinations = groups * params.problem.num_code_heads;
        const dim3 grid =
            key_grid(params, args, kTokens, combinations, blocks_of(params, Chosen::kBytes, Chosen::kMost));
        return launch({grid, Chosen::kThreads, Chosen::kBytes, stream}, Chosen::kernel, params, args);
    });
}

} // namespace hattn
