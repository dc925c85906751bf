/* SPDX-License-Identifier: Apache-2.0
 * Encoding kernels: keys of a call, the rows' own keys (append), queries. A block takes up to 4 vectors of one code
 * head.
 */
#include "kernels_cuda/encode/encode_query.cuh"

#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

/* Codes and norms of the keys in space.x. All threads. */
template <class W>
__device__ void encode_block(const hattn_problem &p, const hattn_map_buffers &map, int64_t code_head,
                             const EncodeSpace &space, const Place *places, hattn_buffer codes, hattn_buffer norms)
{
    project<W>(p, p.key_map, map, code_head, space);
    const int num_words = (p.code_bits + 31) / 32;
    for (int i = warp_id(); i < space.num_vectors * num_words; i += kWarps) {
        const int v = i / num_words, word = i % num_words, r = word * 32 + lane_id();
        const uint32_t bits = ballot(r < p.code_bits && space.z[v * p.code_bits + r] > 0.0f);
        if (lane_id() == 0 && places[v].page >= 0)
            reinterpret_cast<uint32_t *>(
                hattn_element(&p.codes, codes, places[v].page, places[v].slot, code_head))[word] = bits;
    }
    if (p.key_norms && warp_id() < space.num_vectors && places[warp_id()].page >= 0) {
        static_assert(kVectors <= kWarps, "a warp a norm");
        float sum = 0.0f;
        for (int i = lane_id(); i < p.head_dim_qk; i += 32)
            sum = fmaf(space.x[warp_id() * p.head_dim_qk + i], space.x[warp_id() * p.head_dim_qk + i], sum);
        sum = warp_sum(sum);
        if (lane_id() == 0)
            *reinterpret_cast<float16 *>(hattn_element(&p.norms, norms, places[warp_id()].page, places[warp_id()].slot,
                                                       code_head)) = from_float<float16>(sqrtf(sum));
    }
}

/* Key rows of a tensor into space.x; absent ones are zero and not read. */
template <class Row>
__device__ void load_keys(const hattn_problem &p, int32_t dtype, float scale, const EncodeSpace &space,
                          const Place *places, Row row)
{
    for (int i = threadIdx.x; i < space.num_vectors * p.head_dim_qk; i += kThreads) {
        const int v = i / p.head_dim_qk;
        space.x[i] = places[v].page >= 0 ? load_element(row(v), dtype, i % p.head_dim_qk) * scale : 0.0f;
    }
}

template <class W>
__global__ void __launch_bounds__(kThreads)
    encode_keys_kernel(const __grid_constant__ hattn_cuda_params params,
                       const __grid_constant__ hattn_encode_keys_args args, int num_vectors)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ Place places[kVectors];
    const hattn_problem &p = params.problem;
    size_t unused;
    const EncodeSpace space = carve_encode_space(p, p.key_map, num_vectors, shared, &unused);
    const int64_t code_head = blockIdx.y, kv_head = code_head * p.num_kv_heads / p.num_code_heads,
                  first = static_cast<int64_t>(blockIdx.x) * num_vectors;
    if (threadIdx.x < num_vectors) {
        const int64_t token = first + threadIdx.x;
        int64_t slot = -1;
        if (token < args.num_tokens)
            slot =
                args.slot_mapping.data ? static_cast<const int64_t *>(hattn_address(args.slot_mapping))[token] : token;
        places[threadIdx.x] = place_of_slot(p, slot);
    }
    __syncthreads();
    load_keys(p, p.k_new.dtype, hattn_kv_scale(&p, args.k_scale, kv_head), space, places,
              [&](int v) { return hattn_element(&p.k_new, args.k_new, first + v, kv_head, 0); });
    __syncthreads();
    encode_block<W>(p, args.key_map, code_head, space, places, args.codes, args.norms);
}

/* Of a row's own key; nowhere for padding and past the maximal length. */
__device__ inline Place place_of_row(const hattn_problem &p, const hattn_batch &batch, int32_t row)
{
    Place place = {-1, 0};
    if (row < batch.num_rows) {
        const hattn_row resolved = hattn_resolve_row(&p, &batch, row);
        if (resolved.sequence >= 0 && resolved.position >= 0 && resolved.position < p.max_length) {
            const hattn_pages pages = hattn_sequence_pages(&p, &batch, resolved.sequence);
            place.page = hattn_page(&pages, static_cast<int32_t>(resolved.position), &place.slot);
        }
    }
    return place;
}

