/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/workload.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>

#include "bench/fill.h"
#include "bench/map_layout.h"
#include "core/dtype.h"
#include "devices/random_word.h"
#include "problems/shape.h"

using devices::Buffer;

const size_t MIN_SETS = 8;
/* fp16 */
static const uint16_t ONE = 0x3c00, HUGE_NORM = 0x7bff, NOT_A_NUMBER = 0x7e00;
/* Keys of all heads that a device encodes in one call: a prefill's, so that it is filled. */
static const int64_t PREFILL_KEYS = 1 << 20;

static size_t pages_of(const problems::Problem &problem)
{
    const size_t slots = size_t(problem.page_size ? problem.page_size : problems::longest_length(problem));
    size_t pages = 0;
    for (int length : problem.lengths)
        pages += (size_t(length) + slots - 1) / slots;
    const size_t pool = size_t(problem.pool_keys) / slots;
    return pool ? std::min(pages, pool) : pages;
}

static hattn_problem shape_of(const problems::Problem &problem)
{
    const bool plain =
        (problem.strides == problems::Strides::COMPACT || problem.strides == problems::Strides::HEAD_MAJOR) &&
        problem.budgets == problems::Budgets::NONE && problem.kv_scales == problems::Scales::NONE &&
        !problem.sink_logits && problem.pattern == problems::Pattern::RANDOM;
    const bool made = problem.codes != problems::Codes::RANDOM || problem.nan_query || problem.outlier_norm;
    if (!plain || (made && (problem.page_size || problem.q_dtype != HATTN_F16)))
        throw std::logic_error(problem.name + " asks for data that benchmarks do not make");
    return problems::make_shape(problem, int64_t(pages_of(problem)));
}

Workload::Sizes::Sizes(const hattn_problem &shape, const problems::Problem &problem) : num_pages(pages_of(problem))
{
    size_t slots = size_t(shape.page_size ? shape.page_size : shape.max_length);
    size_t total = num_pages * slots, words = (size_t(shape.code_bits) + 31) / 32;
    size_t kv_heads = size_t(shape.num_kv_heads), code_heads = size_t(shape.num_code_heads);
    k = round_up(total * kv_heads * size_t(shape.head_dim_qk) * size_t(hattn_dtype_size(shape.k_cache.dtype)));
    v = problem.v_inside_k
            ? 0
            : round_up(total * kv_heads * size_t(shape.head_dim_v) * size_t(hattn_dtype_size(shape.v_cache.dtype)));
    codes = round_up(total * code_heads * words * 4);
    norms = shape.key_norms ? round_up(total * code_heads * 2) : 0;
    query_map = walk_map(shape, shape.query_map, [](size_t, size_t, size_t) {});
    key_map = walk_map(shape, shape.key_map, [](size_t, size_t, size_t) {});
}

size_t Workload::layer_bytes(const problems::Problem &problem)
{
    Sizes sizes(shape_of(problem), problem);
    return sizes.kv_layer() + sizes.code_layer() + sizes.map_layer();
}

static size_t num_layers(size_t target, size_t limit, size_t layer, bool *short_of_memory)
{
    size_t wanted = std::max<size_t>(2, (target + layer - 1) / layer);
    size_t layers = std::max<size_t>(1, std::min(wanted, limit / layer));
    *short_of_memory |= layers < wanted;
    return layers;
}

void Workload::choose_rotation(Turns turns, size_t memory_limit)
{
    const size_t kv = sizes_.kv_layer(), codes = sizes_.code_layer(), maps = sizes_.map_layer();
    /* Bytes of layers of which a call touches only a part. */
    const auto target = [this](size_t layer, double touched) {
        return layer * size_t(std::ceil(double(cache_) / std::min(touched, double(layer))));
    };
    const bool alone = turns == Turns::ALONE;
    const size_t kv_target = alone ? target(kv, traffic(ATTEND).gathered) : std::max(size_t(1) << 30, cache_);
    const size_t code_limit = std::max(memory_limit / 4, codes + maps);
    num_code_layers_ = num_layers(cache_, code_limit, codes + (alone ? 0 : maps), &short_of_memory_);
    num_map_layers_ = alone ? num_layers(target(maps, traffic(ENCODE).streamed), code_limit, maps, &short_of_memory_)
                            : num_code_layers_;
    const size_t used = num_code_layers_ * codes + num_map_layers_ * maps;
    num_kv_layers_ = num_layers(kv_target, memory_limit > used ? memory_limit - used : 0, kv, &short_of_memory_);
    num_sets_ = std::max<size_t>(MIN_SETS, alone ? num_kv_layers_ : 0);
}

