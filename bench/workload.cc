/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/workload.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>

#include "conformance/instance.h"

const char *const STAGE_NAMES[NUM_STAGES] = {"encode", "score",  "topk",  "attend",
                                             "merge",  "decode", "dense", "encode_keys"};

enum { NUM_SETS = 8, ALIGNMENT = 256, CLUSTER = 64 /* keys of a run with Pattern::CLUSTERED */ };

static size_t round_up(size_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t map_layers(const hattn_problem &shape)
{
    return shape.map_kind == HATTN_MAP_MLP ? 3 : 1;
}

/* Inputs of layer i of a map, and with i = the number of layers its outputs. */
static size_t map_width(const hattn_problem &shape, const hattn_map &map, size_t i)
{
    return size_t(i == 0 ? shape.head_dim_qk : i == map_layers(shape) ? shape.code_bits : map.hidden[i - 1]);
}

/* Weights and biases, aligned: calls fn(layer, offset of weights, offset of biases) for each layer, returns the end. */
template <typename Fn>
static size_t walk_map(const hattn_problem &shape, const hattn_map &map, Fn fn)
{
    size_t heads = size_t(shape.num_code_heads), element = dtype_bytes(map.dtype), used = 0;
    for (size_t i = 0; i < map_layers(shape); i++) {
        size_t weight = used;
        used += round_up(heads * map_width(shape, map, i) * map_width(shape, map, i + 1) * element);
        size_t bias = used;
        used += round_up(heads * map_width(shape, map, i + 1) * element);
        fn(i, weight, bias);
    }
    return used;
}

/* What a call reads of a map. */
static double map_bytes(const hattn_problem &shape, const hattn_map &map, bool biases)
{
    double elements = 0;
    for (size_t i = 0; i < map_layers(shape); i++)
        elements += double((map_width(shape, map, i) + biases) * map_width(shape, map, i + 1));
    return elements * shape.num_code_heads * double(dtype_bytes(map.dtype));
}

static hattn_problem shape_of(const conformance::Problem &problem)
{
    const bool plain = problem.strides == conformance::Strides::COMPACT &&
                       problem.budgets == conformance::Budgets::NONE &&
                       problem.kv_scales == conformance::Scales::NONE && !problem.sink_logits && problem.q_lens.empty();
    const bool pattern =
        problem.pattern == conformance::Pattern::RANDOM || problem.pattern == conformance::Pattern::CLUSTERED;
    if (!plain || !pattern)
        throw std::logic_error(problem.name + " asks for data that benchmarks do not make");
    return conformance::make_shape(problem, 0); /* compact caches: the number of pages is in no stride */
}

Workload::Sizes::Sizes(const hattn_problem &shape, const conformance::Problem &problem) : num_pages(0)
{
    size_t slots = size_t(shape.page_size ? shape.page_size : shape.max_length);
    for (int length : problem.lengths)
        num_pages += (size_t(length) + slots - 1) / slots;
    size_t total = num_pages * slots, words = (size_t(shape.code_bits) + 31) / 32;
    size_t kv_heads = size_t(shape.num_kv_heads), code_heads = size_t(shape.num_code_heads);
    k = round_up(total * kv_heads * size_t(shape.head_dim_qk) * dtype_bytes(shape.k_cache.dtype));
    v = problem.v_inside_k ? 0
                           : round_up(total * kv_heads * size_t(shape.head_dim_v) * dtype_bytes(shape.v_cache.dtype));
    codes = round_up(total * code_heads * words * 4);
    norms = shape.key_norms ? round_up(total * code_heads * 2) : 0;
    query_map = walk_map(shape, shape.query_map, [](size_t, size_t, size_t) {});
    key_map = walk_map(shape, shape.key_map, [](size_t, size_t, size_t) {});
}

size_t Workload::layer_bytes(const conformance::Problem &problem)
{
    Sizes sizes(shape_of(problem), problem);
    return sizes.kv_layer() + sizes.code_layer();
}

/* Runs of keys whose codes differ in a few bits: selections then come in runs too. */
static void cluster_codes(uint8_t *codes, size_t num_codes, size_t num_words)
{
    std::mt19937 random(8);
    std::vector<uint32_t> first(num_words);
    for (size_t i = 0; i < num_codes; i++) {
        uint8_t *code = codes + i * num_words * 4;
        if (i % CLUSTER == 0)
            std::memcpy(first.data(), code, num_words * 4);
        for (size_t w = 0; w < num_words; w++) {
            uint32_t word = uint32_t(random()); /* four of them: a bit in 16 flips */
            for (int draw = 0; draw < 3; draw++)
                word &= uint32_t(random());
            word ^= first[w];
            std::memcpy(code + w * 4, &word, 4);
        }
    }
}

static size_t num_layers(size_t target, size_t limit, size_t layer, bool *short_of_memory)
{
    size_t wanted = std::max<size_t>(2, (target + layer - 1) / layer);
    size_t layers = std::max<size_t>(1, std::min(wanted, limit / layer));
    *short_of_memory |= layers < wanted;
    return layers;
}

Workload::Workload(const conformance::Problem &problem, size_t memory_limit)
    : shape_(shape_of(problem)), sizes_(shape_, problem), num_sequences_(int(problem.lengths.size())),
      q_len_(problem.q_len), num_tokens_(problem.num_tokens), num_parts_(problem.num_parts), append_(problem.append),
      num_rows_(int64_t(num_sequences_) * q_len_),
      num_keys_(std::accumulate(problem.lengths.begin(), problem.lengths.end(), int64_t(0))), short_of_memory_(false),
      seq_len_(problem.lengths.begin(), problem.lengths.end())
{
    const size_t caches = 3 * last_level_cache();
    const size_t code_limit = std::max(memory_limit / 4, sizes_.code_layer());
    num_code_layers_ = num_layers(caches, code_limit, sizes_.code_layer(), &short_of_memory_);
    size_t codes = num_code_layers_ * sizes_.code_layer();
    size_t kv_limit = memory_limit > codes ? memory_limit - codes : 0;
    num_kv_layers_ = num_layers(std::max(size_t(1) << 30, caches), kv_limit, sizes_.kv_layer(), &short_of_memory_);
    kv_.reset(new Arena(num_kv_layers_ * sizes_.kv_layer()));
    codes_.reset(new Arena(codes));
    fill_values(kv_->data(), kv_->size(), shape_.k_cache.dtype, 1);
    fill_bits(codes_->data(), codes_->size(), 2);
    const size_t words = (size_t(shape_.code_bits) + 31) / 32;
    for (size_t layer = 0; layer < num_code_layers_; layer++) {
        uint8_t *data = codes_->data() + layer * sizes_.code_layer();
        if (problem.pattern == conformance::Pattern::CLUSTERED)
            cluster_codes(data, sizes_.codes / words / 4, words);
        data += sizes_.codes;
        fill_values(data, sizes_.norms, HATTN_F16, 3);
        for (size_t i = 1; i < sizes_.norms; i += 2)
            data[i] &= 0x7f; /* norms are positive */
        fill_values(data + sizes_.norms, sizes_.query_map + sizes_.key_map, shape_.query_map.dtype, 4 + layer);
    }

    const size_t rows = size_t(num_rows_), q_heads = size_t(shape_.num_q_heads),
                 selections = size_t(shape_.num_selection_heads);
    sets_.resize(NUM_SETS);
    for (Set &set : sets_) {
        set.q.resize(rows * q_heads * size_t(shape_.head_dim_qk) * dtype_bytes(shape_.q.dtype));
        fill_values(set.q.data(), set.q.size(), shape_.q.dtype, 100 + size_t(&set - sets_.data()));
        set.weights.resize(rows * selections * size_t(shape_.code_bits));
        set.indices.resize(rows * selections * size_t(shape_.k) * 4);
        set.counts.resize(rows * selections * 4);
    }
    scores_.resize(rows * selections * size_t(shape_.max_length) * dtype_bytes(shape_.scores.dtype));
    const size_t out_elements = rows * q_heads * size_t(shape_.head_dim_v);
    out_.resize(out_elements * dtype_bytes(shape_.out.dtype));
    lse_.resize(rows * q_heads * 4);
    const size_t max_rows = size_t(shape_.max_rows);
    partial_out_.resize(size_t(num_parts_) * max_rows * q_heads * size_t(shape_.head_dim_v) * 4);
    partial_lse_.resize(size_t(num_parts_) * max_rows * q_heads * 4);
    fill_values(partial_out_.data(), partial_out_.size(), HATTN_F32, 5);
    fill_values(partial_lse_.data(), partial_lse_.size(), HATTN_F32, 6);
    new_codes_.resize(sizes_.codes);
    new_norms_.resize(sizes_.norms);

    if (shape_.page_size) {
        std::vector<int32_t> pages(sizes_.num_pages);
        std::iota(pages.begin(), pages.end(), 0);
        std::shuffle(pages.begin(), pages.end(), std::mt19937(7));
        size_t stride = size_t(shape_.block_table.stride[0]), next = 0;
        block_table_.resize(problem.lengths.size() * stride);
        for (size_t b = 0; b < problem.lengths.size(); b++)
            for (int64_t slot = 0; slot < problem.lengths[b]; slot += shape_.page_size)
                block_table_[b * stride + size_t(slot / shape_.page_size)] = pages[next++];
    }
}

std::string Workload::layers() const
{
    auto mib = [](size_t size) { return std::to_string((size + (1 << 19)) >> 20) + " MiB"; };
    std::string text = std::to_string(num_kv_layers_) + " layers of " + mib(sizes_.kv_layer()) + " of K and V, " +
                       std::to_string(num_code_layers_) + " of " + mib(sizes_.code_layer()) + " of codes and maps";
    return text + (short_of_memory_ ? " (too few for cold caches: short of memory)" : "");
}

Ceiling Workload::ceiling(int num_threads) const
{
    GatherShape gather;
    gather.num_rows = num_keys_;
    gather.num_selected = int64_t(shape_.k) * num_rows_;
    gather.row_bytes = int64_t(shape_.head_dim_qk) * int64_t(dtype_bytes(shape_.k_cache.dtype));
    return Ceiling(kv_->data(), kv_->size(), num_threads, gather);
}

Traffic Workload::traffic(Stage stage) const
{
    const double rows = double(num_rows_), selections = rows * shape_.num_selection_heads, keys = double(num_keys_);
    const double key_map = map_bytes(shape_, shape_.key_map, true);
    const double query_map = map_bytes(shape_, shape_.query_map, shape_.map_kind == HATTN_MAP_MLP);
    const double q = double(sets_[0].q.size());
    const int words = (shape_.code_bits + 31) / 32;
    const double code = words * 4 + (shape_.key_norms ? 2 : 0);
    const double row =
        double(shape_.head_dim_qk + (sizes_.v ? shape_.head_dim_v : 0)) * double(dtype_bytes(shape_.k_cache.dtype));
    const double codes = keys * shape_.num_code_heads * code;
    const double gathered = selections * shape_.k * row;
    Traffic traffic;
    switch (stage) {
    case ENCODE: traffic.streamed = query_map + q; break;
    case SCORE: traffic.streamed = codes; break;
    case TOPK: traffic.cached = double(scores_.size()); break;
    case ATTEND: traffic.gathered = gathered; break;
    case MERGE: traffic.cached = double(num_parts_) * rows * shape_.num_q_heads * (shape_.head_dim_v + 1) * 4; break;
    case DECODE:
        traffic.streamed = query_map + q + codes + (append_ ? key_map : 0);
        traffic.gathered = gathered;
        break;
    case DENSE: traffic.streamed = keys * shape_.num_kv_heads * row; break;
    case ENCODE_KEYS: {
        double tokens = num_tokens_;
        double key = double(shape_.num_kv_heads * shape_.head_dim_qk) * double(dtype_bytes(shape_.k_new.dtype));
        traffic.streamed = key_map + tokens * (key + shape_.num_code_heads * code);
        break;
    }
    case NUM_STAGES: break;
    }
    return traffic;
}

hattn_batch Workload::batch() const
{
    hattn_batch batch = {};
    batch.num_sequences = num_sequences_;
    batch.num_rows = int32_t(num_rows_);
    batch.q_len = q_len_;
    batch.seq_len.data = const_cast<int32_t *>(seq_len_.data());
    batch.block_table.data = block_table_.empty() ? nullptr : const_cast<int32_t *>(block_table_.data());
    return batch;
}

Workload::CodeLayer Workload::next_code_layer()
{
    uint8_t *data = codes_->data() + (code_layer_++ % num_code_layers_) * sizes_.code_layer();
    CodeLayer layer = {};
    layer.codes.data = data;
    layer.norms.data = sizes_.norms ? data + sizes_.codes : nullptr;
    uint8_t *query_map = data + sizes_.codes + sizes_.norms;
    bool mlp = shape_.map_kind == HATTN_MAP_MLP;
    walk_map(shape_, shape_.query_map, [&](size_t i, size_t weight, size_t bias) {
        layer.query_map.weight[i].data = query_map + weight;
        layer.query_map.bias[i].data = mlp ? query_map + bias : nullptr; /* linear queries have none */
    });
    uint8_t *key_map = query_map + sizes_.query_map;
    walk_map(shape_, shape_.key_map, [&](size_t i, size_t weight, size_t bias) {
        layer.key_map.weight[i].data = key_map + weight;
        layer.key_map.bias[i].data = key_map + bias;
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

template <typename Struct>
static Struct sized_struct()
{
    Struct value = {};
    value.struct_size = sizeof(value);
    return value;
}

static hattn_buffer at(Bytes &bytes)
{
    return {bytes.data(), 0}; /* null where there is nothing */
}

hattn_status Workload::encode(const CodeLayer &layer, Set &set, const hattn_plan *plan, const hattn_exec *exec,
                              hattn_error *error)
{
    auto args = sized_struct<hattn_encode_queries_args>();
    args.num_rows = int32_t(num_rows_);
    args.q = at(set.q);
    args.query_map = layer.query_map;
    args.weights = at(set.weights);
    return hattn_encode_queries(plan, &args, exec, error);
}

hattn_status Workload::score(const CodeLayer &layer, Set &set, const hattn_plan *plan, const hattn_exec *exec,
                             hattn_error *error)
{
    auto args = sized_struct<hattn_score_args>();
    args.batch = batch();
    args.weights = at(set.weights);
    args.codes = layer.codes;
    args.norms = layer.norms;
    args.scores = at(scores_);
    return hattn_score(plan, &args, exec, error);
}

hattn_status Workload::topk(Set &set, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    auto args = sized_struct<hattn_topk_args>();
    args.batch = batch();
    args.batch.block_table.data = nullptr;
    args.scores = at(scores_);
    args.indices = at(set.indices);
    args.counts = at(set.counts);
    return hattn_topk(plan, &args, exec, error);
}

hattn_status Workload::attend(Set &set, bool dense, const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    auto args = sized_struct<hattn_attend_args>();
    args.batch = batch();
    args.q = at(set.q);
    args.k_cache = k();
    args.v_cache = v();
    if (!dense) {
        args.indices = at(set.indices);
        args.counts = at(set.counts);
    }
    args.out = at(out_);
    args.lse = at(lse_);
    return hattn_attend(plan, &args, exec, error);
}

hattn_status Workload::merge(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    auto args = sized_struct<hattn_merge_args>();
    args.num_parts = num_parts_;
    args.num_rows = int32_t(num_rows_);
    args.partial_out = at(partial_out_);
    args.partial_lse = at(partial_lse_);
    args.out = at(out_);
    args.lse = at(lse_);
    return hattn_merge(plan, &args, exec, error);
}

hattn_status Workload::decode(const CodeLayer &layer, Set &set, const hattn_plan *plan, const hattn_exec *exec,
                              hattn_error *error)
{
    auto args = sized_struct<hattn_decode_args>();
    args.batch = batch();
    args.q = at(set.q);
    args.k_cache = k();
    args.v_cache = v();
    args.codes = layer.codes;
    args.norms = layer.norms;
    args.query_map = layer.query_map;
    args.append = append_;
    args.key_map = layer.key_map;
    args.out = at(out_);
    args.lse = at(lse_);
    return hattn_decode(plan, &args, exec, error);
}

/* Keys out of the K cache, codes into a cache of their own: those of the rotation stay as they are. */
hattn_status Workload::encode_keys(const CodeLayer &layer, const hattn_plan *plan, const hattn_exec *exec,
                                   hattn_error *error)
{
    auto args = sized_struct<hattn_encode_keys_args>();
    args.num_tokens = num_tokens_;
    args.k_new = k();
    args.key_map = layer.key_map;
    args.codes = at(new_codes_);
    args.norms = at(new_norms_);
    return hattn_encode_keys(plan, &args, exec, error);
}
