/* SPDX-License-Identifier: Apache-2.0
 * Loading a plan's kernels, and a decode's sequence of them.
 */
#include <algorithm>

#include "core/rows.h"
#include "kernels_cuda/decode/regions.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

/* By hattn_cuda_params.engine. */
const struct Attention {
    DeviceError (*load_attend)(const hattn_cuda_params &);
    DeviceError (*launch_attend)(const hattn_cuda_params &, const hattn_attend_args &, hattn_buffer workspace,
                                 DeviceStream);
    const DecodeKernel *decode[2]; /* without, with keys */
} attentions[] = {
    {load_attend_plain, launch_attend_plain, {&decode_attend_plain, &decode_attend_plain_keyed}},
    {load_attend_mma, launch_attend_mma, {&decode_attend_mma, &decode_attend_mma_keyed}},
    {load_attend_mma_bytes, launch_attend_mma_bytes, {&decode_attend_mma_bytes, &decode_attend_mma_bytes_keyed}},
    {load_attend_wide, launch_attend_wide, {&decode_attend_wide, &decode_attend_wide_keyed}},
};

/* A decode's kernels, in order. */
struct Decode {
    const DecodeKernel *score, *attend;
};

Decode decode_of(const hattn_cuda_params &params)
{
    const int words = params.code_words;
    const DecodeKernel *attend = attentions[params.engine].decode[params.is_keyed];
    if (params.has_loose_codes)
        return {words == 4   ? &decode_score_loose_4
                : words == 8 ? &decode_score_loose_8
                             : &decode_score_loose_16,
                attend};
    return {words == 1   ? &decode_score_1
            : words == 2 ? &decode_score_2
            : words == 4 ? &decode_score_4
            : words == 8 ? &decode_score_8
                         : &decode_score_16,
            attend};
}

} // namespace
} // namespace hattn

int hattn_cuda_load(hattn_cuda_params *params)
{
    using namespace hattn;
    const Attention *attention = &attentions[params->engine];
    return first_error({
        find_dependent_launch(params),
        load_encode(*params),
        !params->encodes_keys_by_mma                ? kSuccess
        : params->problem.map_kind == HATTN_MAP_MLP ? load_encode_keys_mlp(*params)
                                                    : load_encode_keys_mma(*params),
        load_score(*params),
        params->by_regions ? decode_of(*params).score->load(*params) : kSuccess,
        load_topk(*params),
        attention->load_attend(*params),
        params->by_regions ? decode_of(*params).attend->load(*params) : kSuccess,
        load_merge(),
    });
}

int hattn_cuda_attend(const hattn_cuda_params *params, const hattn_attend_args *args, hattn_buffer workspace,
                      void *opaque_stream)
{
    using namespace hattn;
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    const DeviceError error = check_workspace(workspace, stream);
    return error ? error : attentions[params->engine].launch_attend(*params, *args, workspace, stream);
}

int hattn_cuda_append(const hattn_cuda_params *params, const hattn_decode_args *args, void *stream)
{
    return hattn::launch_append(*params, *args, static_cast<hattn::DeviceStream>(stream));
}

int hattn_cuda_decode(const hattn_cuda_params *params, const hattn_decode_args *args, hattn_buffer workspace,
                      void *opaque_stream)
{
    using namespace hattn;
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    DeviceError error = check_workspace(workspace, stream);
    if (!error && args->append)
        error = launch_append(*params, *args, stream);
    if (!error && !params->encodes_in_score) {
        hattn_encode_queries_args encode = {};
        encode.num_rows = args->batch.num_rows;
        encode.q = args->q;
        encode.query_map = args->query_map;
        encode.weights = args->weights;
        hattn_cuda_params own = *params;
        if (!args->weights.data) {
            /* Into the workspace, compact. */
            encode.weights = {workspace.data, workspace.byte_offset + params->weights};
            own.problem.weights.stride[0] =
                static_cast<int64_t>(params->problem.num_selection_heads) * params->problem.code_bits;
            own.problem.weights.stride[1] = params->problem.code_bits;
        }
        error = launch_encode_queries(own, encode, stream);
    }
    const Decode decode = decode_of(*params);
    const int32_t num_rows = args->batch.num_rows, num_heads = params->problem.num_selection_heads;
    for (int32_t row = 0; row < num_rows; row += params->wave_rows)
        for (int32_t head = 0; head < num_heads; head += params->wave_heads) {
            const Wave wave = {row, std::min(params->wave_rows, num_rows - row), head,
                               std::min(params->wave_heads, num_heads - head)};
            if (!error)
                error = decode.score->launch(*params, *args, wave, workspace, stream);
            if (!error)
                error = decode.attend->launch(*params, *args, wave, workspace, stream);
        }
    return error;
}
