/* SPDX-License-Identifier: Apache-2.0
 * Queries: integer weights, and the planes that scoring uses.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_ENCODE_QUERY_CUH
#define HATTN_KERNELS_CUDA_ENCODE_ENCODE_QUERY_CUH

#include "core/floor.h"
#include "kernels_cuda/encode/encode.cuh"

namespace hattn {

/* Weights of one row and selection head, and the planes that scoring uses. */
struct QueryCode {
    float sums[512]; /* u_r, or sums of signs */
    int8_t weights[512];
    uint32_t sign[16];
    uint32_t plane[7][16];
    float warp_values[kWarps];
    uint32_t warp_totals[kWarps];
    uint32_t warp_sums[2][kWarps]; /* scratch of scans */
    uint32_t max_score;            /* sum |w| */
    int num_planes;
    float unit; /* hattn_floor_step */
};

/* u_r, or sums of signs, into code.sums: any map. Not inlined: what scores keys afterwards needs the registers. */
template <class W>
__device__ __noinline__ void sum_query_any(const hattn_cuda_params &params, hattn_buffer q,
                                           const hattn_map_buffers &buffers, int64_t row, int64_t head, float *shared,
                                           QueryCode &code)
{
    const hattn_problem &p = params.problem;
    const bool weighted = p.score_kind == HATTN_SCORE_WEIGHTED;
    size_t unused;
    const EncodeSpace space = carve_encode_space(p, p.query_map, vectors_of(params.group), shared, &unused);
    for (int r = threadIdx.x; r < 512; r += kThreads)
        code.sums[r] = 0.0f;
    for (int first = 0; first < params.group; first += space.num_vectors) {
        const int count = min(space.num_vectors, params.group - first);
        __syncthreads();
        for (int i = threadIdx.x; i < space.num_vectors * p.head_dim_qk; i += kThreads) {
            const int v = i / p.head_dim_qk;
            space.x[i] = v < count ? load_element(hattn_element(&p.q, q, row, head * params.group + first + v, 0),
                                                  p.q.dtype, i % p.head_dim_qk)
                                   : 0.0f;
        }
        __syncthreads();
        project<W>(p, p.query_map, buffers, head * p.num_code_heads / p.num_selection_heads, space);
        for (int r = threadIdx.x; r < p.code_bits; r += kThreads)
            for (int v = 0; v < count; v++) {
                const float z = space.z[v * p.code_bits + r];
                code.sums[r] += weighted ? z : z > 0.0f ? 1.0f : -1.0f;
            }
    }
}

/* A query and its linear map, resolved on the host. */
struct QueryRun {
    const void *q;
    MapRows map;            /* of code head 0 */
    int64_t map_head;       /* 16 bytes */
    uint32_t q_row, q_head; /* 16 bytes */
    int32_t group, head_dim, code_bits;
    hattn_cuda_divisor heads_per_code;
    int32_t weight_max; /* of weighted scores; hamming: 0 */
};

__device__ inline MapRows query_map(const QueryRun &run, int32_t head)
{
    return {run.map.rows + divide(head, run.heads_per_code) * run.map_head, run.map.stride};
}

/* Heads that QueryProduct takes at a time. */
__host__ __device__ inline int query_heads(int group) { return group < 16 ? group : 16; }

/* u_r, or sums of signs, for a linear map of q's own 16-bit type, 8 or 16 heads at a time. code_bits is that of run,
 * for the compiler to know. */
template <class W>
class QueryProduct
{
public:
    /* Reads nothing. */
    __device__ QueryProduct(const QueryRun &run, int32_t row, int32_t head, int code_bits)
        : run_(run), code_bits_(code_bits), map_(query_map(run, head)), queries_(queries_of(row, head)),
          first_(product_of(0))
    {
    }

    /* It is of another row and head from now on. */
    __device__ void aim(int32_t row, int32_t head)
    {
        map_ = query_map(run_, head);
        queries_ = queries_of(row, head);
        first_ = product_of(0);
    }

    /* Asks for the map and the queries. */
    __device__ void prefetch() const
    {
        prefetch_map(map_, run_.head_dim, code_bits_);
        first_.prefetch_vectors(run_.head_dim);
    }

