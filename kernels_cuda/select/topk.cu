/* SPDX-License-Identifier: Apache-2.0
 * Top-k by itself: chunks of a row and selection head to a block each, or, where there are more rows than histograms,
 * whole rows.
 */
#include "core/tail.h"
#include "kernels_cuda/device/exchange.cuh"
#include "kernels_cuda/kernels.cuh"
#include "kernels_cuda/select/floor_sums.cuh"
#include "kernels_cuda/select/topk_row.cuh"
#include "kernels_cuda/select/topk_split.cuh"

namespace hattn {
namespace {

template <class Key>
__global__ void __launch_bounds__(kThreads)
    topk_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args)
{
    __shared__ SelectSpace space;
    const hattn_problem &p = params.problem;
    const TopkRow<Key> row(p, args, static_cast<int64_t>(blockIdx.x));
    select_row(params, row, space);
    for (int i = row.kept + static_cast<int>(threadIdx.x); i < p.k; i += kThreads)
        row.indices[i] = -1;
    if (threadIdx.x == 0)
        *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, row.row, row.head, 0)) = row.kept;
}

template <class Key>
__global__ void __launch_bounds__(kThreads, 4)
    topk_count_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args,
                      hattn_buffer workspace, int pass_index)
{
    __shared__ uint32_t histogram[HATTN_CUDA_BINS];
    alignas(16) __shared__ uint32_t sums[2][kWarps]; /* its loads of 16 bytes must not reach into the histogram */
    allow_dependents();
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.y;
    const TopkRow<Key> row(p, args, task);
    const int index = static_cast<int>(blockIdx.x), wanted = row.wanted(p);
    const TopkChunk<Key> chunk(params, row.keys, row.length, index);
    if (wanted <= 0 || index >= chunk.num_chunks)
        return;
    const TopkPass pass = topk_pass(params, pass_index);
    char *base = static_cast<char *>(hattn_address(workspace));
    TopkState *state = reinterpret_cast<TopkState *>(base + params.topk_states) + task;
    uint32_t known = 0, ties = static_cast<uint32_t>(wanted);
    if (pass_index > 0) {
        wait_for_previous();
        known = state->key;
        ties = state->ties;
    }
    count_topk_chunk(chunk, pass, known, histogram);

    hattn_cuda_control *control = reinterpret_cast<hattn_cuda_control *>(base);
    uint32_t *counts = topk_counts(params, base, task, index, pass_index), *total = control->histogram[task];
    const int copies = num_histograms(pass);
    const TopkBins mine(pass.num_bins, sums[0], [&](int bin) {
        uint32_t sum = 0;
        for (int copy = 0; copy < copies; copy++)
            sum += histogram[copy * pass.num_bins + bin];
        return sum;
    });
    uint32_t at_least = mine.above;
#pragma unroll
    for (int i = 0; i < TopkBins::kMost; i++) {
        at_least += mine.count[i];
        if (mine.has(i))
            histogram[mine.top - i] = at_least;
        if (mine.count[i])
            atomic_add(&total[mine.top - i], mine.count[i]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i <= pass.num_bins; i += kThreads) /* whole lines, which a thread's own bins are not */
        counts[i] = i < pass.num_bins ? histogram[i] : 0;
    if (!arrive_last(&control->arrived[task], static_cast<uint32_t>(chunk.num_chunks)))
        return;
    TopkBins all(pass.num_bins, sums[1], [&](int bin) { return total[bin]; });
#pragma unroll
    for (int i = 0; i < TopkBins::kMost; i++) {
        if (mine.has(i))
            total[mine.top - i] = 0;
        if (all.above < ties && all.above + all.count[i] >= ties) {
            const uint32_t bin = static_cast<uint32_t>(all.top - i);
            state->key = known | bin << pass.shift;
            state->ties = ties - all.above;
            state->bin[pass_index] = bin;
            state->is_open = pass.bits == 16 && static_cast<int>(bin) == pass.num_bins - 1;
        }
        all.above += all.count[i];
    }
}

template <class Key>
__global__ void __launch_bounds__(kThreads, 4)
    topk_compact_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args,
                        hattn_buffer workspace)
{
    __shared__ union Space {
        SelectSpace select;
        uint32_t sums[2][kWarps];
    } space;
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.y;
    const TopkRow<Key> row(p, args, task);
    const int index = static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x) * kThreads,
              start = index * kThreads + static_cast<int>(threadIdx.x);
    for (int i = row.kept + start; i < p.k; i += step)
        row.indices[i] = -1;
    if (start == 0)
        *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, row.row, row.head, 0)) = row.kept;
    const int forced_end = row.kept < row.length ? p.num_sink : row.kept,
              recent = row.kept < row.length ? p.num_recent : 0;
    for (int i = start; i < forced_end; i += step)
        row.indices[i] = i;
    for (int i = start; i < recent; i += step)
        row.indices[row.kept - recent + i] = row.length - recent + i;
    const TopkChunk<Key> chunk(params, row.keys, row.length, index);
    if (row.wanted(p) <= 0 || index >= chunk.num_chunks)
        return;

    char *base = static_cast<char *>(hattn_address(workspace));
    const TopkState *state = reinterpret_cast<const TopkState *>(base + params.topk_states) + task;
    bool is_open;
    auto get_start = [&] {
        wait_for_previous();
        TopkStart start = {state->key, state->ties, 0, 0};
        is_open = state->is_open;
        uint32_t above = 0, equal = 0;
        for (int before = threadIdx.x; before < index; before += kThreads)
            for (int pass = 0; pass < params.num_topk_passes; pass++) {
                const uint32_t *counts = topk_counts(params, base, task, before, pass) + state->bin[pass];
                above += counts[1];
                equal = pass + 1 < params.num_topk_passes ? equal : equal + counts[0] - counts[1];
            }
        block_scan(above, space.sums[0], &start.above);
        block_scan(equal, space.sums[1], &start.equal);
        __syncthreads();
        if (is_open) /* nothing is above, nothing is kept */
            start.threshold = UINT32_MAX, start.ties = 0;
        return start;
    };
    compact_topk_chunk(chunk, space.sums, get_start, [&](uint32_t rank, int position) {
        row.indices[p.num_sink + static_cast<int>(rank)] = position;
    });
    if (is_open && index == 0) { /* rare and slow: the row's threshold is looked for again, in all of its digits */
        select_row(with_all_digits(params), row, space.select);
    }
}

