/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/lane.h"

#include <chrono>

#include "tools/truth.h"

LaneDevice::LaneDevice(const std::string &backend, const std::string &isa, int32_t threads, const Trace &trace)
    : device_(backend, isa, threads), q_(trace.q.data(), trace.q.size()), k_new_(trace.k.data(), trace.k.size())
{
    const size_t size = library_dtype_size(trace.kv_dtype);
    std::vector<uint8_t> k = head_major(trace.k, trace.num_keys, trace.num_kv_heads, trace.head_dim_qk * size);
    std::vector<uint8_t> v = head_major(trace.v, trace.num_keys, trace.num_kv_heads, trace.head_dim_v * size);
    k_cache_ = Buffer(k.data(), k.size());
    v_cache_ = Buffer(v.data(), v.size());
    std::vector<int32_t> lengths;
    for (int32_t position : trace.q_pos)
        lengths.push_back(position + 1);
    seq_len_ = Buffer(lengths.data(), lengths.size() * sizeof(lengths[0]));
}

static hattn_map describe_map(const TraceMap &map, const TraceMapSide &side)
{
    hattn_map described = {};
    described.dtype = side.dtype;
    described.hidden[0] = map.hidden[0];
    described.hidden[1] = map.hidden[1];
    return described;
}

static hattn_problem describe_problem(const Trace &trace, const TraceMap &map, const LaneSettings &settings)
{
    hattn_problem problem;
    hattn_problem_init(&problem);
    problem.num_q_heads = trace.num_q_heads;
    problem.num_kv_heads = trace.num_kv_heads;
    problem.num_code_heads = map.num_heads;
    problem.num_selection_heads = settings.num_selection_heads;
    problem.head_dim_qk = trace.head_dim_qk;
    problem.head_dim_v = trace.head_dim_v;
    problem.code_bits = settings.bits;
    problem.map_kind = map.kind;
    problem.score_kind = settings.score_kind;
    problem.key_norms = settings.norms;
    problem.max_sequences = 1;
    problem.max_length = trace.num_keys;
    problem.k = settings.topk;
    problem.num_sink = settings.sink;
    problem.num_recent = settings.recent;
    problem.scale = trace.scale;
    problem.q.dtype = trace.q_dtype;
    problem.k_cache.dtype = trace.kv_dtype;
    problem.out.dtype = HATTN_F32; // so that the output's error is the selection's, not the rounding's
    problem.key_map = describe_map(map, map.key);
    problem.query_map = describe_map(map, map.query);
    hattn_problem_set_defaults(&problem);
    /* Fewer bits than the map has: the first columns of its last layer, read in place. */
    const int last = map.kind == HATTN_MAP_MLP ? 2 : 0;
    const int32_t inputs = map.kind == HATTN_MAP_MLP ? map.hidden[1] : trace.head_dim_qk;
    for (hattn_map *side : {&problem.key_map, &problem.query_map}) {
        side->weight_stride[last][0] = static_cast<int64_t>(inputs) * map.bits;
        side->weight_stride[last][1] = map.bits;
        side->bias_stride[last] = map.bits;
    }
    return problem;
}

Lane::Lane(const LaneDevice &device, const Trace &trace, const TraceMap &map, const LaneSettings &settings)
    : device_(device), trace_(trace), problem_(describe_problem(trace, map, settings)),
      plan_(device.device(), problem_, settings.threads)
{
    const TraceMapSide *sides[2] = {&map.key, &map.query};
    hattn_map_buffers *buffers[2] = {&key_map_, &query_map_};
    for (int side = 0; side < 2; side++)
        for (int layer = 0; layer < 3; layer++) {
            const std::vector<uint8_t> &weight = sides[side]->weight[layer], &bias = sides[side]->bias[layer];
            map_memory_[side][layer] = Buffer(weight.data(), weight.size());
            map_memory_[side][layer + 3] = Buffer(bias.data(), bias.size());
            buffers[side]->weight[layer] = map_memory_[side][layer].at();
            buffers[side]->bias[layer] = map_memory_[side][layer + 3].at();
        }
    const uint64_t num_keys = trace.num_keys, words = (problem_.code_bits + 31) / 32;
    codes_ = Buffer(num_keys * problem_.num_code_heads * words * sizeof(uint32_t));
    if (settings.norms)
        norms_ = Buffer(num_keys * problem_.num_code_heads * sizeof(uint16_t));
    weights_ = Buffer(static_cast<uint64_t>(problem_.num_selection_heads) * problem_.code_bits);
    indices_ = Buffer(static_cast<uint64_t>(problem_.num_selection_heads) * problem_.k * sizeof(int32_t));
    counts_ = Buffer(problem_.num_selection_heads * sizeof(int32_t));
    out_ = Buffer(static_cast<uint64_t>(problem_.num_q_heads) * problem_.head_dim_v * sizeof(float));
    lse_ = Buffer(problem_.num_q_heads * sizeof(float));
}

