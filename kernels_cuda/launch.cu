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
    AttendKernel (*attend)();
    DecodeKernel (*decode[2])(); /* without, with keys */
} attentions[] = {
#define ENGINE(number, types, accepts, attend, decode, keyed) {attend, {decode, keyed}},
#include "kernels_cuda/engines.inc"
#undef ENGINE
};

struct Scoring {
    int words;
    bool is_loose;
    DecodeKernel (*score)();
};

const Scoring scorings[] = {
#define CODE_WIDTH(words, is_loose, kernel) {words, is_loose, kernel},
#include "kernels_cuda/code_widths.inc"
#undef CODE_WIDTH
};

const Scoring floor_scorings[] = {
#define FLOOR_WIDTH(words, is_loose, kernel) {words, is_loose, kernel},
#include "kernels_cuda/floors.inc"
#undef FLOOR_WIDTH
};

const struct FloorAttention {
    int engine;
    DecodeKernel (*decode[2])(); /* without a tail, with one */
    AttendKernel (*attend)();    /* with one */
} floor_attentions[] = {
#define FLOOR_ENGINE(number, types, floor, tail, attend) {number, {floor, tail}, attend},
#include "kernels_cuda/floors.inc"
#undef FLOOR_ENGINE
};

/* NULL: the engine has none. */
const FloorAttention *floor_attention_of(const hattn_cuda_params &params)
{
    for (const FloorAttention &row : floor_attentions)
        if (row.engine == params.engine)
            return &row;
    return nullptr;
}

/* A decode's kernels, in order. */
struct Decode {
    DecodeKernel score, attend; /* the second may list what others attend to */
};

/* NULLs where no row has the width. */
template <size_t kNum>
DecodeKernel score_of(const hattn_cuda_params &params, const Scoring (&rows)[kNum])
{
    for (const Scoring &row : rows)
        if (row.words == params.code_words && row.is_loose == (params.has_loose_codes != 0))
            return row.score();
    return {};
}

Decode decode_of(const hattn_cuda_params &params)
{
    if (params.problem.num_candidates)
        return {hattn_has_shares(&params.problem) ? score_of(params, floor_scorings) : score_of(params, scorings),
                {load_list_heads, launch_list_heads}};
    if (params.problem.min_value_weight > 0.0f)
        return {score_of(params, floor_scorings), {load_list_kept, launch_list_kept}};
    if (!hattn_has_shares(&params.problem))
        return {score_of(params, scorings), attentions[params.engine].decode[params.is_keyed]()};
    const FloorAttention *row = floor_attention_of(params);
    return row ? Decode{score_of(params, floor_scorings), row->decode[params.problem.tail > 0]()} : Decode{};
}

/* Of a plan by regions. */
DeviceError load_decode(const hattn_cuda_params &params)
{
    const Decode decode = decode_of(params);
    return decode.score.load ? first_error({decode.score.load(params), decode.attend.load(params)}) : kNoSuchKernel;
}

/* A decode's kernels for rows and heads, as many at a time as there is room for; between(): after the first one. */
template <class Between>
DeviceError run_waves(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace,
                      DeviceStream stream, Between between)
{
    DeviceError error = kSuccess;
    const Decode decode = decode_of(params);
    const int32_t num_rows = args.batch.num_rows, num_heads = params.problem.num_selection_heads;
    for (int32_t row = 0; row < num_rows; row += params.wave_rows)
        for (int32_t head = 0; head < num_heads; head += params.wave_heads) {
            const Wave wave = {row, std::min(params.wave_rows, num_rows - row), head,
                               std::min(params.wave_heads, num_heads - head)};
            if (!error)
                error = decode.score.launch(params, args, wave, workspace, stream);
            if (!error && wave.is_first())
                error = between();
            if (!error)
                error = decode.attend.launch(params, args, wave, workspace, stream);
        }
    return error;
}

/* Attention with a tail, in one kernel or in several. */
DeviceError load_attend_tails(const hattn_cuda_params &params)
{
    if (params.problem.min_value_weight > 0.0f)
        return first_error({load_skip(params), load_tail_totals()});
    if (const FloorAttention *row = floor_attention_of(params))
        return first_error({row->attend().load(params), load_tail_totals()});
    return load_tail(params);
}

