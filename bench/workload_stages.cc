/* SPDX-License-Identifier: Apache-2.0
 * The stages as calls of the library.
 */
#include <algorithm>

#include "bench/map_layout.h"
#include "bench/workload.h"

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

/* Of a call that starts from a set, with the layer of K and V that the step is at. */
Arguments Workload::arguments(const Set &set) const
{
    Arguments all;
    all.batch = batch();
    all.num_tokens = num_tokens_;
    all.num_parts = num_parts_;
    all.q = set.q.at();
    all.k_cache = k();
    all.v_cache = v();
    all.weights = set.weights.at();
    all.scores = scores_.at();
    all.indices = set.indices.at();
    all.counts = set.counts.at();
    all.slopes = slopes_.at();
    all.steps = set.steps.at();
    all.head_slopes = head_slopes_.at();
    all.head_weights = set.head_weights.at();
    all.head_steps = set.head_steps.at();
    all.shares = set.shares.at();
    all.rests = set.rests.at();
    if (set.value_sums.size()) {
        all.value_sums = set.value_sums.at();
        all.value_lengths = value_lengths_.at();
    }
    all.partial_out = partial_out_.at();
    all.partial_lse = partial_lse_.at();
    all.out = out_.at();
    all.lse = lse_.at();
    return all;
}

Arguments Workload::with_next_codes(Arguments all)
{
    const size_t codes = (code_layer_++ % num_code_layers_) * sizes_.code_layer();
    const size_t query_map = maps_ + (map_layer_++ % num_map_layers_) * sizes_.map_layer();
    const size_t key_map = query_map + sizes_.query_map;
    all.codes = codes_.at(codes);
    if (sizes_.norms)
        all.norms = codes_.at(codes + sizes_.codes);
    bool mlp = shape_.map_kind == HATTN_MAP_MLP;
    walk_map(shape_, shape_.query_map, [&](size_t i, size_t weight, size_t bias) {
        all.query_map.weight[i] = codes_.at(query_map + weight);
        if (mlp) /* linear queries have none */
            all.query_map.bias[i] = codes_.at(query_map + bias);
    });
    walk_map(shape_, shape_.key_map, [&](size_t i, size_t weight, size_t bias) {
        all.key_map.weight[i] = codes_.at(key_map + weight);
        all.key_map.bias[i] = codes_.at(key_map + bias);
    });
    return all;
}

/* Those that were scored last: scores per query head find them as warm as a step does. */
Arguments Workload::with_last_codes(Arguments all) const
{
    all.codes = codes_.at((code_layer_ + num_code_layers_ - 1) % num_code_layers_ * sizes_.code_layer());
    return all;
}

hattn_status Workload::prepare(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    for (const Set &set : sets_) {
        const Arguments all = with_next_codes(arguments(set));
        const auto encode = all.encode_queries_args();
        const auto score = all.score_args();
        const auto topk = all.topk_args();
        hattn_status status = hattn_encode_queries(plan, &encode, exec, error);
        if (status == HATTN_OK)
            status = hattn_score(plan, &score, exec, error);
        if (status == HATTN_OK)
            status = hattn_topk(plan, &topk, exec, error);
        if (status != HATTN_OK)
            return status;
    }
    return HATTN_OK;
}

hattn_status Workload::run(Stage stage, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    const auto call = [&](auto entry, const auto &args) { return entry(plan, &args, exec, error); };
    switch (stage) {
    case ENCODE: return call(hattn_encode_queries, with_next_codes(arguments(next_set())).encode_queries_args());
    case SCORE: return call(hattn_score, with_next_codes(arguments(next_set())).score_args());
    case TOPK: return call(hattn_topk, with_last_codes(arguments(next_set())).topk_args());
    case ATTEND: return call(hattn_attend, arguments(next_set()).attend_args(true));
    case MERGE: return call(hattn_merge, arguments(sets_[0]).merge_args());
    case DECODE: return call(hattn_decode, decode_args());
    case DENSE: return call(hattn_attend, arguments(next_set()).attend_args(false));
    case ENCODE_KEYS: return call(hattn_encode_keys, encode_keys_args());
    case NUM_STAGES: break;
    }
    return HATTN_INVALID_ARGUMENT;
}

/* Nobody looks at weights and selections: a model does not either. */
hattn_decode_args Workload::decode_args()
{
    hattn_decode_args args = with_next_codes(arguments(next_set())).decode_args(append_);
    args.weights = args.indices = args.counts = args.steps = args.head_weights = args.head_steps = {};
    return args;
}

/* Keys out of the rotation, codes into a cache of their own: those of the rotation stay as they are. */
hattn_encode_keys_args Workload::encode_keys_args()
{
    Arguments all = with_next_codes(arguments(sets_[0]));
    const uint64_t last = kv_.size() - uint64_t(num_tokens_) * new_key_bytes();
    all.k_new = kv_.at(std::min<uint64_t>(kv_layer_ * sizes_.kv_layer(), last / ALIGNMENT * ALIGNMENT));
    all.codes = new_codes_.at();
    all.norms = new_norms_.at();
    return all.encode_keys_args();
}