/* For attend: the shares of what is kept, anchors among them, and the rest. sum: of all. By a block. */
__device__ inline void tell_shares(const hattn_problem &p, const hattn_topk_args &args, const TopkRow<uint16_t> &row,
                                   bool is_ranked, uint32_t largest, int32_t step, uint64_t sum, FloorSpace &space)
{
    uint32_t *shares = reinterpret_cast<uint32_t *>(hattn_element(&p.shares, args.shares, row.row, row.head, 0));
    const int thread = static_cast<int>(threadIdx.x), first = is_ranked ? p.num_sink : 0,
              end = is_ranked ? row.kept - p.num_recent : 0;
    auto share_of = [&](int rank) { return floor_share(largest - row.keys[row.indices[rank]], step); };
    uint32_t nearest = 0, near = 0; /* the least share above 0 as a distance from the largest number */
    for (int rank = first + thread; rank < end; rank += kThreads)
        nearest = max(nearest, UINT32_MAX - (share_of(rank) - 1));
    const uint64_t bound = 4 * (static_cast<uint64_t>(UINT32_MAX - block_largest(nearest, space)) + 1);
    uint64_t kept = 0;
    for (int rank = first + thread; rank < end; rank += kThreads) {
        const uint32_t share = share_of(rank);
        kept += share;
        near += share > 0 && share < bound;
    }
    kept = block_total(kept, space);
    const bool are_few = block_total(near, space) < HATTN_FEW_ANCHORS;
    for (int rank = thread; rank < p.k; rank += kThreads) {
        uint32_t share = rank >= first && rank < end ? share_of(rank) : 0;
        if (share > 0 && (share < bound || are_few))
            share |= HATTN_SHARE_ANCHOR;
        shares[rank] = share;
    }
    if (thread == 0)
        *reinterpret_cast<int64_t *>(hattn_element(&p.rests, args.rests, row.row, row.head, 0)) =
            is_ranked && sum > kept ? static_cast<int64_t>(sum - kept) : 0;
}

/* After the budget's selection: those of its list that reach the floor, in their order, at least so many; and, with a tail,
 * their shares. */