template <class W>
__global__ void __launch_bounds__(kThreads)
    append_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_decode_args args,
                  int num_vectors)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ Place places[kVectors];
    take_over();
    const hattn_problem &p = params.problem;
    size_t unused;
    const EncodeSpace space = carve_encode_space(p, p.key_map, num_vectors, shared, &unused);
    const int64_t code_head = blockIdx.y, kv_head = code_head * p.num_kv_heads / p.num_code_heads;
    if (threadIdx.x < num_vectors)
        places[threadIdx.x] = place_of_row(p, args.batch, static_cast<int32_t>(blockIdx.x) * num_vectors + threadIdx.x);
    __syncthreads();
    load_keys(p, p.k_cache.dtype, hattn_kv_scale(&p, args.k_scale, kv_head), space, places,
              [&](int v) { return hattn_element(&p.k_cache, args.k_cache, places[v].page, places[v].slot, kv_head); });
    __syncthreads();
    encode_block<W>(p, args.key_map, code_head, space, places, args.codes, args.norms);
}

/* The rows' own keys on tensor cores, up to 8 a block. What it costs is one chain of latencies: the map is on its way
 * into L2 while lanes find their column's key, each warp for itself so that there is one barrier. */
template <class W>
__global__ void __launch_bounds__(kThreads)
    append_mma_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_decode_args args,
                      int num_columns)
{
    extern __shared__ __align__(16) float parts[];
    const hattn_problem &p = params.problem;
    const int64_t code_head = blockIdx.y, kv_head = code_head * p.num_kv_heads / p.num_code_heads;
    const MapRows map = map_rows(static_cast<const W *>(hattn_address(args.key_map.weight[0])) +
                                     code_head * p.key_map.weight_stride[0][0],
                                 p.key_map.weight_stride[0][1]);
    prefetch_map(map, p.head_dim_qk, p.code_bits);
    take_over();
    const Fragment at;
    const int column = at.b_column();
    const Place place = column < num_columns
                            ? place_of_row(p, args.batch, static_cast<int32_t>(blockIdx.x) * num_columns + column)
                            : Place{-1, 0};
    const W *const key =
        place.page >= 0
            ? reinterpret_cast<const W *>(hattn_element(&p.k_cache, args.k_cache, place.page, place.slot, kv_head))
            : nullptr;
    MapProduct<W>(map, p.code_bits, key, nullptr).template multiply<1, 2>(p.head_dim_qk, num_columns, parts, [] {});
    __syncthreads();

    const W *bias = args.key_map.bias[0].data ? static_cast<const W *>(hattn_address(args.key_map.bias[0])) +
                                                    code_head * p.key_map.bias_stride[0]
                                              : nullptr;
    const int num_words = p.code_bits / 32;
    for (int i = warp_id(); i < num_columns * num_words; i += kWarps) {
        const int v = i / num_words, word = i % num_words, r = word * 32 + lane_id();
        const float z = sum_parts(parts, num_columns, p.code_bits, v, r) + (bias ? to_float(bias[r]) : 0.0f);
        const uint32_t bits = ballot(z > 0.0f);
        if (lane_id() == 4 * v && place.page >= 0)
            reinterpret_cast<uint32_t *>(hattn_element(&p.codes, args.codes, place.page, place.slot, code_head))[word] =
                bits;
    }
    if (p.key_norms && warp_id() == 0) { /* four lanes a column */
        float sum = 0.0f;
        for (int i = at.pair; key && i < p.head_dim_qk; i += 4)
            sum = fmaf(to_float(key[i]), to_float(key[i]), sum);
        sum = Fragment::group_sum(sum);
        if (at.pair == 0 && key)
            *reinterpret_cast<float16 *>(hattn_element(&p.norms, args.norms, place.page, place.slot, code_head)) =
                from_float<float16>(sqrtf(sum));
    }
}

/* By one thread, if the problem has a floor. */
__device__ inline void store_step(const hattn_problem &p, const hattn_encode_queries_args &args, int64_t row,
                                  int64_t head, float unit)
{
    if (!args.steps.data)
        return;
    const float slope = *reinterpret_cast<const float *>(hattn_element(&p.slopes, args.slopes, head, 0, 0));
    *reinterpret_cast<int32_t *>(hattn_element(&p.steps, args.steps, row, head, 0)) = hattn_floor_step(slope, unit);
}

