/* SPDX-License-Identifier: Apache-2.0
 * Scoring as a call of its own: a block takes a chunk of keys of one row and selection head.
 */
#include "kernels_cuda/select/score.cuh"

#include "kernels_cuda/decode/planes.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

/* Device functions are templates or inline: of others nvcc leaves a host body that calls exit, which a library must
 * not. */

/* A run of keys: where they are and where their scores go. keys[j] belongs to position j. */
template <class Key>
struct Run {
    hattn_pages pages;
    int64_t code_head;
    hattn_buffer codes, norms;
    int32_t first, end;
    Key *keys;
};

template <class Key>
__device__ void score_any(const hattn_cuda_params &params, const QueryCode &query, const Run<Key> &run)
{
    const hattn_problem &p = params.problem;
    const int num_words = (p.code_bits + 31) / 32;
    for (int32_t j = run.first + static_cast<int32_t>(threadIdx.x); j < run.end; j += kThreads) {
        int32_t slot;
        const int64_t page = hattn_page(&run.pages, j, &slot);
        const uint32_t score = score_key(
            query, reinterpret_cast<const uint32_t *>(hattn_element(&p.codes, run.codes, page, slot, run.code_head)),
            num_words);
        if constexpr (sizeof(Key) == sizeof(float))
            run.keys[j] = scale_score(
                score, query.max_score,
                *reinterpret_cast<const float16 *>(hattn_element(&p.norms, run.norms, page, slot, run.code_head)));
        else
            run.keys[j] = static_cast<Key>(score);
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
                if (j < run.end)
                    run.keys[j] = static_cast<uint16_t>(scores[s]);
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
        const bool aligned = (words == 2 || words == 4) && p.codes.stride[0] % words == 0 &&
                             p.codes.stride[1] % words == 0 && p.codes.stride[2] % words == 0;
        if (aligned && (words == 4 ? score_packed<4>(params, query, run) : score_packed<2>(params, query, run)))
            return;
    }
    score_any(params, query, run);
}

template <class Key>
__global__ void __launch_bounds__(kThreads)
    score_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_score_args args)
{
    __shared__ QueryCode code;
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.x / params.num_score_chunks, row = task / p.num_selection_heads,
                  head = task % p.num_selection_heads;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int32_t first = static_cast<int32_t>(blockIdx.x % params.num_score_chunks) * params.score_chunk;
    if (first >= resolved.length)
        return;
    load_weights(p, reinterpret_cast<const int8_t *>(hattn_element(&p.weights, args.weights, row, head, 0)), code);
    split_planes(code);
    score_range(params, code,
                Run<Key>{hattn_sequence_pages(&p, &args.batch, resolved.sequence),
                         head * p.num_code_heads / p.num_selection_heads, args.codes, args.norms, first,
                         min(resolved.length, first + params.score_chunk),
                         reinterpret_cast<Key *>(hattn_element(&p.scores, args.scores, row, head, 0))});
}

} // namespace

DeviceError load_score(const hattn_cuda_params &params)
{
    return params.problem.key_norms ? prepare(score_kernel<float>, 0) : prepare(score_kernel<uint16_t>, 0);
}

} // namespace hattn

int hattn::run_score(const hattn_cuda_params *params, const hattn_score_args *args, void *opaque_stream)
{
    using namespace hattn;
    const unsigned blocks =
        static_cast<unsigned>(args->batch.num_rows * params->problem.num_selection_heads * params->num_score_chunks);
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    const Launch how = {blocks, kThreads, 0, stream};
    return params->problem.key_norms ? launch(how, score_kernel<float>, *params, *args)
                                     : launch(how, score_kernel<uint16_t>, *params, *args);
}
