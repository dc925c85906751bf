/* SPDX-License-Identifier: Apache-2.0
 * Attention where values of small weight are not read (api/hattn.h, min_value_weight), in three kernels: logits of a selection, and sums of their
 * exponentials over parts of it; then each part knows all weights, and sums the rows of V that it reads; a block
 * a head joins the sums, the mean value for what is left, and the tail. Any type and shape, on ordinary cores: what counts is bytes.
 */
#include "kernels_cuda/attend/listed.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

using namespace listed;

static_assert(kPiece == HATTN_CUDA_SKIP_PIECE, "splits have whole ones");

constexpr int kMostGroup = 128;
constexpr int kVector = 8;                     /* elements of V that a thread has */
constexpr int kValueLanes = 16;                /* that share a row of V: */
constexpr int kTile = kValueLanes * kVector;   /* columns at a time */
constexpr int kSlots = kThreads / kValueLanes; /* rows of a block at a time */

/* Rows of V that such lanes load at once, for so many heads. */
template <int kMost>
constexpr int kAhead = kMost > 4 ? 2 : 4;

/* Of logits, with e^(x - max): of all, and for a tail of anchors and of those that have shares. */
struct Sums {
    float max, all, near, shared;

    /* What exponents are relative to: 0 where there is no logit. */
    __device__ float base() const { return max == -INFINITY ? 0.0f : max; }

    __device__ void add(float x, uint32_t share)
    {
        raise(fmaxf(max, x));
        const float e = expf(x - base());
        all += e;
        shared += share & ~HATTN_SHARE_ANCHOR ? e : 0.0f;
        near += share & HATTN_SHARE_ANCHOR ? e : 0.0f;
    }

    __device__ void join(Sums other)
    {
        const float most = fmaxf(max, other.max);
        raise(most);
        other.raise(most);
        all += other.all;
        near += other.near;
        shared += other.shared;
    }

private:
    __device__ void raise(float most)
    {
        if (most == max)
            return;
        const float factor = expf(max - most);
        max = most;
        all *= factor;
        near *= factor;
        shared *= factor;
    }
};

/* hattn_cuda_skip. */
struct Room {
    float *logits;
    Sums *sums;
    float *left; /* weights of values that are not read */
    float *parts;

    __device__ Room(const hattn_cuda_params &params, hattn_buffer workspace)
    {
        char *base = static_cast<char *>(hattn_address(workspace));
        logits = reinterpret_cast<float *>(base + params.skip.logits);
        sums = reinterpret_cast<Sums *>(base + params.skip.sums);
        left = reinterpret_cast<float *>(base + params.skip.left);
        parts = reinterpret_cast<float *>(base + params.skip.parts);
    }
};

/* The ranks of a split: whole pieces, in turn with the other splits. */
struct SplitRanks {
    int split, splits, count;

    /* Of its own i'th; past the selection's end none follows. */
    __device__ int rank(int i) const { return (i / kPiece * splits + split) * kPiece + i % kPiece; }

    __device__ bool has(int i) const { return rank(i) < count; }
};

/* What a block of weigh_kernel has in common. */
struct WeighSpace {
    float4 q[kHeads][kMostDims / 4];
    int64_t offset[kThreads]; /* of rows of K, in elements */
    Sums of_warps[kWarps][kHeads];
};