/* Bits of a query that one block encodes. Sums of signs need no other bits, so that several blocks may share a map
 * and read it in less time; not where scoring encodes for itself, in another order: weights must be the same. */
__host__ __device__ inline int block_bits(const hattn_cuda_params &params)
{
    const hattn_problem &p = params.problem;
    return params.encodes_by_mma && !params.encodes_in_score && p.score_kind == HATTN_SCORE_HAMMING && p.code_bits > 64
               ? 64
               : p.code_bits;
}

/* is_beside: a decode's kernel before this one has waited for all that is the caller's, and what that kernel itself makes is not read here. */
template <class W>
__global__ void __launch_bounds__(kThreads)
    encode_queries_kernel(const __grid_constant__ hattn_cuda_params params,
                          const __grid_constant__ hattn_encode_queries_args args, int is_beside)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ QueryCode code;
    const hattn_problem &p = params.problem;
    const int64_t row = blockIdx.x, head = blockIdx.y;
    int8_t *weights = reinterpret_cast<int8_t *>(hattn_element(&p.weights, args.weights, row, head, 0));
    if constexpr (sizeof(W) == 2)
        if (gridDim.z > 1) {
            const int first = static_cast<int>(blockIdx.z) * block_bits(params);
            QueryRun run = query_run(params, args.q, args.query_map);
            run.map.rows += first / 8;
            run.code_bits = min(block_bits(params), p.code_bits - first);
            const QueryProduct<W> product(run, static_cast<int32_t>(row), static_cast<int32_t>(head), run.code_bits);
            product.prefetch();
            take_over();
            product.template sum<false, 3>(
                shared, [] {}, [] {},
                [&](int r, float sum) {
                    weights[first + r] = static_cast<int8_t>(weight_of(run.group, 0, sum, 0.0f));
                });
            if (first == 0 && threadIdx.x == 0)
                store_step(p, args, row, head, 1.0f);
            return;
        }
    if (!is_beside)
        wait_for_previous();
    allow_dependents();
    encode_query<W>(params, args.q, args.query_map, row, head, shared, code);
    for (int r = threadIdx.x; r < p.code_bits; r += kThreads)
        weights[r] = code.weights[r];
    if (threadIdx.x == 0)
        store_step(p, args, row, head, code.unit);
    wait_for_previous(); /* the next kernel takes this one's end for both */
}

/* Shared memory of encode_queries_kernel. */
size_t encode_queries_bytes(const hattn_cuda_params &params)
{
    const int bits = block_bits(params);
    return bits < params.problem.code_bits ? query_mma_bytes(params.group, bits) : query_space_bytes(params);
}

/* Calls f with append_mma_kernel for the map's type. */
template <class F>
DeviceError with_append_mma(const hattn_problem &p, F f)
{
    return p.key_map.dtype == HATTN_F16 ? f(append_mma_kernel<float16>) : f(append_mma_kernel<bfloat16>);
}

/* Rows of one block: 8 columns, or as many as leave a small multiprocessor its shared memory. */
int append_columns(const hattn_problem &p, int num_rows)
{
    const int most = p.code_bits > 256 ? 4 : 8;
    return num_rows < most ? num_rows : most;
}

size_t append_mma_bytes(const hattn_problem &p, int num_columns)
{
    return parts_floats(num_columns, p.code_bits) * sizeof(float);
}

/* Blocks of a launch: as many vectors each as there are, up to 4. */
struct Blocks {
    int num_vectors;
    dim3 grid;
    size_t shared_bytes;

    Blocks(const hattn_problem &p, int64_t vectors)
        : num_vectors(vectors_of(static_cast<int>(vectors < kVectors ? vectors : kVectors))),
          grid(static_cast<unsigned>((vectors + num_vectors - 1) / num_vectors), p.num_code_heads),
          shared_bytes(encode_space_bytes(p, p.key_map, num_vectors))
    {
    }
};

} // namespace