void Workload::fill_layers()
{
    kv_ = Buffer(memory_, num_kv_layers_ * sizes_.kv_layer());
    const size_t codes = num_code_layers_ * sizes_.code_layer(), maps = num_map_layers_ * sizes_.map_layer();
    codes_ = Buffer(memory_, codes + maps);
    maps_ = codes;
    fill_values(memory_, kv_.data(), kv_.size(), shape_.k_cache.dtype, 1);
    fill_bits(memory_, codes_.data(), codes, 2);
    fill_values(memory_, codes_.data() + maps_, maps, shape_.query_map.dtype, 4);
    for (size_t layer = 0; layer < num_code_layers_; layer++) {
        uint8_t *data = codes_.data() + layer * sizes_.code_layer();
        if (problem_.codes != problems::Codes::RANDOM)
            write_codes(data, layer);
        if (sizes_.norms && problem_.codes == problems::Codes::EQUAL) {
            const std::vector<uint16_t> norms(sizes_.norms / 2, ONE);
            memory_.write(data + sizes_.codes, norms.data(), sizes_.norms);
        } else if (sizes_.norms) {
            fill_norms(memory_, data + sizes_.codes, sizes_.norms, 3);
        }
        if (problem_.outlier_norm)
            for (size_t head = 0; head < sizes_.num_pages * size_t(shape_.num_code_heads); head++)
                memory_.write(data + sizes_.codes + head * size_t(shape_.max_length) * 2, &HUGE_NORM, 2);
    }
    if (problem_.codes == problems::Codes::TRACE)
        write_query_maps();
}

void Workload::write_codes(uint8_t *layer, uint64_t seed)
{
    const CodeExtents extents = {problem_.first_alone ? 1 : num_sequences_, shape_.num_code_heads, shape_.max_length,
                                 (shape_.code_bits + 31) / 32};
    const std::vector<uint32_t> codes = key_codes(problem_, extents, trace_, seed);
    memory_.write(layer, codes.data(), codes.size() * 4);
}

/* The trace's, head by head in turn. */
void Workload::write_query_maps()
{
    const size_t head_size = size_t(shape_.head_dim_qk) * size_t(shape_.code_bits);
    std::vector<uint16_t> map;
    for (int head = 0; head < shape_.num_code_heads; head++) {
        const auto from = trace_->query_map.begin() + int64_t(head % trace_->num_heads * head_size);
        map.insert(map.end(), from, from + int64_t(head_size));
    }
    for (size_t layer = 0; layer < num_map_layers_; layer++)
        memory_.write(codes_.data() + maps_ + layer * sizes_.map_layer(), map.data(), map.size() * 2);
}

void Workload::fill_queries(Set &set, uint64_t seed)
{
    fill_values(memory_, set.q.data(), set.q.size(), shape_.q.dtype, seed);
    if (problem_.codes == problems::Codes::TRACE) {
        /* A query of the trace for each row; all KV heads of a row have the same one. */
        const size_t group_size = size_t(trace_->group) * size_t(trace_->head_dim);
        std::vector<uint16_t> q;
        for (int64_t row = 0; row < num_rows_; row++) {
            const size_t query = size_t(devices::random_word(seed, uint64_t(row)) % uint64_t(trace_->num_queries));
            for (int head = 0; head < shape_.num_kv_heads; head++) {
                const size_t at = (query * size_t(trace_->num_heads) + size_t(head % trace_->num_heads)) * group_size;
                q.insert(q.end(), trace_->q.begin() + int64_t(at), trace_->q.begin() + int64_t(at + group_size));
            }
        }
        memory_.write(set.q.data(), q.data(), q.size() * 2);
    }
    if (problem_.nan_query)
        for (int head = 0; head < shape_.num_q_heads; head++)
            memory_.write(set.q.data() + size_t(head) * size_t(shape_.head_dim_qk) * 2, &NOT_A_NUMBER, 2);
}

