/* SPDX-License-Identifier: Apache-2.0
 * The stages as calls of the library.
 */
#include <algorithm>

#include "bench/map_layout.h"
#include "bench/workload.h"
#include "core/sized.h"

const char *const STAGE_NAMES[NUM_STAGES] = {"encode", "score",  "topk",  "attend",
                                             "merge",  "decode", "dense", "encode_keys"};

hattn_batch Workload::batch() const
{
    hattn_batch batch = {};
    batch.num_sequences = num_sequences_;
    batch.num_rows = int32_t(num_rows_);
    batch.q_len = q_start_.size() ? 0 : q_len_;
    batch.q_start = q_start_.at();
    batch.seq_len = seq_len_.at();
    batch.block_table = block_table_.at();
    return batch;
}

Workload::CodeLayer Workload::next_code_layer()
{
    const size_t codes = (code_layer_++ % num_code_layers_) * sizes_.code_layer();
    const size_t query_map = maps_ + (map_layer_++ % num_map_layers_) * sizes_.map_layer();
    const size_t key_map = query_map + sizes_.query_map;
    CodeLayer layer = {};
    layer.codes = codes_.at(codes);
    if (sizes_.norms)
        layer.norms = codes_.at(codes + sizes_.codes);
    bool mlp = shape_.map_kind == HATTN_MAP_MLP;
    walk_map(shape_, shape_.query_map, [&](size_t i, size_t weight, size_t bias) {
        layer.query_map.weight[i] = codes_.at(query_map + weight);
        if (mlp) /* linear queries have none */
            layer.query_map.bias[i] = codes_.at(query_map + bias);
    });
    walk_map(shape_, shape_.key_map, [&](size_t i, size_t weight, size_t bias) {
        layer.key_map.weight[i] = codes_.at(key_map + weight);
        layer.key_map.bias[i] = codes_.at(key_map + bias);
    });
    return layer;
}

hattn_status Workload::prepare(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    for (Set &set : sets_) {
        CodeLayer layer = next_code_layer();
        hattn_status status = encode(layer, set, plan, exec, error);
        if (status == HATTN_OK)
            status = score(layer, set, plan, exec, error);
        if (status == HATTN_OK)
            status = topk(set, plan, exec, error);
        if (status != HATTN_OK)
            return status;
    }
    return HATTN_OK;
}

hattn_status Workload::run(Stage stage, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    switch (stage) {
    case ENCODE: return encode(next_code_layer(), next_set(), plan, exec, error);
    case SCORE: return score(next_code_layer(), next_set(), plan, exec, error);
    case TOPK: return topk(next_set(), plan, exec, error);
    case ATTEND: return attend(next_set(), false, plan, exec, error);
    case MERGE: return merge(plan, exec, error);
    case DECODE: return decode(next_code_layer(), next_set(), plan, exec, error);
    case DENSE: return attend(next_set(), true, plan, exec, error);
    case ENCODE_KEYS: return encode_keys(next_code_layer(), plan, exec, error);
    case NUM_STAGES: break;
    }
    return HATTN_INVALID_ARGUMENT;
}

hattn_status Workload::encode(const CodeLayer &layer, Set &set, const hattn_plan *plan, const hattn_exec *exec,
                              hattn_error *error)
{
    auto args = sized<hattn_encode_queries_args>();
    args.num_rows = int32_t(num_rows_);
    args.q = set.q.at();
    args.query_map = layer.query_map;
    args.weights = set.weights.at();
    return hattn_encode_queries(plan, &args, exec, error);
}

hattn_status Workload::score(const CodeLayer &layer, Set &set, const hattn_plan *plan, const hattn_exec *exec,
                             hattn_error *error)
{
    auto args = sized<hattn_score_args>();
    args.batch = batch();
    args.weights = set.weights.at();
    args.codes = layer.codes;
    args.norms = layer.norms;
    args.scores = scores_.at();
    return hattn_score(plan, &args, exec, error);
}

hattn_status Workload::topk(Set &set, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    auto args = sized<hattn_topk_args>();
    args.batch = batch();
    args.batch.block_table.data = nullptr;
    args.scores = scores_.at();
    args.indices = set.indices.at();
    args.counts = set.counts.at();
    return hattn_topk(plan, &args, exec, error);
}

hattn_status Workload::attend(Set &set, bool dense, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    auto args = sized<hattn_attend_args>();
    args.batch = batch();
    args.q = set.q.at();
    args.k_cache = k();
    args.v_cache = v();
    if (!dense) {
        args.indices = set.indices.at();
        args.counts = set.counts.at();
    }
    args.out = out_.at();
    args.lse = lse_.at();
    return hattn_attend(plan, &args, exec, error);
}

hattn_status Workload::merge(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    auto args = sized<hattn_merge_args>();
    args.num_parts = num_parts_;
    args.num_rows = int32_t(num_rows_);
    args.partial_out = partial_out_.at();
    args.partial_lse = partial_lse_.at();
    args.out = out_.at();
    args.lse = lse_.at();
    return hattn_merge(plan, &args, exec, error);
}

hattn_status Workload::decode(const CodeLayer &layer, Set &set, const hattn_plan *plan, const hattn_exec *exec,
                              hattn_error *error)
{
    auto args = sized<hattn_decode_args>();
    args.batch = batch();
    args.q = set.q.at();
    args.k_cache = k();
    args.v_cache = v();
    args.codes = layer.codes;
    args.norms = layer.norms;
    args.query_map = layer.query_map;
    args.append = append_;
    args.key_map = layer.key_map;
    args.out = out_.at();
    args.lse = lse_.at();
    return hattn_decode(plan, &args, exec, error);
}

/* Keys out of the rotation, codes into a cache of their own: those of the rotation stay as they are. */
hattn_status Workload::encode_keys(const CodeLayer &layer, const hattn_plan *plan, const hattn_exec *exec,
                                   hattn_error *error)
{
    auto args = sized<hattn_encode_keys_args>();
    args.num_tokens = num_tokens_;
    const uint64_t last = kv_.size() - uint64_t(num_tokens_) * new_key_bytes();
    args.k_new = kv_.at(std::min<uint64_t>(kv_layer_ * sizes_.kv_layer(), last / ALIGNMENT * ALIGNMENT));
    args.key_map = layer.key_map;
    args.codes = new_codes_.at();
    args.norms = new_norms_.at();
    return hattn_encode_keys(plan, &args, exec, error);
}