DeviceError load_encode(const hattn_cuda_params &params)
{
    const hattn_problem &p = params.problem;
    const size_t key_bytes = encode_space_bytes(p, p.key_map, kVectors);
    return first_error({
        with_float_dtype(p.key_map.dtype,
                         [&](auto w) { return prepare(encode_keys_kernel<value_of<decltype(w)>>, key_bytes); }),
        params.appends_by_mma
            ? with_append_mma(p,
                              [&](auto kernel) { return prepare(kernel, append_mma_bytes(p, append_columns(p, 8))); })
            : with_float_dtype(p.key_map.dtype,
                               [&](auto w) { return prepare(append_kernel<value_of<decltype(w)>>, key_bytes); }),
        with_float_dtype(p.query_map.dtype,
                         [&](auto w) {
                             return prepare(encode_queries_kernel<value_of<decltype(w)>>, encode_queries_bytes(params));
                         }),
    });
}

DeviceError launch_append(const hattn_cuda_params &params, const hattn_decode_args &args, DeviceStream stream)
{
    if (params.appends_by_mma) {
        const int rows = args.batch.num_rows, columns = append_columns(params.problem, rows);
        const dim3 grid((rows + columns - 1) / columns, params.problem.num_code_heads);
        return with_append_mma(params.problem, [&](auto kernel) {
            return launch_dependent(params, kernel, grid, append_mma_bytes(params.problem, columns), stream, params,
                                    args, columns);
        });
    }
    const Blocks blocks(params.problem, args.batch.num_rows);
    return with_float_dtype(params.problem.key_map.dtype, [&](auto w) {
        return launch_dependent(params, append_kernel<value_of<decltype(w)>>, blocks.grid, blocks.shared_bytes, stream,
                                params, args, blocks.num_vectors);
    });
}

static DeviceError launch_encode(const hattn_cuda_params &params, const hattn_encode_queries_args &args,
                                 DeviceStream stream, bool is_beside)
{
    const hattn_problem &p = params.problem;
    const dim3 grid(args.num_rows, p.num_selection_heads, (p.code_bits + block_bits(params) - 1) / block_bits(params));
    return with_float_dtype(p.query_map.dtype, [&](auto w) {
        return launch_dependent(params, encode_queries_kernel<value_of<decltype(w)>>, grid,
                                encode_queries_bytes(params), stream, params, args, is_beside ? 1 : 0);
    });
}

DeviceError launch_encode_queries(const hattn_cuda_params &params, const hattn_encode_queries_args &args,
                                  DeviceStream stream)
{
    return launch_encode(params, args, stream, false);
}

DeviceError launch_encode_heads(const hattn_cuda_params &params, const hattn_encode_queries_args &args,
                                DeviceStream stream, bool is_beside)
{
    hattn_cuda_params own = params;
    hattn_encode_queries_args apart = args;
    hattn_problem &p = own.problem;
    own.group = 1;
    own.heads_per_code = hattn_cuda_make_divisor(static_cast<uint32_t>(p.num_q_heads / p.num_code_heads));
    p.num_selection_heads = p.num_q_heads;
    p.weights = p.head_weights;
    p.slopes = p.head_slopes;
    p.steps = p.head_steps;
    apart.weights = args.head_weights;
    apart.slopes = args.head_slopes;
    apart.steps = args.head_steps;
    return launch_encode(own, apart, stream, is_beside);
}

} // namespace hattn

int hattn::run_encode_keys(const hattn_cuda_params *params, const hattn_encode_keys_args *args, void *stream)
{
    using namespace hattn;
    if (params->encodes_keys_by_mma)
        return params->problem.map_kind == HATTN_MAP_MLP
                   ? launch_encode_keys_mlp(*params, *args, static_cast<DeviceStream>(stream))
                   : launch_encode_keys_mma(*params, *args, static_cast<DeviceStream>(stream));
    const Blocks blocks(params->problem, args->num_tokens);
    return with_float_dtype(params->problem.key_map.dtype, [&](auto w) {
        return launch({blocks.grid, kThreads, blocks.shared_bytes, static_cast<DeviceStream>(stream)},
                      encode_keys_kernel<value_of<decltype(w)>>, *params, *args, blocks.num_vectors);
    });
}

int hattn::run_encode_queries(const hattn_cuda_params *params, const hattn_encode_queries_args *args, void *stream)
{
    using namespace hattn;
    const DeviceError error = launch_encode_queries(*params, *args, static_cast<DeviceStream>(stream));
    return error || !params->problem.num_candidates
               ? error
               : launch_encode_heads(*params, *args, static_cast<DeviceStream>(stream), false);
}