void Workload::make_sets()
{
    const size_t rows = size_t(num_rows_), q_heads = size_t(shape_.num_q_heads),
                 selections = size_t(shape_.num_selection_heads);
    sets_.resize(num_sets_);
    for (Set &set : sets_) {
        set.q = Buffer(memory_, rows * q_heads * size_t(shape_.head_dim_qk) * size_t(hattn_dtype_size(shape_.q.dtype)));
        fill_queries(set, 100 + size_t(&set - sets_.data()));
        set.weights = Buffer(memory_, rows * selections * size_t(shape_.code_bits));
        set.indices = Buffer(memory_, rows * selections * size_t(shape_.k) * 4);
        set.counts = Buffer(memory_, rows * selections * 4);
    }
    scores_ =
        Buffer(memory_, rows * selections * size_t(shape_.max_length) * size_t(hattn_dtype_size(shape_.scores.dtype)));
    const size_t out_elements = rows * q_heads * size_t(shape_.head_dim_v);
    out_ = Buffer(memory_, out_elements * size_t(hattn_dtype_size(shape_.out.dtype)));
    lse_ = Buffer(memory_, rows * q_heads * 4);
    const size_t max_rows = size_t(shape_.max_rows);
    partial_out_ = Buffer(memory_, size_t(num_parts_) * max_rows * q_heads * size_t(shape_.head_dim_v) * 4);
    partial_lse_ = Buffer(memory_, size_t(num_parts_) * max_rows * q_heads * 4);
    fill_values(memory_, partial_out_.data(), partial_out_.size(), HATTN_F32, 5);
    fill_values(memory_, partial_lse_.data(), partial_lse_.size(), HATTN_F32, 6);
}

/* What floors, tails and scores per query head have beside: slopes with which a score is worth a twentieth of a nat, and
 * sums of values up to the step's own tokens. */
void Workload::make_beyond()
{
    const size_t selections = size_t(num_rows_) * size_t(shape_.num_selection_heads),
                 heads = size_t(num_rows_) * size_t(shape_.num_q_heads),
                 states = size_t(num_sequences_) * size_t(shape_.num_kv_heads);
    const bool has_heads = shape_.num_candidates > 0,
               has_shares = shape_.tail > 0 || (shape_.min_probability > 0 && !has_heads);
    const size_t told = has_heads ? heads : selections;
    if (has_shares)
        slopes_ = devices::buffer_of(memory_, std::vector<float>(size_t(shape_.num_selection_heads), 0.025f));
    if (has_heads)
        head_slopes_ = devices::buffer_of(memory_, std::vector<float>(size_t(shape_.num_q_heads), 0.025f));
    for (Set &set : sets_) {
        if (has_shares)
            set.steps = Buffer(memory_, selections * 4);
        if (has_heads) {
            set.head_weights = Buffer(memory_, heads * size_t(shape_.code_bits));
            set.head_steps = Buffer(memory_, heads * 4);
        }
    }
    if (shape_.tail == 0)
        return;
    std::vector<int32_t> lengths;
    for (size_t b = 0; b < problem_.lengths.size(); b++)
        lengths.insert(lengths.end(), size_t(shape_.num_kv_heads),
                       problem_.lengths[b] - problems::query_lengths(problem_)[b]);
    value_lengths_ = devices::buffer_of(memory_, lengths);
    for (Set &set : sets_) {
        set.shares = Buffer(memory_, told * size_t(shape_.k) * 4);
        set.rests = Buffer(memory_, told * 8);
        set.value_sums = devices::buffer_of(memory_, std::vector<int64_t>(states * size_t(shape_.head_dim_v)));
    }
}

