/* SPDX-License-Identifier: Apache-2.0
 * Sums of values: a block a sequence and KV head. Integers, so that their order is nobody's business.
 */
#include "kernels_cuda/attend/tail.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

constexpr int kMostColumns = 576;

template <class T>
__global__ void __launch_bounds__(kThreads)
    values_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_sum_values_args args)
{
    __shared__ int64_t sums[kThreads * 8];
    const hattn_problem &p = params.problem;
    const int32_t sequence = static_cast<int32_t>(blockIdx.x);
    const int64_t kv_head = blockIdx.y;
    const int thread = static_cast<int>(threadIdx.x), chunks = p.head_dim_v / 8, rows = kThreads / chunks,
              row = thread / chunks, column = thread % chunks * 8;
    const int32_t end = hattn_values_end(&p, &args.batch, sequence);
    if (end < 0)
        return;
    const hattn_value_state state =
        hattn_find_values(&p, args.value_slots, args.value_sums, args.value_lengths, sequence, kv_head);
    const int32_t summed = *state.length;
    const bool is_new = summed <= 0 || summed > end;
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, sequence);
    int64_t sum[8] = {};
    if (row < rows)
#pragma unroll 4
        for (int32_t j = (is_new ? 0 : summed) + row; j < end; j += rows) {
            const Eight<T> values = load_eight(cache_row<T>(p.v_cache, args.v_cache, pages, j, kv_head) + column);
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum[i] += hattn_fixed_value(to_float(values.x[i]));
        }
#pragma unroll
    for (int i = 0; i < 8; i++)
        sums[thread * 8 + i] = sum[i];
    __syncthreads(); /* and all have read the length */
    for (int c = thread; c < p.head_dim_v; c += kThreads) {
        int64_t total = is_new ? 0 : state.sums[c];
        for (int r = 0; r < rows; r++)
            total += sums[r * p.head_dim_v + c];
        state.sums[c] = total;
    }
    if (thread == 0)
        *state.length = end;
}

} // namespace

DeviceError load_values(const hattn_cuda_params &params)
{
    static_assert(kMostColumns / 8 <= kThreads, "a block has a row at least");
    return with_dtype(params.problem.v_cache.dtype,
                      [](auto type) { return prepare(values_kernel<value_of<decltype(type)>>, 0); });
}

DeviceError launch_sum_values(const hattn_cuda_params &params, const hattn_sum_values_args &args, DeviceStream stream)
{
    const dim3 grid(static_cast<unsigned>(args.batch.num_sequences),
                    static_cast<unsigned>(params.problem.num_kv_heads));
    return with_dtype(params.problem.v_cache.dtype, [&](auto type) {
        return launch({grid, kThreads, 0, stream}, values_kernel<value_of<decltype(type)>>, params, args);
    });
}

} // namespace hattn

int hattn::run_sum_values(const hattn_cuda_params *params, const hattn_sum_values_args *args, void *stream)
{
    return hattn::launch_sum_values(*params, *args, static_cast<hattn::DeviceStream>(stream));
}