/* is_dependent: it follows a decode's kernels, which have told shares' totals. */
DeviceError attend_to_list(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                           DeviceStream stream, bool is_dependent)
{
    const AttendKernel kernel = attentions[params.engine].attend();
    if (!args.shares.data)
        return kernel.launch(params, args, workspace, stream, is_dependent);
    if (params.problem.min_value_weight > 0.0f) {
        const DeviceError error = is_dependent ? kSuccess : launch_tail_totals(params, args, workspace, stream);
        return error ? error : launch_skip(params, args, workspace, stream, is_dependent);
    }
    if (const FloorAttention *row = floor_attention_of(params)) {
        const DeviceError error = is_dependent ? kSuccess : launch_tail_totals(params, args, workspace, stream);
        return error ? error : row->attend().launch(params, args, workspace, stream, true);
    }
    hattn_cuda_params own = params;
    hattn_attend_args apart = args;
    hattn_problem &p = own.problem;
    apart.out = {workspace.data, workspace.byte_offset + params.tail_out};
    apart.lse = {workspace.data, workspace.byte_offset + params.tail_lse};
    p.out = {HATTN_F32, HATTN_MEMORY_DEVICE, {static_cast<int64_t>(p.num_q_heads) * p.head_dim_v, p.head_dim_v}};
    p.lse.stride[0] = p.num_q_heads;
    p.lse.stride[1] = 1;
    const DeviceError error = kernel.launch(own, apart, workspace, stream, is_dependent);
    return error ? error : launch_tail(params, args, workspace, stream);
}

/* What a decode whose attention has a list hands from kernel to kernel: the caller's buffers, or the workspace's. */
struct ListDecode {
    hattn_cuda_params params;
    hattn_decode_args args;
    bool encodes_heads; /* in a kernel of their own */
    hattn_buffer steps = {}, shares = {}, rests = {};

    ListDecode(const hattn_cuda_params &plan, const hattn_decode_args &given, hattn_buffer workspace)
        : params(plan), args(given)
    {
        hattn_problem &p = params.problem;
        /* What the caller wants to see is of all rows, also of those without keys. */
        params.makes_heads = p.num_candidates && plan.plane_blocks == 2 && encodes_in_score(plan, given) &&
                             !given.head_weights.data && !given.head_steps.data;
        encodes_heads = p.num_candidates && !params.makes_heads;
        auto own = [&](hattn_buffer callers, uint64_t offset, hattn_tensor &tensor, int64_t heads, int64_t last) {
            if (callers.data)
                return callers;
            tensor.stride[0] = heads * last;
            tensor.stride[1] = last;
            return hattn_buffer{workspace.data, workspace.byte_offset + offset};
        };
        args.indices = own(args.indices, plan.own_indices, p.indices, p.num_selection_heads, p.k);
        args.counts = own(args.counts, plan.own_counts, p.counts, p.num_selection_heads, 1);
        if (p.num_candidates) {
            args.head_weights =
                own(args.head_weights, plan.own_head_weights, p.head_weights, p.num_q_heads, p.code_bits);
            args.head_steps = own(args.head_steps, plan.own_head_steps, p.head_steps, p.num_q_heads, 1);
        }
        if (p.tail > 0.0f) {
            const int32_t heads = hattn_heads_of_shares(&p);
            steps = own(args.steps, plan.steps, p.steps, p.num_selection_heads, 1);
            shares = own({}, plan.own_shares, p.shares, heads, p.k);
            rests = own({}, plan.own_rests, p.rests, heads, 1);
        }
    }

    DeviceError encode(DeviceStream stream) const
    {
        hattn_encode_queries_args encode = {};
        encode.num_rows = args.batch.num_rows;
        encode.q = args.q;
        encode.query_map = args.query_map;
        encode.head_slopes = args.head_slopes;
        encode.head_weights = args.head_weights;
        encode.head_steps = args.head_steps;
        return launch_encode_heads(params, encode, stream, true);
    }

    /* When candidates are listed and scored. */
    DeviceError choose(hattn_buffer workspace, DeviceStream stream) const
    {
        hattn_topk_args topk = {};
        topk.batch = args.batch;
        topk.budgets = args.budgets;
        topk.indices = args.indices;
        topk.counts = args.counts;
        topk.steps = steps;
        topk.shares = shares;
        topk.rests = rests;
        topk.head_steps = args.head_steps;
        return launch_choose_heads(params, topk, workspace, stream, false);
    }