    /* emit(r, sum) is called in the thread that has bit r: r is threadIdx.x, and then every kThreads. meanwhile() is
     * called while the first loads are on their way, then() when they are done with; `parts` has query_mma_bytes.
     * kOnePass: there are at most 16 heads. kSteps: of multiply. */
    template <bool kOnePass, int kSteps, class Meanwhile, class Then, class Emit>
    __device__ void sum(float *parts, Meanwhile meanwhile, Then then, Emit emit) const
    {
        const int part_heads = query_heads(run_.group);
        if (run_.group <= 8)
            first_.template multiply<1, kSteps>(run_.head_dim, part_heads, parts, meanwhile);
        else
            first_.template multiply<2, kSteps>(run_.head_dim, part_heads, parts, meanwhile);
        then();
        float *sums = parts + parts_floats(part_heads, code_bits_);
#pragma unroll 1
        for (int first_head = 0;;) {
            const int count = min(part_heads, run_.group - first_head);
            __syncthreads();
            const bool is_done = kOnePass || first_head + count >= run_.group;
#pragma unroll 1
            for (int r = threadIdx.x; r < code_bits_; r += kThreads) {
                float sum = first_head ? sums[r] : 0.0f;
#pragma unroll 1
                for (int v = 0; v < count; v++) {
                    const float z = sum_parts(parts, part_heads, code_bits_, v, r);
                    sum += run_.weight_max ? z : z > 0.0f ? 1.0f : -1.0f;
                }
                if (is_done)
                    emit(r, sum);
                else
                    sums[r] = sum;
            }
            if (is_done)
                return;
            first_head += count;
            __syncthreads();
            product_of(first_head).template multiply<2, kSteps>(run_.head_dim, part_heads, parts, [] {});
        }
    }

private:
    __device__ const uint4 *queries_of(int32_t row, int32_t head) const
    {
        return static_cast<const uint4 *>(run_.q) + static_cast<uint64_t>(static_cast<uint32_t>(row)) * run_.q_row +
               static_cast<uint64_t>(static_cast<uint32_t>(head * run_.group)) * run_.q_head;
    }

    /* Of the heads from first_head on. */
    __device__ MapProduct<W> product_of(int first_head) const
    {
        const int head = first_head + Fragment().b_column();
        return {map_, code_bits_, vector(head), vector(head + 8)};
    }

    __device__ const W *vector(int head) const
    {
        return head < run_.group ? reinterpret_cast<const W *>(
                                       queries_ + static_cast<uint64_t>(static_cast<uint32_t>(head)) * run_.q_head)
                                 : nullptr;
    }

    const QueryRun &run_;
    const int code_bits_;
    MapRows map_;
    const uint4 *queries_; /* of the group's first head */
    MapProduct<W> first_;
};

/* The weight of a bit out of its sum. largest: of all |sums|; infinite where one is not finite. */
__device__ inline int weight_of(int group, int weight_max, float sum, float largest)
{
    if (!weight_max)
        return static_cast<int>(group % 2 ? sum : sum / 2);
    return largest > 0.0f && largest < INFINITY
               ? static_cast<int>(rintf(sum / largest * static_cast<float>(weight_max)))
               : 0; /* the ratio first: it cannot overflow */
}

/* What a weight of 1 is worth. */
__device__ inline float unit_of(int weight_max, float largest)
{
    return !weight_max ? 1.0f : largest < INFINITY ? largest / static_cast<float>(weight_max) : 0.0f;
}

__device__ inline float finite_magnitude(float sum) { return isfinite(sum) ? fabsf(sum) : INFINITY; }

/* Shared memory for QueryProduct. */
inline size_t query_mma_bytes(int group, int code_bits)
{
    return (parts_floats(query_heads(group), code_bits) + static_cast<size_t>(mma_row(code_bits))) * sizeof(float);
}

inline size_t query_space_bytes(const hattn_cuda_params &params)
{
    return params.encodes_by_mma
               ? query_mma_bytes(params.group, params.problem.code_bits)
               : encode_space_bytes(params.problem, params.problem.query_map, vectors_of(params.group));
}