/* On its way into L2. */
template <class T>
__device__ inline void prefetch_row(const T *row, int columns)
{
    constexpr int kLine = 128 / static_cast<int>(sizeof(T));
#pragma unroll 2
    for (int column = 0; column < columns; column += kLine)
        prefetch_line(row + column);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    weigh_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                 hattn_buffer workspace)
{
    __shared__ WeighSpace space;
    const hattn_problem &p = params.problem;
    const Room room(params, workspace);
    const int64_t row = blockIdx.x, head = blockIdx.y, split = blockIdx.z;
    const int thread = static_cast<int>(threadIdx.x), group = params.group, splits = static_cast<int>(gridDim.z);
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int64_t kv_head = head * group / params.dense_group;
    const float scale = p.scale * hattn_kv_scale(&p, args.k_scale, kv_head);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, max(resolved.sequence, 0));
    const T *k_cache = static_cast<const T *>(hattn_address(args.k_cache));
    float(*q)[kMostDims] = reinterpret_cast<float(*)[kMostDims]>(space.q);
    allow_dependents();
    wait_for_previous();
    const Selected selected(params, args, row, head, resolved.length);
    const SplitRanks ranks = {static_cast<int>(split), splits, selected.count};
    for (int first_head = 0; first_head < group; first_head += kHeads) {
        const int heads = min(kHeads, group - first_head), in_group = first_head + thread % kLanes;
        const int64_t first_query = head * group + first_head,
                      place = row * p.num_q_heads + first_query + thread % kLanes;
        const uint32_t *const shares = selected.shares(p, args, row, in_group);
        Sums sum = {-INFINITY, 0.0f, 0.0f, 0.0f};
        for (int chunk = 0; chunk == 0 || ranks.has(chunk); chunk += kThreads) {
            /* All rows of the chunk are asked for at once: after that L2 has them. */
            if (chunk)
                __syncthreads();
            const int own = ranks.rank(chunk + thread);
            if (own < selected.count) {
                const T *k = cache_row<T>(p.k_cache, args.k_cache, pages, selected.indices[own], kv_head);
                prefetch_row(k, p.head_dim_qk);
                space.offset[thread] = k - k_cache;
            }
            if (chunk == 0)
                load_queries(p, args, row, first_query, heads, scale, q);
            else
                __syncthreads();
#pragma unroll 1
            for (int first = 0; first < kThreads && ranks.has(chunk + first); first += kPiece) {
                const T *rows[kTogether];
                float x[kTogether];
                int rank[kTogether];
#pragma unroll
                for (int r = 0; r < kTogether; r++) {
                    const int i = first + r * kRows + thread / kLanes;
                    rank[r] = ranks.rank(chunk + i);
                    rows[r] = k_cache + space.offset[rank[r] < selected.count ? i : 0];
                }
                dots_of_lane(rows, p.head_dim_qk, q, heads, x);
#pragma unroll
                for (int r = 0; r < kTogether; r++) {
                    if (rank[r] >= selected.count || in_group >= group)
                        continue;
                    if (p.soft_cap > 0.0f)
                        x[r] = p.soft_cap * tanhf(x[r] / p.soft_cap);
                    room.logits[place * params.skip.kept + rank[r]] = x[r];
                    sum.add(x[r], shares[rank[r]]);
                }
            }
        }
#pragma unroll
        for (int mask = kLanes; mask < 32; mask *= 2)
            sum.join({from_partner(sum.max, mask), from_partner(sum.all, mask), from_partner(sum.near, mask),
                      from_partner(sum.shared, mask)});
        if (lane_id() < kLanes)
            space.of_warps[warp_id()][lane_id()] = sum;
        __syncthreads();
        if (thread < heads) {
            for (int w = 1; w < kWarps; w++)
                sum.join(space.of_warps[w][thread]);
            room.sums[place * splits + split] = sum;
        }
    }
}

/* D of a head is all * e^max, with its sink logit. By a warp; splits are 32 at most. */
__device__ inline Sums join_splits(const hattn_attend_args &args, const Sums *of_head, int splits, int64_t query_head)
{
    Sums sum = {-INFINITY, 0.0f, 0.0f, 0.0f};
    if (lane_id() < splits)
        sum = of_head[lane_id()];
#pragma unroll
    for (int mask = 16; mask; mask /= 2)
        sum.join({from_partner(sum.max, mask), from_partner(sum.all, mask), from_partner(sum.near, mask),
                  from_partner(sum.shared, mask)});
    if (args.sink_logits.data)
        sum.join({static_cast<const float *>(hattn_address(args.sink_logits))[query_head], 1.0f, 0.0f, 0.0f});
    return sum;
}

/* What makes weights of logits: e^(x - base) * inverse. */
struct Weigher {
    float base, inverse;

    __device__ float weight(float x) const { return expf(x - base) * inverse; }
};

/* What a block of read_kernel has in common. */
template <int kMost>
struct ReadSpace {
    Weigher weigher[kMostGroup];
    float left[kWarps][kMost];
    uint32_t sums[kWarps];
    int64_t offset[kThreads];      /* of rows of V that are read, in elements */
    float weight[kMost][kThreads]; /* of the same rows */
    float part[kWarps][kMost][kTile];
};

/* A rank's weights: of all heads of the group their sum, and those of `heads` heads from first_head on. */
template <int kMost>
__device__ inline float weigh_rank(const float *logits, int group, int64_t stride, int first_head,
                                   const ReadSpace<kMost> &space, float (&weight)[kMost])
{
    float sum = 0.0f;
#pragma unroll 4
    for (int h = 0; h < group; h++) {
        const float its = space.weigher[h].weight(logits[h * stride]);
        sum += its;
#pragma unroll
        for (int i = 0; i < kMost; i++)
            weight[i] = first_head + i == h ? its : weight[i];
    }
    return sum;
}

