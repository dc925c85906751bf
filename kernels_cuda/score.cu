/* SPDX-License-Identifier: Apache-2.0
 * Scoring kernels: a block takes a chunk of keys of one row and selection head. In a decode it may encode its query itself
 * and counts the histogram that selection starts from.
 */
#include "kernels_cuda/score.cuh"

#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

/* Device functions are templates or inline: of others nvcc leaves a host body that calls exit, which a library must not. */

/* A run of keys: where they are and where their scores go. keys[j] belongs to position j. */
template <class Key>
struct Run {
    hattn_pages pages;
    int64_t code_head;
    hattn_buffer codes, norms;
    int32_t first, end;
    Key *keys;
    uint32_t *histogram; /* of the first digit, in shared memory; or NULL */
};

template <class Key>
__device__ void score_any(const hattn_cuda_params &params, const QueryCode &query, const Run<Key> &run)
{
    const hattn_problem &p = params.problem;
    const int num_words = (p.code_bits + 31) / 32, shift = digit(params, 0).shift;
    for (int32_t j = run.first + static_cast<int32_t>(threadIdx.x); j < run.end; j += kThreads) {
        int32_t slot;
        const int64_t page = hattn_page(&run.pages, j, &slot);
        const uint32_t score =
            score_key(query, reinterpret_cast<const uint32_t *>(hattn_element(&p.codes, run.codes, page, slot, run.code_head)), num_words);
        Key key;
        if constexpr (sizeof(Key) == sizeof(float))
            key = scale_score(score, query.max_score, *reinterpret_cast<const __half *>(hattn_element(&p.norms, run.norms, page, slot, run.code_head)));
        else
            key = static_cast<Key>(score);
        run.keys[j] = key;
        if (run.histogram)
            atomicAdd(&run.histogram[ordered_key(key) >> shift], 1u);
    }
}

template <int kWords>
struct Words {
    uint32_t word[kWords];
};

/* Codes of 2 or 4 words that can be loaded at once, u16 scores: 8 keys a thread in flight, counted on tensor cores. */
template <int kWords, int kBlocks>
__device__ void score_packed(const hattn_cuda_params &params, const QueryCode &query, const Run<uint16_t> &run)
{
    constexpr int kInFlight = 8;
    const hattn_problem &p = params.problem;
    const int shift = digit(params, 0).shift;
    const PlaneCounter<kWords, kBlocks> planes(query.sign, query.plane, query.num_planes);
    /* Strides are whole codes. */
    using Code = Words<kWords>;
    const Code *base = reinterpret_cast<const Code *>(hattn_element(&p.codes, run.codes, 0, 0, run.code_head));
    const int64_t stride_page = p.codes.stride[0] / kWords, stride_slot = p.codes.stride[1] / kWords;
    const bool is_paged = run.pages.table != nullptr;
    if (!is_paged)
        base += run.pages.sequence * stride_page;
    for (int32_t first = run.first; first < run.end; first += kInFlight * kThreads) {
        uint32_t code[kInFlight][kWords];
#pragma unroll
        for (int i = 0; i < kInFlight; i++) {
            const int32_t j = min(first + i * kThreads + static_cast<int32_t>(threadIdx.x), run.end - 1);
            if (is_paged) {
                int32_t slot;
                const int64_t page = hattn_page(&run.pages, j, &slot);
                load_streamed(code[i], base + page * stride_page + slot * stride_slot);
            } else {
                load_streamed(code[i], base + j * stride_slot);
            }
        }
#pragma unroll
        for (int i = 0; i < kInFlight; i += 2) {
            uint32_t scores[2];
            planes.count(code[i], code[i + 1], &scores[0], &scores[1]);
#pragma unroll
            for (int s = 0; s < 2; s++) {
                const int32_t j = first + (i + s) * kThreads + static_cast<int32_t>(threadIdx.x);
                if (j < run.end) {
                    run.keys[j] = static_cast<uint16_t>(scores[s]);
                    if (run.histogram)
                        atomicAdd(&run.histogram[scores[s] >> shift], 1u);
                }
            }
        }
    }
}

/* False: more planes than there are kernels for. */
template <int kWords>
__device__ bool score_packed(const hattn_cuda_params &params, const QueryCode &query, const Run<uint16_t> &run)
{
    if (query.num_planes <= 2)
        score_packed<kWords, 1>(params, query, run);
    else if (query.num_planes <= 4)
        score_packed<kWords, 2>(params, query, run);
    return query.num_planes <= 4;
}

