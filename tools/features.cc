/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/features.h"

#include <algorithm>

using problems::Budgets;
using problems::Problem;

namespace {

using P = const Problem &;

const std::vector<std::string> ENCODE = {"encode_keys", "encode_queries"}, ATTEND = {"attend_sparse", "attend_dense"},
                               DECODE = {"decode"};

bool is_ragged(P p)
{
    return std::adjacent_find(p.q_lens.begin(), p.q_lens.end(), std::not_equal_to<int>()) != p.q_lens.end();
}
bool has_several_tokens(P p)
{
    return p.q_len > 1 || std::any_of(p.q_lens.begin(), p.q_lens.end(), [](int length) { return length > 1; });
}

} // namespace

const std::vector<Feature> &all_features()
{
    static const std::vector<Feature> features = {
        {"encode", "linear maps", ENCODE, [](P p) { return p.map_kind == HATTN_MAP_LINEAR; }},
        {"encode", "linear maps with a bias", ENCODE, [](P p) { return p.map_kind == HATTN_MAP_LINEAR && p.key_bias; }},
        {"encode", "MLP maps", ENCODE, [](P p) { return p.map_kind == HATTN_MAP_MLP; }},
        {"encode", "fp8 keys", {"encode_keys"}, [](P p) { return p.kv_dtype == HATTN_F8_E4M3; }},
        {"encode", "norms", {"encode_keys"}, [](P p) { return p.key_norms; }},
        {"encode", "slot mapping", {"encode_keys"}, [](P p) { return p.slot_mapping; }},
        {"score", "hamming", {"score"}, [](P p) { return p.score_kind == HATTN_SCORE_HAMMING; }},
        {"score", "weighted, 2 to 8 bits", {"score"}, [](P p) { return p.score_kind == HATTN_SCORE_WEIGHTED; }},
        {"score", "norms", {"score"}, [](P p) { return p.key_norms; }},
        {"score", "codes per query head", {"score"}, [](P p) { return p.codes_per_query_head; }},
        {"score", "selections per query head", {"score"}, [](P p) { return p.selections_per_query_head; }},
        {"top-k", "integer scores", {"topk"}, [](P p) { return !p.key_norms; }},
        {"top-k", "fp32 scores", {"topk"}, [](P p) { return p.key_norms; }},
        {"top-k", "sinks and recents", {"topk"}, [](P p) { return p.num_sink || p.num_recent; }},
        {"top-k", "budgets per sequence or head", {"topk"}, [](P p) { return p.budgets != Budgets::NONE; }},
        {"top-k", "floors of probability", {"topk"}, [](P p) { return p.min_probability > 0; }},
        {"top-k", "scores per query head", {"topk"}, [](P p) { return p.num_candidates > 0; }},
        {"attend, sparse and dense", "fp32 K and V", ATTEND, [](P p) { return p.kv_dtype == HATTN_F32; }},
        {"attend, sparse and dense", "fp16 K and V", ATTEND, [](P p) { return p.kv_dtype == HATTN_F16; }},
        {"attend, sparse and dense", "bf16 K and V", ATTEND, [](P p) { return p.kv_dtype == HATTN_BF16; }},
        {"attend, sparse and dense", "fp8 e4m3 K and V", ATTEND, [](P p) { return p.kv_dtype == HATTN_F8_E4M3; }},
        {"attend, sparse and dense", "soft cap", ATTEND, [](P p) { return p.soft_cap > 0; }},
        {"attend, sparse and dense", "sink logits", ATTEND, [](P p) { return p.sink_logits; }},
        {"attend, sparse and dense", "V inside K", ATTEND, [](P p) { return p.v_inside_k; }},
        {"attend, sparse and dense", "tails", {"attend_sparse"}, [](P p) { return p.tail > 0; }},
        {"attend, sparse and dense",
         "values of small weight not read",
         {"attend_sparse"},
         [](P p) { return p.min_value_weight > 0; }},
        {"attend, sparse and dense", "K and V on the host", ATTEND, [](P p) { return p.kv_on_host; }},
        {"merge", "parts, empty ones too", {"merge"}, [](P) { return true; }},
        {"decode", "paged caches", DECODE, [](P p) { return p.page_size > 0; }},
        {"decode", "contiguous caches", DECODE, [](P p) { return p.page_size == 0; }},
        {"decode", "2 to 8 query tokens a sequence", DECODE, has_several_tokens},
        {"decode", "ragged batches", DECODE, is_ragged},
        {"decode", "padded rows", DECODE, [](P p) { return p.padding_rows > 0; }},
        {"decode", "sums of values, for tails", {"sum_values"}, [](P) { return true; }},
        {"decode", "append", {"decode_append"}, [](P) { return true; }},
    };
    return features;
}