/* Adds the space's rows' columns from `column` on, of `heads` heads. */
template <class T, int kMost>
__device__ inline void add_rows(const T *v_cache, int num, int column, bool has_column, int heads,
                                const ReadSpace<kMost> &space, float (&sum)[kMost][kVector])
{
    const int slot = static_cast<int>(threadIdx.x) / kValueLanes;
    for (int first = slot; first < num; first += kAhead<kMost> * kSlots) {
        Eight<T> value[kAhead<kMost>];
#pragma unroll
        for (int r = 0; r < kAhead<kMost>; r++)
            if (has_column)
                value[r] = load_eight(v_cache + space.offset[min(first + r * kSlots, num - 1)] + column);
#pragma unroll
        for (int r = 0; r < kAhead<kMost>; r++) {
            const int i = first + r * kSlots;
            if (i >= num || !has_column)
                continue;
#pragma unroll
            for (int h = 0; h < kMost; h++)
                if (h < heads)
#pragma unroll
                    for (int e = 0; e < kVector; e++)
                        sum[h][e] = fmaf(space.weight[h][i], to_float(value[r].x[e]), sum[h][e]);
        }
    }
}

/* The sums of all slots, to where the split's parts of `heads` heads are. All threads together. */
template <int kMost>
__device__ inline void store_parts(const float (&sum)[kMost][kVector], int heads, int column, int columns, float scale,
                                   float *parts, int64_t stride, ReadSpace<kMost> &space)
{
#pragma unroll
    for (int h = 0; h < kMost; h++)
#pragma unroll
        for (int e = 0; e < kVector; e++) {
            const float both = sum[h][e] + from_partner(sum[h][e], kValueLanes);
            if (lane_id() < kValueLanes)
                space.part[warp_id()][h][lane_id() * kVector + e] = both;
        }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < heads * kTile; i += kThreads) {
        const int h = i / kTile, its = i % kTile;
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; w++)
            total += space.part[w][h][its];
        if (column + its < columns)
            parts[h * stride + column + its] = total * scale;
    }
}

