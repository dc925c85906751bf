/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/lane.h"

#include "core/dtype.h"
#include "core/sized.h"
#include "tools/truth.h"

namespace {

/* Each query's length is passed alone, and GPUs want 16 bytes of alignment. */
const size_t LENGTH_STRIDE = 16 / sizeof(int32_t);

/* A device's call of some microseconds is recorded several times, so that the time stamps around them do not show. */
const int NUM_RECORDED = 20;

uint64_t q_row_bytes(const Trace &trace)
{
    return uint64_t(trace.num_q_heads) * trace.head_dim_qk * size_t(hattn_dtype_size(trace.q_dtype));
}

hattn_map describe_map(const TraceMap &map, const TraceMapSide &side)
{
    hattn_map described = {};
    described.dtype = side.dtype;
    described.hidden[0] = map.hidden[0];
    described.hidden[1] = map.hidden[1];
    return described;
}

hattn_problem describe_problem(const Trace &trace, const TraceMap &map, const LaneSettings &settings)
{
    hattn_problem problem = sized<hattn_problem>();
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
    problem.min_probability = settings.min_probability;
    problem.min_k = settings.min_k;
    problem.tail = settings.tail;
    problem.min_value_weight = settings.min_value_weight;
    problem.num_candidates = settings.num_candidates;
    problem.scale = trace.scale;
    problem.q.dtype = trace.q_dtype;
    problem.k_cache.dtype = trace.kv_dtype;
    problem.out.dtype = HATTN_F32; // so that the output's error is the selection's, not the rounding's
    problem.key_map = describe_map(map, map.key);
    problem.query_map = describe_map(map, map.query);
    /* Fewer bits than the map has: the first columns of its last layer, read in place. */
    const int last = map.kind == HATTN_MAP_MLP ? 2 : 0;
    const int32_t inputs = map.kind == HATTN_MAP_MLP ? map.hidden[1] : trace.head_dim_qk;
    for (hattn_map *side : {&problem.key_map, &problem.query_map}) {
        side->weight_stride[last][0] = int64_t(inputs) * map.bits;
        side->weight_stride[last][1] = map.bits;
        side->bias_stride[last] = map.bits;
    }
    hattn_problem complete = sized<hattn_problem>();
    hattn_error error = {};
    check(hattn_problem_complete(&problem, &complete, &error), error, "the problem of a trace");
    return complete;
}

} // namespace

LaneDevice::LaneDevice(const std::string &backend, const std::string &isa, int32_t threads, const Trace &trace)
    : device_(backend, isa, threads), q_(devices::buffer_of(device_.memory(), trace.q)),
      k_new_(devices::buffer_of(device_.memory(), trace.k))
{
    const size_t size = size_t(hattn_dtype_size(trace.kv_dtype));
    std::vector<uint8_t> k = head_major(trace.k, trace.num_keys, trace.num_kv_heads, trace.head_dim_qk * size);
    std::vector<uint8_t> v = head_major(trace.v, trace.num_keys, trace.num_kv_heads, trace.head_dim_v * size);
    k_cache_ = devices::buffer_of(device_.memory(), k);
    v_cache_ = devices::buffer_of(device_.memory(), v);
    std::vector<int32_t> lengths(trace.q_pos.size() * LENGTH_STRIDE);
    for (size_t query = 0; query < trace.q_pos.size(); query++)
        lengths[query * LENGTH_STRIDE] = trace.q_pos[query] + 1;
    seq_len_ = devices::buffer_of(device_.memory(), lengths);
}