/* Pages that sequences share come in another order each time. */
void Workload::make_block_table()
{
    std::vector<int32_t> pages(sizes_.num_pages);
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937 random(7);
    size_t stride = size_t(shape_.block_table.stride[0]), next = 0;
    std::vector<int32_t> table(problem_.lengths.size() * stride);
    for (size_t b = 0; b < problem_.lengths.size(); b++)
        for (int64_t slot = 0; slot < problem_.lengths[b]; slot += shape_.page_size) {
            if (next % pages.size() == 0 && !problem_.ordered_pages)
                std::shuffle(pages.begin(), pages.end(), random);
            table[b * stride + size_t(slot / shape_.page_size)] = pages[next++ % pages.size()];
        }
    block_table_ = devices::buffer_of(memory_, table);
}

static void check_trace(const problems::Problem &problem, const hattn_problem &shape, const TraceKeys *trace)
{
    if (problem.codes == problems::Codes::TRACE &&
        (!trace || trace->head_dim != shape.head_dim_qk || trace->num_words * 32 != shape.code_bits ||
         trace->group * shape.num_kv_heads != shape.num_q_heads || shape.query_map.dtype != HATTN_F16 ||
         shape.map_kind != HATTN_MAP_LINEAR))
        throw std::logic_error(problem.name + " needs the keys of a trace of its dims");
}

Workload::Workload(const problems::Problem &problem, const devices::Memory &memory, Turns turns, size_t memory_limit,
                   const TraceKeys *trace)
    : problem_(problem), trace_(trace), memory_(memory), shape_(shape_of(problem)), sizes_(shape_, problem),
      num_sequences_(int(problem.lengths.size())), q_len_(problem.q_len), num_tokens_(problem.num_tokens),
      num_parts_(problem.num_parts), append_(problem.append), cache_(3 * memory.properties().cache),
      seq_len_(devices::buffer_of(memory, std::vector<int32_t>(problem.lengths.begin(), problem.lengths.end())))
{
    check_trace(problem, shape_, trace);
    std::vector<int32_t> starts = {0};
    const std::vector<int> q_lens = problems::query_lengths(problem);
    for (size_t b = 0; b < q_lens.size(); b++) {
        starts.push_back(starts.back() + q_lens[b]);
        num_keys_ += problem.lengths[b];
        num_scores_ += int64_t(q_lens[b]) * problem.lengths[b];
        num_kept_ += int64_t(q_lens[b]) * std::min(problem.k, problem.lengths[b]);
    }
    num_rows_ = starts.back() + problem.padding_rows;
    if (!problem.q_lens.empty())
        q_start_ = devices::buffer_of(memory, starts);
    choose_rotation(turns, memory_limit);
    fill_layers();
    make_sets();
    make_beyond();
    if (shape_.page_size)
        make_block_table();

    /* New keys are read straight out of the rotation, through several layers where one is too small. */
    const int64_t most = int64_t(kv_.size()) / int64_t(new_key_bytes());
    if (turns == Turns::ALONE)
        num_tokens_ = int(std::min(std::max<int64_t>(num_tokens_, PREFILL_KEYS / shape_.num_kv_heads), most));
    const size_t slots = size_t(shape_.page_size ? shape_.page_size : shape_.max_length);
    const size_t new_slots = std::max(sizes_.num_pages, (size_t(num_tokens_) + slots - 1) / slots) * slots;
    const size_t words = (size_t(shape_.code_bits) + 31) / 32, code_heads = size_t(shape_.num_code_heads);
    new_codes_ = Buffer(memory, new_slots * code_heads * words * 4);
    new_norms_ = Buffer(memory, shape_.key_norms ? new_slots * code_heads * 2 : 0);
}

