/* SPDX-License-Identifier: Apache-2.0
 * Tails of attention as a call of its own. For engines that have tails, the totals of the caller's shares. For others, a tail after attend, whose out
 * and lse are in the workspace, fp32: blocks sum e^(x_j - lse) over parts of a selection, reading its rows
 * of K again, out of L2 as a rule; then a block a head joins these sums, and the mean value, to the result.
 */
#include "kernels_cuda/attend/listed.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

using namespace listed;

/* Of a head that has shares. */
__device__ inline Pair<uint64_t> *shares_of_split(const hattn_cuda_params &params, hattn_buffer workspace, int64_t row,
                                                  int64_t head, int64_t split)
{
    const int64_t place = row * hattn_heads_of_shares(&params.problem) + head;
    return pairs<uint64_t>(workspace, params.tail_shares, place * params.num_tail_splits + split);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    tail_sums_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                     hattn_buffer workspace)
{
    __shared__ __align__(16) float q[kHeads][kMostDims];
    __shared__ Pair<float> of_warps[kWarps][kHeads];
    const hattn_problem &p = params.problem;
    const int64_t row = blockIdx.x, head = blockIdx.y, split = blockIdx.z;
    const int thread = static_cast<int>(threadIdx.x), group = params.group, splits = params.num_tail_splits;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    allow_dependents();
    wait_for_previous();
    const Selected selected(params, args, row, head, resolved.length);
    if (selected.num_heads == 1 && selected.rest(p, args, row, 0) <= 0)
        return;
    const int64_t kv_head = head * group / params.dense_group;
    const float scale = p.scale * hattn_kv_scale(&p, args.k_scale, kv_head);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, max(resolved.sequence, 0));
    for (int first_head = 0; first_head < group; first_head += kHeads) {
        const int heads = min(kHeads, group - first_head), lane_head = first_head + thread % kLanes;
        const int64_t first_query = head * group + first_head;
        load_queries(p, args, row, first_query, heads, scale, q);
        const float lse = lane_head < group
                              ? floats(workspace, params.tail_lse)[row * p.num_q_heads + head * group + lane_head]
                              : 0.0f;
        const uint32_t *const shares = selected.shares(p, args, row, lane_head);
        Pair<float> sum = {0.0f, 0.0f};
        for (int base = static_cast<int>(split) * kPiece; base < selected.count; base += splits * kPiece) {
            uint32_t share[kTogether];
            const T *rows[kTogether];
            float x[kTogether];
#pragma unroll
            for (int r = 0; r < kTogether; r++) {
                const int rank = base + r * kRows + thread / kLanes;
                share[r] = rank < selected.count ? shares[rank] : 0;
                rows[r] = cache_row<T>(p.k_cache, args.k_cache, pages, selected.indices[min(rank, selected.count - 1)],
                                       kv_head);
            }
            dots_of_lane(rows, p.head_dim_qk, q, heads, x);
#pragma unroll
            for (int r = 0; r < kTogether; r++) {
                if (p.soft_cap > 0.0f)
                    x[r] = p.soft_cap * tanhf(x[r] / p.soft_cap);
                const float weight = expf(x[r] - lse);
                if (share[r] & ~HATTN_SHARE_ANCHOR)
                    sum.all += weight;
                if (share[r] & HATTN_SHARE_ANCHOR)
                    sum.near += weight;
            }
        }
#pragma unroll
        for (int mask = kLanes; mask < 32; mask *= 2) {
            sum.all += from_partner(sum.all, mask);
            sum.near += from_partner(sum.near, mask);
        }
        if (lane_id() < kLanes)
            of_warps[warp_id()][lane_id()] = sum;
        __syncthreads();
        if (thread < heads) {
            sum = {0.0f, 0.0f};
            for (int w = 0; w < kWarps; w++) {
                sum.all += of_warps[w][thread].all;
                sum.near += of_warps[w][thread].near;
            }
            *pairs<float>(workspace, params.tail_sums, (row * p.num_q_heads + first_query + thread) * splits + split) =
                sum;
        }
    }
    for (int h = warp_id(); h < selected.num_heads; h += kWarps) {
        const uint32_t *const listed = selected.shares(p, args, row, h);
        Pair<uint64_t> shares = {0, 0};
        for (int base = static_cast<int>(split) * kPiece; base < selected.count; base += splits * kPiece)
#pragma unroll
            for (int before = 0; before < kPiece; before += 32) {
                const int rank = base + before + lane_id();
                const uint32_t share = rank < selected.count ? listed[rank] : 0;
                shares.all += share & ~HATTN_SHARE_ANCHOR;
                shares.near += share & HATTN_SHARE_ANCHOR ? share & ~HATTN_SHARE_ANCHOR : 0;
            }
#pragma unroll
        for (int mask = 16; mask; mask /= 2) {
            shares.all += from_partner(shares.all, mask);
            shares.near += from_partner(shares.near, mask);
        }
        if (lane_id() == 0)
            *shares_of_split(params, workspace, row, selected.first_head + h, split) = shares;
    }
}