__global__ void __launch_bounds__(kThreads)
    topk_floor_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args)
{
    __shared__ union Space {
        FloorSpace floor;
        uint32_t sums[2][kWarps];
        SelectSpace select;
    } space;
    const hattn_problem &p = params.problem;
    TopkRow<uint16_t> row(p, args, static_cast<int64_t>(blockIdx.x));
    const int forced = p.num_sink + p.num_recent, least = max(min(p.min_k, row.kept), forced);
    const bool has_tail = p.tail > 0.0f, has_floor = p.min_probability > 0.0f && row.kept > least,
               is_ranked = row.kept > forced && (has_floor || row.kept < row.length);
    wait_for_previous();
    if (!is_ranked || (!has_floor && !has_tail)) {
        if (has_tail)
            tell_shares(p, args, row, false, 0, 0, 0, space.floor);
        return;
    }
    const int thread = static_cast<int>(threadIdx.x), first = p.num_sink, end = row.kept - p.num_recent;
    const int32_t step = *reinterpret_cast<const int32_t *>(hattn_element(&p.steps, args.steps, row.row, row.head, 0));
    auto score_of = [&](int rank) { return static_cast<uint32_t>(row.keys[row.indices[rank]]); };
    const FloorEstimate e =
        estimate_of(row.keys, row.indices + first, end - first, first, row.length - p.num_recent, step, space.floor);
    if (!has_floor) {
        tell_shares(p, args, row, true, e.largest, step, e.sum, space.floor);
        return;
    }
    const FloorScore floor(e.largest, step, hattn_floor_least_share(params.floor_tau, e.sum));
    uint32_t above = 0;
    for (int rank = first + thread; rank < end; rank += kThreads)
        above += floor.reaches(score_of(rank));
    const int left = static_cast<int>(block_total(above, space.floor)) + forced;

    const int recents = row.length - p.num_recent, budget = row.kept;
    row.kept = max(left, least);
    if (left < least) {
        select_row(with_all_digits(params), row, space.select);
    } else {
        int place = first;
        for (int from = first; from < end; from += kThreads) { /* never past what has been read */
            const int rank = from + thread, position = rank < end ? row.indices[rank] : 0;
            const bool is_kept = rank < end && floor.reaches(row.keys[position]);
            uint32_t all;
            const uint32_t before = block_scan(is_kept, space.sums[0], &all);
            if (is_kept)
                row.indices[place + static_cast<int>(before)] = position;
            place += static_cast<int>(all);
            __syncthreads();
        }
        for (int i = thread; i < p.num_recent; i += kThreads)
            row.indices[place + i] = recents + i;
    }
    __syncthreads();
    for (int i = row.kept + thread; i < budget; i += kThreads)
        row.indices[i] = -1;
    if (thread == 0)
        *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, row.row, row.head, 0)) = row.kept;
    if (has_tail)
        tell_shares(p, args, row, row.kept < row.length, e.largest, step, e.sum, space.floor);
}

template <class Key>
DeviceError load(const hattn_cuda_params &params)
{
    if (!params.num_topk_chunks)
        return prepare(topk_kernel<Key>, 0);
    return first_error({prepare(topk_count_kernel<Key>, 0), prepare(topk_compact_kernel<Key>, 0)});
}

template <class Key>
DeviceError launch_topk(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace,
                        DeviceStream stream)
{
    const unsigned tasks = static_cast<unsigned>(args.batch.num_rows * params.problem.num_selection_heads);
    if (!params.num_topk_chunks)
        return launch({tasks, kThreads, 0, stream}, topk_kernel<Key>, with_all_digits(params), args);
    Launch how = {dim3(static_cast<unsigned>(params.num_topk_chunks), tasks), kThreads, 0, stream};
    DeviceError error = kSuccess;
    for (int pass = 0; pass < params.num_topk_passes && !error; pass++) {
        error = launch(how, topk_count_kernel<Key>, params, args, workspace, pass);
        how.is_dependent = params.has_dependent_launch != 0; /* what follows */
    }
    return error ? error : launch(how, topk_compact_kernel<Key>, params, args, workspace);
}

/* Of the call that lists candidates, with the forced positions around them. */
hattn_cuda_params candidates_params(const hattn_cuda_params &params)
{
    hattn_cuda_params own = params;
    hattn_problem &p = own.problem;
    p.k = params.most_listed;
    p.indices.stride[1] = p.k;
    p.indices.stride[0] = static_cast<int64_t>(p.k) * p.num_selection_heads;
    p.counts.stride[1] = 1;
    p.counts.stride[0] = p.num_selection_heads;
    return own;
}

hattn_topk_args candidates_args(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace)
{
    hattn_topk_args own = args;
    own.budgets = {};
    own.indices = {workspace.data, workspace.byte_offset + params.listed};
    own.counts = {workspace.data, workspace.byte_offset + params.num_listed};
    return own;
}

} // namespace

DeviceError load_topk(const hattn_cuda_params &params)
{
    const DeviceError error = params.problem.num_candidates       ? load_topk_heads(params)
                              : hattn_has_shares(&params.problem) ? prepare(topk_floor_kernel, 0)
                                                                  : kSuccess;
    return error ? error : params.problem.key_norms ? load<float>(params) : load<uint16_t>(params);
}

} // namespace hattn

int hattn::run_topk(const hattn_cuda_params *params, const hattn_topk_args *args, hattn_buffer workspace,
                    void *opaque_stream)
{
    using namespace hattn;
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    DeviceError error = check_workspace(workspace, stream);
    if (error)
        return error;
    if (params->problem.num_candidates) {
        error = launch_topk<uint16_t>(candidates_params(*params), candidates_args(*params, *args, workspace), workspace,
                                      stream);
        return error ? error : launch_topk_heads(*params, *args, workspace, stream);
    }
    error = params->problem.key_norms ? launch_topk<float>(*params, *args, workspace, stream)
                                      : launch_topk<uint16_t>(*params, *args, workspace, stream);
    const dim3 tasks(static_cast<unsigned>(args->batch.num_rows * params->problem.num_selection_heads));
    return error || !hattn_has_shares(&params->problem)
               ? error
               : launch_dependent(*params, topk_floor_kernel, tasks, 0, stream, *params, *args);
}