template <class Key>
__device__ void score_range(const hattn_cuda_params &params, const QueryCode &query, const Run<Key> &run)
{
    const hattn_problem &p = params.problem;
    if constexpr (sizeof(Key) == sizeof(uint16_t)) {
        const int64_t words = (p.code_bits + 31) / 32;
        const bool aligned = (words == 2 || words == 4) && p.codes.stride[0] % words == 0 && p.codes.stride[1] % words == 0 && p.codes.stride[2] % words == 0;
        if (aligned && (words == 4 ? score_packed<4>(params, query, run) : score_packed<2>(params, query, run)))
            return;
    }
    score_any(params, query, run);
}

/* Leaves a tile's row of counts and takes its histogram into totals[i], the count of bin top - i. Clears the histogram. All threads; the
 * histogram may be filled again after the next barrier. */
__device__ inline void publish_tile(const hattn_cuda_params &params, uint32_t *histogram, uint32_t (&totals)[8], uint16_t *row, uint32_t *sums)
{
    const int per_thread = (params.num_bins + kThreads - 1) / kThreads, top = per_thread * (kThreads - static_cast<int>(threadIdx.x)) - 1;
    uint32_t counts[8], mine = 0, total;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const bool is_mine = i < per_thread && top - i < params.num_bins;
        counts[i] = is_mine ? histogram[top - i] : 0;
        if (is_mine)
            histogram[top - i] = 0;
        totals[i] += counts[i];
        mine += counts[i];
    }
    if (!row)
        return;
    uint32_t at_least = block_scan(mine, sums, &total);
    if (threadIdx.x == 0)
        row[params.num_bins] = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        at_least += counts[i];
        if (i < per_thread && top - i < params.num_bins)
            row[top - i] = static_cast<uint16_t>(at_least);
    }
}

/* Adds a chunk's totals to its task's histogram. */
__device__ inline void publish_totals(const hattn_cuda_params &params, const uint32_t (&totals)[8], uint32_t *task_histogram)
{
    const int per_thread = (params.num_bins + kThreads - 1) / kThreads, top = per_thread * (kThreads - static_cast<int>(threadIdx.x)) - 1;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (totals[i])
            atomicAdd(&task_histogram[top - i], totals[i]);
}

/* Weights from memory into code.weights. Ends with a barrier. */
__device__ inline void load_weights(const hattn_problem &p, const int8_t *weights, QueryCode &code)
{
    for (int r = threadIdx.x; r < 512; r += kThreads)
        code.weights[r] = r < p.code_bits ? weights[r] : static_cast<int8_t>(0);
    __syncthreads();
}

template <class Key>
__global__ void __launch_bounds__(kThreads) score_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_score_args args)
{
    __shared__ QueryCode code;
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.x / params.num_score_chunks, row = task / p.num_selection_heads, head = task % p.num_selection_heads;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int32_t first = static_cast<int32_t>(blockIdx.x % params.num_score_chunks) * params.score_chunk;
    if (first >= resolved.length)
        return;
    load_weights(p, reinterpret_cast<const int8_t *>(hattn_element(&p.weights, args.weights, row, head, 0)), code);
    split_planes(code);
    score_range(params, code,
                Run<Key>{hattn_sequence_pages(&p, &args.batch, resolved.sequence), head * p.num_code_heads / p.num_selection_heads, args.codes, args.norms, first,
                         min(resolved.length, first + params.score_chunk), reinterpret_cast<Key *>(hattn_element(&p.scores, args.scores, row, head, 0)), nullptr});
}