hattn_batch Lane::batch(int query) const
{
    hattn_batch batch = {};
    batch.num_sequences = batch.num_rows = batch.q_len = 1;
    batch.seq_len = device_.seq_len_.at(query * sizeof(int32_t));
    return batch;
}

static uint64_t q_row_bytes(const Trace &trace)
{
    return static_cast<uint64_t>(trace.num_q_heads) * trace.head_dim_qk * library_dtype_size(trace.q_dtype);
}

void Lane::encode_keys()
{
    hattn_encode_keys_args args = sized<hattn_encode_keys_args>();
    args.num_tokens = trace_.num_keys;
    args.k_new = device_.k_new_.at();
    args.key_map = key_map_;
    args.codes = codes_.at();
    args.norms = norms_.at();
    hattn_error error = sized<hattn_error>();
    check(hattn_encode_keys(plan_.get(), &args, plan_.exec(), &error), error, "encode_keys");
}

template <typename Element>
static std::vector<Element> contents(const Buffer &buffer)
{
    return std::vector<Element>(buffer.as<Element>(), buffer.as<Element>() + buffer.size() / sizeof(Element));
}

std::vector<int8_t> Lane::encode_query(int query)
{
    hattn_encode_queries_args args = sized<hattn_encode_queries_args>();
    args.num_rows = 1;
    args.q = device_.q_.at(query * q_row_bytes(trace_));
    args.query_map = query_map_;
    args.weights = weights_.at();
    hattn_error error = sized<hattn_error>();
    check(hattn_encode_queries(plan_.get(), &args, plan_.exec(), &error), error, "encode_queries");
    return contents<int8_t>(weights_);
}

static double microseconds_since(std::chrono::steady_clock::time_point start)
{
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

StepResult Lane::decode(int query)
{
    hattn_decode_args args = sized<hattn_decode_args>();
    args.batch = batch(query);
    args.q = device_.q_.at(query * q_row_bytes(trace_));
    args.k_cache = device_.k_cache_.at();
    args.v_cache = device_.v_cache_.at();
    args.codes = codes_.at();
    args.norms = norms_.at();
    args.query_map = query_map_;
    args.out = out_.at();
    args.lse = lse_.at();
    args.weights = weights_.at();
    args.indices = indices_.at();
    args.counts = counts_.at();
    hattn_error error = sized<hattn_error>();
    const auto start = std::chrono::steady_clock::now();
    const hattn_status status = hattn_decode(plan_.get(), &args, plan_.exec(), &error);
    const double time_us = microseconds_since(start);
    check(status, error, "decode");
    return {time_us,
            contents<int8_t>(weights_),
            contents<int32_t>(indices_),
            contents<int32_t>(counts_),
            contents<float>(out_),
            contents<float>(lse_)};
}

StepResult Lane::attend_dense(int query)
{
    hattn_attend_args args = sized<hattn_attend_args>();
    args.batch = batch(query);
    args.q = device_.q_.at(query * q_row_bytes(trace_));
    args.k_cache = device_.k_cache_.at();
    args.v_cache = device_.v_cache_.at();
    args.out = out_.at();
    args.lse = lse_.at();
    hattn_error error = sized<hattn_error>();
    const auto start = std::chrono::steady_clock::now();
    const hattn_status status = hattn_attend(plan_.get(), &args, plan_.exec(), &error);
    const double time_us = microseconds_since(start);
    check(status, error, "attend");
    return {time_us, {}, {}, {}, contents<float>(out_), contents<float>(lse_)};
}

StepResult Lane::select(int query, const std::vector<int8_t> &weights, const Lane &codes) const
{
    Buffer weight_memory(weights.data(), weights.size());
    Buffer scores(static_cast<uint64_t>(problem_.num_selection_heads) * problem_.max_length *
                  library_dtype_size(problem_.scores.dtype));
    hattn_score_args score = sized<hattn_score_args>();
    score.batch = batch(query);
    score.weights = weight_memory.at();
    score.codes = codes.codes_.at();
    score.norms = codes.norms_.at();
    score.scores = scores.at();
    hattn_topk_args topk = sized<hattn_topk_args>();
    topk.batch = score.batch;
    topk.scores = scores.at();
    Buffer indices(indices_.size()), counts(counts_.size());
    topk.indices = indices.at();
    topk.counts = counts.at();
    hattn_error error = sized<hattn_error>();
    check(hattn_score(plan_.get(), &score, plan_.exec(), &error), error, "score");
    check(hattn_topk(plan_.get(), &topk, plan_.exec(), &error), error, "topk");
    return {0, weights, contents<int32_t>(indices), contents<int32_t>(counts), {}, {}};
}

const uint32_t *Lane::code(int head, int64_t key) const
{
    return codes_.as<uint32_t>() + problem_.codes.stride[2] * head + problem_.codes.stride[1] * key;
}

uint16_t Lane::norm(int head, int64_t key) const
{
    return norms_.as<uint16_t>()[problem_.norms.stride[2] * head + problem_.norms.stride[1] * key];
}