__host__ __device__ inline QueryRun query_run(const hattn_cuda_params &params, hattn_buffer q,
                                              const hattn_map_buffers &map)
{
    const hattn_problem &p = params.problem;
    QueryRun run;
    run.q = hattn_address(q);
    run.map = map_rows(hattn_address(map.weight[0]), p.query_map.weight_stride[0][1]);
    run.map_head = p.query_map.weight_stride[0][0] / 8;
    run.q_row = static_cast<uint32_t>(p.q.stride[0] / 8);
    run.q_head = static_cast<uint32_t>(p.q.stride[1] / 8);
    run.group = params.group;
    run.head_dim = p.head_dim_qk;
    run.code_bits = p.code_bits;
    run.heads_per_code = params.heads_per_code;
    run.weight_max = p.score_kind == HATTN_SCORE_WEIGHTED ? (1 << (p.weight_bits - 1)) - 1 : 0;
    return run;
}

/* api/hattn.h, hattn_encode_queries; weights land in code.weights. All threads of the block; ends with a barrier.
 * `shared` has query_space_bytes. */
template <class W>
__device__ inline void encode_query(const hattn_cuda_params &params, hattn_buffer q, const hattn_map_buffers &buffers,
                                    int64_t row, int64_t head, float *shared, QueryCode &code)
{
    const hattn_problem &p = params.problem;
    const QueryRun run = query_run(params, q, buffers);
    bool done = false;
    if constexpr (sizeof(W) == 2)
        if ((done = params.encodes_by_mma))
            QueryProduct<W>(run, static_cast<int32_t>(row), static_cast<int32_t>(head), run.code_bits)
                .template sum<false, 2>(
                    shared, [] {}, [] {}, [&](int r, float sum) { code.sums[r] = sum; });
    if (!done)
        sum_query_any<W>(params, q, buffers, row, head, shared, code);
    __syncthreads();

    /* The same thread owns the same bits throughout. */
    float largest = 0.0f;
    for (int r = threadIdx.x; r < p.code_bits; r += kThreads)
        largest = fmaxf(largest, finite_magnitude(code.sums[r]));
    largest = warp_max_magnitude(largest);
    if (lane_id() == 0)
        code.warp_values[warp_id()] = largest;
    __syncthreads();
    for (int w = 0; w < kWarps; w++)
        largest = fmaxf(largest, code.warp_values[w]);
    if (threadIdx.x == 0)
        code.unit = unit_of(run.weight_max, largest);
    for (int r = threadIdx.x; r < 512; r += kThreads)
        code.weights[r] =
            static_cast<int8_t>(r < p.code_bits ? weight_of(run.group, run.weight_max, code.sums[r], largest) : 0);
    __syncthreads();
}

/* Planes out of code.weights (zero past code_bits). All threads; ends with a barrier. */
__device__ inline void split_planes(QueryCode &code)
{
    uint32_t total = 0, all = 0;
    for (int r = threadIdx.x; r < 512; r += kThreads) {
        const int w = code.weights[r];
        const uint32_t magnitude = static_cast<uint32_t>(abs(w)), negative = ballot(w < 0);
        if (lane_id() == 0)
            code.sign[r / 32] = negative;
        for (int plane = 0; plane < 7; plane++) {
            const uint32_t bits = ballot(magnitude >> plane & 1);
            if (lane_id() == 0)
                code.plane[plane][r / 32] = bits;
        }
        total += magnitude;
        all |= magnitude;
    }
    total = warp_total(total);
    all = warp_or(all);
    if (lane_id() == 0)
        code.warp_totals[warp_id()] = all << 24 | total; /* 7 bits, and at most 64 * 127 a warp */
    __syncthreads();
    total = all = 0;
    for (int w = 0; w < kWarps; w++) {
        total += code.warp_totals[w] & 0xffffff;
        all |= code.warp_totals[w] >> 24;
    }
    if (threadIdx.x == 0) {
        code.max_score = total;
        code.num_planes = bit_width(all);
    }
    __syncthreads();
}

} // namespace hattn

#endif