Lane::Lane(const LaneDevice &device, const Trace &trace, const TraceMap &map, const LaneSettings &settings)
    : device_(device), trace_(trace), threads_(settings.threads), problem_(describe_problem(trace, map, settings)),
      plan_(device.device(), problem_, settings.threads)
{
    const TraceMapSide *sides[2] = {&map.key, &map.query};
    hattn_map_buffers *buffers[2] = {&key_map_, &query_map_};
    for (int side = 0; side < 2; side++)
        for (int layer = 0; layer < 3; layer++) {
            map_memory_[side][layer] = devices::buffer_of(memory(), sides[side]->weight[layer]);
            map_memory_[side][layer + 3] = devices::buffer_of(memory(), sides[side]->bias[layer]);
            buffers[side]->weight[layer] = map_memory_[side][layer].at();
            buffers[side]->bias[layer] = map_memory_[side][layer + 3].at();
        }
    const uint64_t num_keys = trace.num_keys, words = (problem_.code_bits + 31) / 32;
    codes_ = devices::Buffer(memory(), num_keys * problem_.num_code_heads * words * sizeof(uint32_t));
    if (settings.norms)
        norms_ = devices::Buffer(memory(), num_keys * problem_.num_code_heads * sizeof(uint16_t));
    weights_ = devices::Buffer(memory(), uint64_t(problem_.num_selection_heads) * problem_.code_bits);
    if (problem_.tail > 0) {
        value_sums_ =
            devices::Buffer(memory(), uint64_t(problem_.num_kv_heads) * problem_.head_dim_v * sizeof(int64_t));
        value_lengths_ = devices::buffer_of(memory(), std::vector<int32_t>(problem_.num_kv_heads));
    }
    if (problem_.num_candidates) {
        head_slope_values_ = map.head_slopes;
        head_slopes_ = devices::buffer_of(memory(), head_slope_values_);
        head_weights_ = devices::Buffer(memory(), uint64_t(problem_.num_q_heads) * problem_.code_bits);
        head_steps_ = devices::Buffer(memory(), problem_.num_q_heads * sizeof(int32_t));
    }
    if (problem_.tail > 0 || (problem_.min_probability > 0 && !problem_.num_candidates)) {
        slope_values_ = map.slopes_of(problem_.score_kind);
        slopes_ = devices::buffer_of(memory(), slope_values_);
        steps_ = devices::Buffer(memory(), problem_.num_selection_heads * sizeof(int32_t));
    }
    indices_ = devices::Buffer(memory(), uint64_t(problem_.num_selection_heads) * problem_.k * sizeof(int32_t));
    counts_ = devices::Buffer(memory(), problem_.num_selection_heads * sizeof(int32_t));
    out_ = devices::Buffer(memory(), uint64_t(problem_.num_q_heads) * problem_.head_dim_v * sizeof(float));
    lse_ = devices::Buffer(memory(), problem_.num_q_heads * sizeof(float));
}

void Lane::set_min_probability(float min_probability)
{
    problem_.min_probability = min_probability;
    plan_ = Plan(device_.device(), problem_, threads_);
}

void Lane::set_min_value_weight(float min_value_weight)
{
    problem_.min_value_weight = min_value_weight;
    plan_ = Plan(device_.device(), problem_, threads_);
}

Arguments Lane::arguments(int query) const
{
    Arguments all;
    all.batch.num_sequences = all.batch.num_rows = all.batch.q_len = 1;
    all.batch.seq_len = device_.seq_len_.at(query * LENGTH_STRIDE * sizeof(int32_t));
    all.num_tokens = trace_.num_keys;
    all.q = device_.q_.at(query * q_row_bytes(trace_));
    all.k_new = device_.k_new_.at();
    all.k_cache = device_.k_cache_.at();
    all.v_cache = device_.v_cache_.at();
    all.codes = codes_.at();
    all.norms = norms_.at();
    all.weights = weights_.at();
    all.slopes = slopes_.at();
    all.steps = steps_.at();
    all.indices = indices_.at();
    all.counts = counts_.at();
    all.out = out_.at();
    all.lse = lse_.at();
    all.value_sums = value_sums_.at();
    all.value_lengths = value_lengths_.at();
    all.head_weights = head_weights_.at();
    all.head_slopes = head_slopes_.at();
    all.head_steps = head_steps_.at();
    all.key_map = key_map_;
    all.query_map = query_map_;
    return all;
}

void Lane::encode_keys()
{
    const hattn_encode_keys_args args = arguments(0).encode_keys_args();
    hattn_error error = {};
    check(hattn_encode_keys(plan_.get(), &args, plan_.exec(), &error), error, "encode_keys");
    encoded_codes_ = codes_.contents<uint32_t>();
    encoded_norms_ = norms_.contents<uint16_t>();
}

EncodedQuery Lane::encode_query(int query)
{
    const hattn_encode_queries_args args = arguments(query).encode_queries_args();
    hattn_error error = {};
    check(hattn_encode_queries(plan_.get(), &args, plan_.exec(), &error), error, "encode_queries");
    return {weights_.contents<int8_t>(), steps_.contents<int32_t>(), head_weights_.contents<int8_t>(),
            head_steps_.contents<int32_t>()};
}