/* kMost: query heads at a time. */
template <class T, int kMost>
__global__ void __launch_bounds__(kThreads, 2)
    read_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                hattn_buffer workspace)
{
    __shared__ ReadSpace<kMost> space;
    const hattn_problem &p = params.problem;
    const Room room(params, workspace);
    const int64_t row = blockIdx.x, head = blockIdx.y, split = blockIdx.z;
    const int thread = static_cast<int>(threadIdx.x), group = params.group, splits = static_cast<int>(gridDim.z);
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int64_t kv_head = head * group / params.dense_group, first_query = head * group,
                  place = row * p.num_q_heads + first_query;
    const float scale = hattn_kv_scale(&p, args.v_scale, kv_head),
                least = p.min_value_weight * static_cast<float>(group);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, max(resolved.sequence, 0));
    const T *v_cache = static_cast<const T *>(hattn_address(args.v_cache));
    allow_dependents();
    wait_for_previous();
    const Selected selected(params, args, row, head, resolved.length);
    for (int h = warp_id(); h < group; h += kWarps) {
        const Sums sum = join_splits(args, room.sums + (place + h) * splits, splits, first_query + h);
        if (lane_id() == 0)
            space.weigher[h] = {sum.base(), sum.all == 0.0f ? 0.0f : 1.0f / sum.all};
    }
    __syncthreads();
    const SplitRanks ranks = {static_cast<int>(split), splits, selected.count};
    const float *logits = room.logits + place * params.skip.kept;
    const int lane_column = thread % kValueLanes * kVector;
    for (int column = 0; column < p.head_dim_v; column += kTile)
        for (int first_head = 0; first_head < group; first_head += kMost) {
            const int heads = min(kMost, group - first_head);
            float sum[kMost][kVector] = {}, left[kMost] = {};
            for (int first = 0; ranks.has(first); first += kThreads) {
                const int rank = ranks.rank(first + thread);
                const bool is_there = rank < selected.count;
                float weight[kMost] = {};
                int64_t offset = 0;
                bool is_read = false;
                if (is_there) {
                    offset = cache_row<T>(p.v_cache, args.v_cache, pages, selected.indices[rank], kv_head) - v_cache;
                    is_read = !(weigh_rank(logits + rank, group, params.skip.kept, first_head, space, weight) <
                                least); /* a NaN is */
                }
                uint32_t num;
                const uint32_t at = block_scan(is_read, space.sums, &num);
                if (is_read) {
                    prefetch_row(v_cache + offset + column, min(kTile, p.head_dim_v - column));
                    space.offset[at] = offset;
#pragma unroll
                    for (int h = 0; h < kMost; h++)
                        space.weight[h][at] = weight[h];
                } else {
#pragma unroll
                    for (int h = 0; h < kMost; h++)
                        left[h] += weight[h];
                }
                __syncthreads();
                add_rows(v_cache, static_cast<int>(num), column + lane_column, column + lane_column < p.head_dim_v,
                         heads, space, sum);
                __syncthreads();
            }
#pragma unroll
            for (int h = 0; h < kMost; h++) {
                const float of_warp = warp_sum(left[h]);
                if (lane_id() == 0)
                    space.left[warp_id()][h] = of_warp;
            }
            const int64_t first_place = place + first_head;
            store_parts(sum, heads, column, p.head_dim_v, scale,
                        room.parts + (first_place * splits + split) * p.head_dim_v, splits * int64_t(p.head_dim_v),
                        space);
            if (column == 0 && thread < heads) {
                float all = 0.0f;
                for (int w = 0; w < kWarps; w++)
                    all += space.left[w][thread];
                room.left[(first_place + thread) * splits + split] = all;
            }
            __syncthreads();
        }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_read_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                     hattn_buffer workspace, int splits)
{
    const hattn_problem &p = params.problem;
    const Room room(params, workspace);
    const int64_t row = blockIdx.x, query_head = blockIdx.y, head = query_head / params.group,
                  kv_head = query_head / params.dense_group, place = row * p.num_q_heads + query_head;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    wait_for_previous();
    const Selected selected(params, args, row, head, resolved.length);
    const int in_group = static_cast<int>(query_head % params.group);
    const Sums sum = join_splits(args, room.sums + place * splits, splits, query_head);
    float of_mean = warp_sum(lane_id() < splits ? room.left[place * splits + lane_id()] : 0.0f), tail = 0.0f;
    if (selected.count && sum.all != 0.0f) {
        const ShareTotals totals =
            *share_totals(params, workspace, row, selected.first_head + min(in_group, selected.num_heads - 1));
        tail = hattn_tail_mass(p.tail, sum.near, sum.shared, totals.near, totals.all,
                               selected.rest(p, args, row, in_group)) /
               sum.all;
    }
    of_mean += tail;
    const RowMean<T> mean(params, args, resolved, kv_head, of_mean != 0.0f);
    for (int column = static_cast<int>(threadIdx.x); column < p.head_dim_v; column += kThreads) {
        float value = 0.0f;
#pragma unroll 8
        for (int split = 0; split < splits; split++)
            value += room.parts[(place * splits + split) * p.head_dim_v + column];
        if (of_mean != 0.0f)
            value += of_mean * mean.of(column);
        store_element(hattn_element(&p.out, args.out, row, query_head, 0), p.out.dtype, column, value / (1.0f + tail));
    }
    if (threadIdx.x == 0 && args.lse.data)
        *reinterpret_cast<float *>(hattn_element(&p.lse, args.lse, row, query_head, 0)) =
            sum.all == 0.0f ? -INFINITY : sum.base() + logf(sum.all) + log1pf(tail);
}

/* Calls f with read_kernel for the plan's group. */
template <class T, class F>
DeviceError with_read_kernel(const hattn_cuda_params &params, F f)
{
    return params.group <= 4 ? f(read_kernel<T, 4>) : f(read_kernel<T, 8>);
}

} // namespace

DeviceError load_skip(const hattn_cuda_params &params)
{
    return with_dtype(params.problem.k_cache.dtype, [&](auto type) {
        using T = value_of<decltype(type)>;
        return first_error({prepare(weigh_kernel<T>, 0), prepare(join_read_kernel<T>, 0),
                            with_read_kernel<T>(params, [](auto kernel) { return prepare(kernel, 0); })});
    });
}

DeviceError launch_skip(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                        DeviceStream stream, bool is_dependent)
{
    const unsigned rows = static_cast<unsigned>(args.batch.num_rows);
    const int splits = hattn_cuda_skip_splits(&params, args.batch.num_rows);
    const dim3 blocks(rows, static_cast<unsigned>(params.problem.num_selection_heads), static_cast<unsigned>(splits)),
        heads(rows, static_cast<unsigned>(params.problem.num_q_heads));
    return with_dtype(params.problem.k_cache.dtype, [&](auto type) {
        using T = value_of<decltype(type)>;
        DeviceError error = launch({blocks, kThreads, 0, stream, is_dependent && params.has_dependent_launch},
                                   weigh_kernel<T>, params, args, workspace);
        if (!error)
            error = with_read_kernel<T>(params, [&](auto kernel) {
                return launch_dependent(params, kernel, blocks, 0, stream, params, args, workspace);
            });
        return error ? error
                     : launch_dependent(params, join_read_kernel<T>, heads, 0, stream, params, args, workspace, splits);
    });
}

} // namespace hattn