std::string Workload::layers() const
{
    auto mib = [](size_t size) { return std::to_string((size + (1 << 19)) >> 20) + " MiB"; };
    std::string text = std::to_string(num_kv_layers_) + " layers of " + mib(sizes_.kv_layer()) + " of K and V, " +
                       std::to_string(num_code_layers_) + " of " + mib(sizes_.code_layer()) + " of codes, " +
                       std::to_string(num_map_layers_) + " of " + mib(sizes_.map_layer()) + " of maps";
    return text + (short_of_memory_ ? " (too few for cold caches: short of memory)" : "");
}

uint64_t Workload::new_key_bytes() const
{
    return uint64_t(shape_.num_kv_heads) * uint64_t(shape_.head_dim_qk) * size_t(hattn_dtype_size(shape_.k_new.dtype));
}

GatherShape Workload::gather_shape() const
{
    GatherShape gather;
    gather.num_rows = std::min(num_keys_, problem_.pool_keys ? problem_.pool_keys : num_keys_);
    gather.num_selected = num_kept_;
    gather.row_bytes = int64_t(shape_.head_dim_qk) * int64_t(size_t(hattn_dtype_size(shape_.k_cache.dtype)));
    return gather;
}

std::unique_ptr<Ceiling> Workload::host_ceiling(int num_threads) const
{
    return std::make_unique<HostCeiling>(kv_.data(), kv_.size(), num_threads, gather_shape());
}

std::unique_ptr<Ceiling> Workload::device_ceiling(devices::Stopwatch &stopwatch, const devices::Probe &probe) const
{
    return std::make_unique<DeviceCeiling>(memory_, stopwatch, probe, kv_.data(), kv_.size(), gather_shape());
}

Traffic Workload::traffic(Stage stage) const
{
    const double rows = double(num_rows_), selections = shape_.num_selection_heads, keys = double(num_keys_);
    const double key_map = map_bytes(shape_, shape_.key_map, true);
    const double query_map = map_bytes(shape_, shape_.query_map, shape_.map_kind == HATTN_MAP_MLP);
    const double q = rows * shape_.num_q_heads * shape_.head_dim_qk * double(size_t(hattn_dtype_size(shape_.q.dtype)));
    const int words = (shape_.code_bits + 31) / 32;
    const double code = words * 4 + (shape_.key_norms ? 2 : 0);
    const double value_size = double(size_t(hattn_dtype_size(shape_.k_cache.dtype))),
                 k_row = shape_.head_dim_qk * value_size, v_row = sizes_.v ? shape_.head_dim_v * value_size : 0,
                 row = k_row + v_row;
    const double codes = keys * shape_.num_code_heads * code;
    /* How many values are read where some are not only the data say. */
    const double gathered = selections * double(num_kept_) * (shape_.min_value_weight > 0 ? k_row : row);
    Traffic traffic;
    switch (stage) {
    case ENCODE: traffic.streamed = query_map + q; break;
    case SCORE: traffic.streamed = codes; break;
    case TOPK:
        traffic.cached = selections * double(num_scores_) * double(size_t(hattn_dtype_size(shape_.scores.dtype)));
        break;
    case ATTEND: traffic.gathered = gathered; break;
    case MERGE: traffic.cached = double(num_parts_) * rows * shape_.num_q_heads * (shape_.head_dim_v + 1) * 4; break;
    case DECODE:
        traffic.streamed = query_map + q + codes + (append_ ? key_map : 0);
        traffic.gathered = gathered;
        break;
    case DENSE: traffic.streamed = keys * shape_.num_kv_heads * row; break;
    case ENCODE_KEYS: {
        double tokens = num_tokens_;
        traffic.streamed = key_map + tokens * (double(new_key_bytes()) + shape_.num_code_heads * code);
        break;
    }
    case NUM_STAGES: break;
    }
    return traffic;
}

int64_t Workload::cold_calls(Stage stage) const
{
    const double touched = traffic(stage).streamed + traffic(stage).gathered;
    return touched > 0 ? int64_t(std::ceil(double(cache_) / touched)) : 1;
}