/* By a warp a row and head that has shares. */
__global__ void __launch_bounds__(kThreads)
    tail_totals_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                       hattn_buffer workspace)
{
    const hattn_problem &p = params.problem;
    const int64_t num_heads = hattn_heads_of_shares(&p), place = blockIdx.x * int64_t(kWarps) + warp_id(),
                  row = place / num_heads, head = place % num_heads;
    allow_dependents();
    if (row >= args.batch.num_rows)
        return;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int group = p.num_candidates ? params.group : 1;
    const Selected selected(params, args, row, head / group, resolved.length);
    const uint32_t *listed = selected.shares(p, args, row, static_cast<int>(head % group));
    ShareTotals totals = {0, 0};
#pragma unroll 4
    for (int rank = lane_id(); rank < selected.count; rank += 32) {
        const uint32_t share = listed[rank];
        totals.all += share & ~HATTN_SHARE_ANCHOR;
        totals.near += share & HATTN_SHARE_ANCHOR ? share & ~HATTN_SHARE_ANCHOR : 0;
    }
    totals = {warp_total_of_large(totals.near), warp_total_of_large(totals.all)};
    if (lane_id() == 0)
        *share_totals(params, workspace, row, head) = totals;
}

/* R in e^lse: by a warp. in_group: of the selection's query heads. */
__device__ inline float mass_of(const hattn_cuda_params &params, const Selected &selected, int64_t rest,
                                hattn_buffer workspace, int64_t row, int64_t query_head, int in_group)
{
    const hattn_problem &p = params.problem;
    const int64_t splits = params.num_tail_splits;
    Pair<float> sum = {0.0f, 0.0f};
    Pair<uint64_t> shares = {0, 0};
    if (lane_id() < splits) { /* at most 32 */
        sum = *pairs<float>(workspace, params.tail_sums, (row * p.num_q_heads + query_head) * splits + lane_id());
        shares = *shares_of_split(params, workspace, row, selected.first_head + min(in_group, selected.num_heads - 1),
                                  lane_id());
    }
#pragma unroll
    for (int mask = 16; mask; mask /= 2) {
        shares.all += from_partner(shares.all, mask);
        shares.near += from_partner(shares.near, mask);
    }
    return hattn_tail_mass(p.tail, warp_sum(sum.near), warp_sum(sum.all), shares.near, shares.all, rest);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    tail_join_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                     hattn_buffer workspace)
{
    const hattn_problem &p = params.problem;
    const int64_t row = blockIdx.x, query_head = blockIdx.y, head = query_head / params.group,
                  kv_head = query_head / params.dense_group, place = row * p.num_q_heads + query_head;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    wait_for_previous();
    const Selected selected(params, args, row, head, resolved.length);
    const int in_group = static_cast<int>(query_head % params.group);
    const float mass = selected.count ? mass_of(params, selected, selected.rest(p, args, row, in_group), workspace, row,
                                                query_head, in_group)
                                      : 0.0f;
    const float lse = floats(workspace, params.tail_lse)[place];
    const RowMean<T> mean(params, args, resolved, kv_head, selected.count > 0);
    for (int column = static_cast<int>(threadIdx.x); column < p.head_dim_v; column += kThreads) {
        float value = floats(workspace, params.tail_out)[place * p.head_dim_v + column];
        if (mass != 0.0f)
            value = (value + mass * mean.of(column)) / (1.0f + mass);
        store_element(hattn_element(&p.out, args.out, row, query_head, 0), p.out.dtype, column, value);
    }
    if (threadIdx.x == 0 && args.lse.data)
        *reinterpret_cast<float *>(hattn_element(&p.lse, args.lse, row, query_head, 0)) =
            mass != 0.0f ? lse + log1pf(mass) : lse;
}

} // namespace

DeviceError load_tail_totals() { return prepare(tail_totals_kernel, 0); }

DeviceError launch_tail_totals(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                               DeviceStream stream)
{
    const int64_t places = int64_t(args.batch.num_rows) * hattn_heads_of_shares(&params.problem);
    return launch({static_cast<unsigned>((places + kWarps - 1) / kWarps), kThreads, 0, stream}, tail_totals_kernel,
                  params, args, workspace);
}

DeviceError load_tail(const hattn_cuda_params &params)
{
    return with_dtype(params.problem.k_cache.dtype, [](auto type) {
        using T = value_of<decltype(type)>;
        return first_error({prepare(tail_sums_kernel<T>, 0), prepare(tail_join_kernel<T>, 0)});
    });
}

DeviceError launch_tail(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                        DeviceStream stream)
{
    const unsigned rows = static_cast<unsigned>(args.batch.num_rows);
    const dim3 blocks(rows, static_cast<unsigned>(params.problem.num_selection_heads),
                      static_cast<unsigned>(params.num_tail_splits)),
        heads(rows, static_cast<unsigned>(params.problem.num_q_heads));
    return with_dtype(params.problem.k_cache.dtype, [&](auto type) {
        using T = value_of<decltype(type)>;
        const DeviceError error = launch({blocks, kThreads, 0, stream}, tail_sums_kernel<T>, params, args, workspace);
        return error ? error : launch_dependent(params, tail_join_kernel<T>, heads, 0, stream, params, args, workspace);
    });
}

} // namespace hattn
