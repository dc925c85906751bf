/* SPDX-License-Identifier: Apache-2.0
 * Sums of values: a block a sequence, KV head and part of what is new there. Integers, so that their order is nobody's
 * business.
 */
#include <algorithm>

#include "kernels_cuda/attend/tail.cuh"
#include "kernels_cuda/device/exchange.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

constexpr int kMostColumns = 576;
constexpr int kPartRows = 256; /* of a part at least, where there are several */

/* What a block of a sequence and KV head has to do. */
struct ValuesPart {
    int32_t first, end; /* its positions */
    uint32_t parts;     /* with work; none is this one if it is not below */
    bool is_new;        /* the state's sums are not read */

    __device__ ValuesPart(int32_t summed, int32_t length, uint32_t part, uint32_t most)
        : is_new(summed <= 0 || summed > length)
    {
        const uint32_t from = is_new ? 0 : static_cast<uint32_t>(summed), rows = static_cast<uint32_t>(length) - from;
        parts = max(min((rows + kPartRows - 1) / kPartRows, most), 1u);
        const uint32_t of_part = (rows + parts - 1) / parts;
        first = static_cast<int32_t>(from + min(part * of_part, rows));
        end = static_cast<int32_t>(from + min((part + 1) * of_part, rows));
    }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    values_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_sum_values_args args,
                  hattn_buffer workspace)
{
    __shared__ int64_t sums[kThreads * 8];
    const hattn_problem &p = params.problem;
    const int32_t sequence = static_cast<int32_t>(blockIdx.x);
    const int64_t kv_head = blockIdx.y;
    const int thread = static_cast<int>(threadIdx.x), chunks = p.head_dim_v / 8, rows = kThreads / chunks,
              row = thread / chunks, column = thread % chunks * 8;
    const int32_t length = hattn_values_end(&p, &args.batch, sequence);
    if (length < 0)
        return;
    const hattn_value_state state =
        hattn_find_values(&p, args.value_slots, args.value_sums, args.value_lengths, sequence, kv_head);
    const ValuesPart part(*state.length, length, blockIdx.z, gridDim.z);
    if (blockIdx.z >= part.parts) /* of a sequence that others have ended, too: nothing is new there */
        return;
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, sequence);
    int64_t sum[8] = {};
    if (row < rows)
#pragma unroll 4
        for (int32_t j = part.first + row; j < part.end; j += rows) {
            const Eight<T> values = load_eight(cache_row<T>(p.v_cache, args.v_cache, pages, j, kv_head) + column);
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum[i] += hattn_fixed_value(to_float(values.x[i]));
        }
#pragma unroll
    for (int i = 0; i < 8; i++)
        sums[thread * 8 + i] = sum[i];
    __syncthreads(); /* and all have read the length */
    hattn_cuda_control &control = *static_cast<hattn_cuda_control *>(hattn_address(workspace));
    const int64_t task = sequence * p.num_kv_heads + kv_head;
    uint64_t *joined = reinterpret_cast<uint64_t *>(control.parts) + task * p.head_dim_v;
    for (int c = thread; c < p.head_dim_v; c += kThreads) {
        int64_t total = part.is_new || part.parts > 1 ? 0 : state.sums[c];
        for (int r = 0; r < rows; r++)
            total += sums[r * p.head_dim_v + c];
        if (part.parts > 1)
            atomic_add(joined + c, static_cast<uint64_t>(total));
        else
            state.sums[c] = total;
    }
    if (part.parts > 1) {
        if (!arrive_last(&control.arrived[task], part.parts))
            return;
        for (int c = thread; c < p.head_dim_v; c += kThreads) {
            state.sums[c] = (part.is_new ? 0 : state.sums[c]) + static_cast<int64_t>(joined[c]);
            joined[c] = 0;
        }
    }
    if (thread == 0)
        *state.length = length;
}

/* Parts of each sequence and KV head: for twice as many blocks as there are multiprocessors, where their sums have room. */
unsigned num_value_parts(const hattn_cuda_params &params, int32_t num_sequences)
{
    const int64_t tasks = static_cast<int64_t>(num_sequences) * params.problem.num_kv_heads,
                  most = (params.problem.max_length + kPartRows - 1) / kPartRows;
    if (tasks > HATTN_CUDA_COUNTERS || tasks * params.problem.head_dim_v > HATTN_CUDA_PARTS / 2)
        return 1;
    return static_cast<unsigned>(
        std::max<int64_t>(std::min(2 * params.num_multiprocessors / std::max<int64_t>(tasks, 1), most), 1));
}

} // namespace

DeviceError load_values(const hattn_cuda_params &params)
{
    static_assert(kMostColumns / 8 <= kThreads, "a block has a row at least");
    return with_dtype(params.problem.v_cache.dtype,
                      [](auto type) { return prepare(values_kernel<value_of<decltype(type)>>, 0); });
}

DeviceError launch_sum_values(const hattn_cuda_params &params, const hattn_sum_values_args &args,
                              hattn_buffer workspace, DeviceStream stream)
{
    const dim3 grid(static_cast<unsigned>(args.batch.num_sequences), static_cast<unsigned>(params.problem.num_kv_heads),
                    num_value_parts(params, args.batch.num_sequences));
    return with_dtype(params.problem.v_cache.dtype, [&](auto type) {
        return launch({grid, kThreads, 0, stream}, values_kernel<value_of<decltype(type)>>, params, args, workspace);
    });
}

} // namespace hattn

int hattn::run_sum_values(const hattn_cuda_params *params, const hattn_sum_values_args *args, hattn_buffer workspace,
                          void *opaque_stream)
{
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    const DeviceError error = check_workspace(workspace, stream);
    return error ? error : launch_sum_values(*params, *args, workspace, stream);
}