double Lane::time(const std::function<void()> &call) const
{
    const int repeats = device_.device().has_own_memory() ? NUM_RECORDED : 1;
    const auto recording = device_.device().stopwatch().record([&] {
        for (int i = 0; i < repeats; i++)
            call();
    });
    return recording->replay() / repeats;
}

void Lane::sum_values(int query) const
{
    if (problem_.tail == 0)
        return;
    const hattn_sum_values_args args = arguments(query).sum_values_args();
    hattn_error error = {};
    check(hattn_sum_values(plan_.get(), &args, plan_.exec(), &error), error, "sum_values");
}

StepResult Lane::decode(int query)
{
    sum_values(query);
    const hattn_decode_args args = arguments(query).decode_args(false);
    hattn_error error = {};
    const double time_us =
        time([&] { check(hattn_decode(plan_.get(), &args, plan_.exec(), &error), error, "decode"); });
    return {time_us,
            {weights_.contents<int8_t>(), steps_.contents<int32_t>(), head_weights_.contents<int8_t>(),
             head_steps_.contents<int32_t>()},
            indices_.contents<int32_t>(),
            counts_.contents<int32_t>(),
            out_.contents<float>(),
            lse_.contents<float>(),
            {},
            {}};
}

StepResult Lane::attend_dense(int query)
{
    const hattn_attend_args args = arguments(query).attend_args(false);
    hattn_error error = {};
    const double time_us =
        time([&] { check(hattn_attend(plan_.get(), &args, plan_.exec(), &error), error, "attend"); });
    return {time_us, {}, {}, {}, out_.contents<float>(), lse_.contents<float>(), {}, {}};
}

devices::Buffer Lane::score(int query, const std::vector<int8_t> &weights, const Lane &codes) const
{
    const devices::Buffer weight_memory = devices::buffer_of(memory(), weights);
    const devices::Buffer code_memory = devices::buffer_of(memory(), codes.encoded_codes_);
    const devices::Buffer norm_memory = devices::buffer_of(memory(), codes.encoded_norms_);
    devices::Buffer scores(memory(), uint64_t(problem_.num_selection_heads) * problem_.max_length *
                                         size_t(hattn_dtype_size(problem_.scores.dtype)));
    Arguments all = arguments(query);
    all.weights = weight_memory.at();
    all.codes = code_memory.at();
    all.norms = norm_memory.at();
    all.scores = scores.at();
    const hattn_score_args args = all.score_args();
    hattn_error error = {};
    check(hattn_score(plan_.get(), &args, plan_.exec(), &error), error, "score");
    return scores;
}

StepResult Lane::select(int query, const EncodedQuery &encoded, const Lane &codes) const
{
    const devices::Buffer scores = score(query, encoded.weights, codes);
    const devices::Buffer step_memory = devices::buffer_of(memory(), encoded.steps);
    const devices::Buffer indices(memory(), indices_.size()), counts(memory(), counts_.size());
    const bool has_tail = problem_.tail > 0;
    const uint64_t told = problem_.num_candidates ? problem_.num_q_heads : problem_.num_selection_heads;
    const devices::Buffer shares(memory(), has_tail ? told * problem_.k * sizeof(uint32_t) : 0),
        rests(memory(), has_tail ? told * sizeof(int64_t) : 0);
    const devices::Buffer code_memory = devices::buffer_of(memory(), codes.encoded_codes_),
                          head_weights = devices::buffer_of(memory(), encoded.head_weights),
                          head_steps = devices::buffer_of(memory(), encoded.head_steps);
    Arguments all = arguments(query);
    all.scores = scores.at();
    all.steps = step_memory.at();
    all.indices = indices.at();
    all.counts = counts.at();
    all.shares = shares.at();
    all.rests = rests.at();
    all.codes = code_memory.at();
    all.head_weights = head_weights.at();
    all.head_steps = head_steps.at();
    const hattn_topk_args args = all.topk_args();
    hattn_error error = {};
    check(hattn_topk(plan_.get(), &args, plan_.exec(), &error), error, "topk");
    return {0,  encoded, indices.contents<int32_t>(), counts.contents<int32_t>(),
            {}, {},      shares.contents<uint32_t>(), rests.contents<int64_t>()};
}

const uint32_t *Lane::code(int head, int64_t key) const
{
    return encoded_codes_.data() + problem_.codes.stride[2] * head + problem_.codes.stride[1] * key;
}

uint16_t Lane::norm(int head, int64_t key) const
{
    return encoded_norms_[problem_.norms.stride[2] * head + problem_.norms.stride[1] * key];
}