    DeviceError attend(hattn_buffer workspace, DeviceStream stream) const
    {
        hattn_attend_args attend = {};
        attend.batch = args.batch;
        attend.q = args.q;
        attend.k_cache = args.k_cache;
        attend.v_cache = args.v_cache;
        attend.k_scale = args.k_scale;
        attend.v_scale = args.v_scale;
        attend.sink_logits = args.sink_logits;
        attend.indices = args.indices;
        attend.counts = args.counts;
        attend.out = args.out;
        attend.lse = args.lse;
        attend.shares = shares;
        attend.rests = rests;
        attend.value_sums = args.value_sums;
        attend.value_lengths = args.value_lengths;
        attend.value_slots = args.value_slots;
        return attend_to_list(params, attend, workspace, stream, true);
    }
};

} // namespace
} // namespace hattn

int hattn::load_plan(hattn_cuda_params *params)
{
    using namespace hattn;
    return first_error({
        find_dependent_launch(params),
        load_encode(*params),
        !params->encodes_keys_by_mma                ? kSuccess
        : params->problem.map_kind == HATTN_MAP_MLP ? load_encode_keys_mlp(*params)
                                                    : load_encode_keys_mma(*params),
        load_score(*params),
        load_topk(*params),
        attentions[params->engine].attend().load(*params),
        params->by_regions ? load_decode(*params) : kSuccess,
        load_merge(),
        params->problem.tail > 0 ? first_error({load_values(*params), load_attend_tails(*params)}) : kSuccess,
    });
}

int hattn::run_attend(const hattn_cuda_params *params, const hattn_attend_args *args, hattn_buffer workspace,
                      void *opaque_stream)
{
    using namespace hattn;
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    const DeviceError error = check_workspace(workspace, stream);
    return error ? error : attend_to_list(*params, *args, workspace, stream, false);
}

int hattn::run_append(const hattn_cuda_params *params, const hattn_decode_args *args, void *stream)
{
    return hattn::launch_append(*params, *args, static_cast<hattn::DeviceStream>(stream));
}

int hattn::run_decode(const hattn_cuda_params *params, const hattn_decode_args *args, hattn_buffer workspace,
                      void *opaque_stream)
{
    using namespace hattn;
    const DeviceStream stream = static_cast<DeviceStream>(opaque_stream);
    DeviceError error = check_workspace(workspace, stream);
    if (!error && args->append)
        error = launch_append(*params, *args, stream);
    if (!error && args->append && params->problem.tail > 0) {
        hattn_sum_values_args sums = {};
        sums.batch = args->batch;
        sums.v_cache = args->v_cache;
        sums.value_slots = args->value_slots;
        sums.value_sums = args->value_sums;
        sums.value_lengths = args->value_lengths;
        error = launch_sum_values(*params, sums, workspace, stream);
    }
    if (!error && !encodes_in_score(*params, *args)) {
        hattn_encode_queries_args encode = {};
        encode.num_rows = args->batch.num_rows;
        encode.q = args->q;
        encode.query_map = args->query_map;
        encode.weights = args->weights;
        encode.slopes = args->slopes;
        encode.steps = args->steps;
        hattn_cuda_params own = *params;
        if (hattn_has_shares(&params->problem) && !args->steps.data) {
            encode.steps = {workspace.data, workspace.byte_offset + params->steps};
            own.problem.steps.stride[0] = params->problem.num_selection_heads;
            own.problem.steps.stride[1] = 1;
        }
        if (!args->weights.data) {
            /* Into the workspace, compact. */
            encode.weights = {workspace.data, workspace.byte_offset + params->weights};
            own.problem.weights.stride[0] =
                static_cast<int64_t>(params->problem.num_selection_heads) * params->problem.code_bits;
            own.problem.weights.stride[1] = params->problem.code_bits;
        }
        error = launch_encode_queries(own, encode, stream);
    }
    const bool has_candidates = params->problem.num_candidates > 0;
    if (!has_candidates && params->problem.min_value_weight == 0.0f)
        return error ? error : run_waves(*params, *args, workspace, stream, [] { return kSuccess; });
    const ListDecode list(*params, *args, workspace);
    if (!error)
        error = run_waves(list.params, list.args, workspace, stream,
                          [&] { return list.encodes_heads ? list.encode(stream) : kSuccess; });
    if (!error && has_candidates)
        error = list.choose(workspace, stream);
    return error ? error : list.attend(workspace, stream);
}

const hattn_cuda_kernels *hattn::kernels()
{
    static const hattn_cuda_kernels table = {vendor::kTargets,
                                             error_text,
                                             device_count,
                                             get_properties,
                                             enter,
                                             leave,
                                             zero,
                                             load_plan,
                                             run_append,
                                             run_encode_keys,
                                             run_encode_queries,
                                             run_score,
                                             run_topk,
                                             run_attend,
                                             run_merge,
                                             run_sum_values,
                                             run_decode,
                                             nullptr};
    return &table;
}