/* The scoring half of a decode: scores of the middle, positions from num_sink on, into the workspace. */
template <class Key, class W>
__global__ void __launch_bounds__(kThreads, 3) decode_score_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_decode_args args,
                                                                hattn_buffer workspace)
{
    extern __shared__ float shared[];
    __shared__ QueryCode code;
    uint32_t *histogram = reinterpret_cast<uint32_t *>(shared); /* once the query is encoded */
    allow_dependents();
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.x / params.num_score_chunks, row = task / p.num_selection_heads, head = task % p.num_selection_heads;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int32_t chunk = static_cast<int32_t>(blockIdx.x % params.num_score_chunks), kept = hattn_kept(&p, args.budgets, &resolved, head);
    const int32_t first = p.num_sink + chunk * params.score_chunk, end = min(resolved.length - p.num_recent, first + params.score_chunk);
    const bool is_ranked = kept < resolved.length && kept > p.num_sink + p.num_recent, scores_keys = is_ranked && first < end;
    const bool shows_weights = args.weights.data && chunk == 0 && params.encodes_in_score;
    char *base = static_cast<char *>(hattn_address(workspace));
    const int64_t row_size = params.num_bins + 1;
    uint16_t *counts = reinterpret_cast<uint16_t *>(base + params.tile_counts) + (task * params.num_tiles + chunk * (params.score_chunk / HATTN_CUDA_TILE)) * row_size;
    if (is_ranked && params.counts_tiles) { /* tiles past the row's end hold nothing */
        const int tiles = min(params.score_chunk / HATTN_CUDA_TILE, params.num_tiles - chunk * (params.score_chunk / HATTN_CUDA_TILE));
        const int used = max(0, (end - first + HATTN_CUDA_TILE - 1) / HATTN_CUDA_TILE);
        for (int64_t i = used * row_size + threadIdx.x; i < tiles * row_size; i += kThreads)
            counts[i] = 0;
    }
    if (!scores_keys && !shows_weights)
        return;

    if (params.encodes_in_score) {
        encode_query<W>(params, args.q, args.query_map, row, head, shared, code);
    } else if (args.weights.data) {
        load_weights(p, reinterpret_cast<const int8_t *>(hattn_element(&p.weights, args.weights, row, head, 0)), code);
    } else {
        load_weights(p, reinterpret_cast<const int8_t *>(base + params.weights) + task * p.code_bits, code);
    }
    if (shows_weights) {
        int8_t *weights = reinterpret_cast<int8_t *>(hattn_element(&p.weights, args.weights, row, head, 0));
        for (int r = threadIdx.x; r < p.code_bits; r += kThreads)
            weights[r] = code.weights[r];
    }
    if (!scores_keys)
        return;
    if (params.counts_in_score)
        for (int i = threadIdx.x; i < 2 * params.num_bins; i += kThreads)
            histogram[i] = 0;
    split_planes(code);
    Run<Key> run = {hattn_sequence_pages(&p, &args.batch, resolved.sequence), head * p.num_code_heads / p.num_selection_heads, args.codes, args.norms, first, end,
                    reinterpret_cast<Key *>(base + params.scores) + task * p.max_length, nullptr};
    if (!params.counts_in_score) {
        score_range(params, code, run);
        return;
    }
    uint32_t totals[8] = {};
    for (int tile = 0; first + tile * HATTN_CUDA_TILE < end; tile++) { /* two histograms: one is filled while the other is read */
        run.first = first + tile * HATTN_CUDA_TILE;
        run.end = min(end, run.first + HATTN_CUDA_TILE);
        run.histogram = histogram + tile % 2 * params.num_bins;
        score_range(params, code, run);
        __syncthreads();
        publish_tile(params, run.histogram, totals, params.counts_tiles ? counts + tile * row_size : nullptr, code.warp_sums[tile % 2]);
    }
    publish_totals(params, totals, reinterpret_cast<hattn_cuda_control *>(base)->histogram[task]);
}

size_t space_bytes(const hattn_cuda_params &params)
{
    const size_t encode = params.encodes_in_score ? query_space_bytes(params) : 0;
    const size_t histograms = 2 * params.num_bins * sizeof(uint32_t);
    return encode > histograms ? encode : histograms;
}

/* Calls f with null pointers of the score's type and of the map's. */
template <class F>
auto with_types(const hattn_problem &p, F f)
{
    return with_float_dtype(p.query_map.dtype, [&](auto w) {
        return p.key_norms ? f(static_cast<float *>(nullptr), w) : f(static_cast<uint16_t *>(nullptr), w);
    });
}

} // namespace

cudaError_t load_score(const hattn_cuda_params &params)
{
    return first_error({
        params.problem.key_norms ? prepare(score_kernel<float>, 0) : prepare(score_kernel<uint16_t>, 0),
        with_types(params.problem,
                   [&](auto key, auto w) { return prepare(decode_score_kernel<value_of<decltype(key)>, value_of<decltype(w)>>, space_bytes(params)); }),
    });
}

cudaError_t launch_decode_score(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace, cudaStream_t stream)
{
    const unsigned blocks = static_cast<unsigned>(args.batch.num_rows * params.problem.num_selection_heads * params.num_score_chunks);
    return with_types(params.problem, [&](auto key, auto w) {
        decode_score_kernel<value_of<decltype(key)>, value_of<decltype(w)>><<<blocks, kThreads, space_bytes(params), stream>>>(params, args, workspace);
        return cudaGetLastError();
    });
}

} // namespace hattn

int hattn_cuda_score(const hattn_cuda_params *params, const hattn_score_args *args, void *opaque_stream)
{
    using namespace hattn;
    const unsigned blocks = static_cast<unsigned>(args->batch.num_rows * params->problem.num_selection_heads * params->num_score_chunks);
    const cudaStream_t stream = static_cast<cudaStream_t>(opaque_stream);
    if (params->problem.key_norms)
        score_kernel<float><<<blocks, kThreads, 0, stream>>>(*params, *args);
    else
        score_kernel<uint16_t><<<blocks, kThreads, 0, stream>>>(*params, *args);
    return cudaGetLastError();
}
