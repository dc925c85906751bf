/* SPDX-License-Identifier: Apache-2.0
 * Shapes, batches and arguments of an instance; data.cc makes the numbers.
 */
#include "conformance/instance.h"

#include <algorithm>
#include <cstring>

namespace conformance {
namespace {

/* 0xFF: NaN as a float, -1 as an integer. */
const uint8_t POISON = 0xFF;

int clamp_length(int64_t length, const hattn_problem &shape)
{
    return static_cast<int>(std::max<int64_t>(0, std::min<int64_t>(length, shape.max_length)));
}

/* Pages that each sequence needs, then some that nobody uses. */
int count_pages(const Problem &problem)
{
    bool spare = problem.tag != Tag::BENCH;
    if (!problem.page_size)
        return static_cast<int>(problem.lengths.size()) + spare;
    int pages = 3 * spare;
    for (int length : problem.lengths)
        pages += (std::max(0, std::min(length, longest_length(problem))) + problem.page_size - 1) / problem.page_size;
    return pages;
}

} // namespace

hattn_map_buffers Map::buffers() const
{
    hattn_map_buffers buffers = {};
    for (int layer = 0; layer < 3; layer++) {
        buffers.weight[layer] = weight[layer].buffer();
        buffers.bias[layer] = bias[layer].buffer();
    }
    return buffers;
}

Region::Side Instance::side(const std::string &name) const
{
    return Rng(seed, name).chance(50) ? Region::AT_END : Region::AT_START;
}

std::vector<int64_t> Instance::extents(Field field) const
{
    int64_t num_rows = static_cast<int64_t>(rows.size()), slots = slots_per_page(), parts = problem.num_parts,
            words = (shape.code_bits + 31) / 32;
    int64_t Hq = shape.num_q_heads, Hkv = shape.num_kv_heads, Hc = shape.num_code_heads, Hs = shape.num_selection_heads;
    int64_t d = shape.head_dim_qk, dv = shape.head_dim_v, sequences = static_cast<int64_t>(problem.lengths.size());
    const struct {
        Field field;
        std::vector<int64_t> extents;
    } table[] = {
        {&hattn_problem::q, {num_rows, Hq, d}},
        {&hattn_problem::k_new, {problem.num_tokens, Hkv, d}},
        {&hattn_problem::k_cache, {num_pages, slots, Hkv, d}},
        {&hattn_problem::v_cache, {num_pages, slots, Hkv, dv}},
        {&hattn_problem::codes, {num_pages, slots, Hc, words}},
        {&hattn_problem::norms, {num_pages, slots, Hc, 1}},
        {&hattn_problem::weights, {num_rows, Hs, shape.code_bits}},
        {&hattn_problem::scores, {num_rows, Hs, shape.max_length}},
        {&hattn_problem::indices, {num_rows, Hs, shape.k}},
        {&hattn_problem::counts, {num_rows, Hs, 1}},
        {&hattn_problem::out, {num_rows, Hq, dv}},
        {&hattn_problem::lse, {num_rows, Hq, 1}},
        {&hattn_problem::partial_out, {parts, num_rows, Hq, dv}},
        {&hattn_problem::partial_lse, {parts, num_rows, Hq, 1}},
        {&hattn_problem::block_table, {sequences, shape.page_size ? (shape.max_length + slots - 1) / slots : 0}},
        {&hattn_problem::budgets, {sequences, Hs, 1}},
        {&hattn_problem::slopes, {Hs, 1}},
        {&hattn_problem::steps, {num_rows, Hs, 1}},
        {&hattn_problem::shares, {num_rows, num_share_heads(), shape.k}},
        {&hattn_problem::rests, {num_rows, num_share_heads(), 1}},
        {&hattn_problem::head_weights, {num_rows, Hq, shape.code_bits}},
        {&hattn_problem::head_slopes, {Hq, 1}},
        {&hattn_problem::head_steps, {num_rows, Hq, 1}},
        {&hattn_problem::value_sums, {sequences, Hkv, dv}},
        {&hattn_problem::value_lengths, {sequences, Hkv, 1}},
    };
    for (const auto &row : table)
        if (row.field == field)
            return row.extents;
    return {};
}

Tensor Instance::output(const std::string &name, Field field, uint8_t fill) const
{
    const hattn_tensor &tensor = shape.*field;
    return Tensor(name, tensor.dtype, extents(field), tensor.stride, side(name), fill);
}

Tensor Instance::make(const std::string &name, Field field) const { return output(name, field, POISON); }

Tensor Instance::make_vector(const std::string &name, int32_t dtype, int64_t n) const
{
    return Tensor(name, dtype, {n}, nullptr, side(name), POISON);
}

Instance::Instance(const Problem &p, uint64_t instance_seed) : problem(p), seed(instance_seed)
{
    num_pages = count_pages(problem);
    given = make_shape(problem, num_pages);
    shape = resolved(given);
    make_batch();
    if (shape.page_size)
        make_block_table();
    make_maps();
    make_caches();
    Rng rng(seed, "codes");
    make_codes(rng);
    make_weights();
    make_scores();
    if (has_shares())
        make_floor();
    make_selection();
    if (shape.num_candidates)
        make_heads();
    if (shape.tail > 0)
        make_tail();
    make_parts();
    make_slot_mapping();
    protect(false);
}

void Instance::make_batch()
{
    std::vector<int> q_lens = query_lengths(problem);
    int sequences = static_cast<int>(problem.lengths.size());
    seq_len = make_vector("seq_len", HATTN_I32, sequences);
    if (!problem.q_lens.empty()) {
        q_start = make_vector("q_start", HATTN_I32, sequences + 1);
        q_start.value<int32_t>({0}) = 0;
    }
    for (int b = 0; b < sequences; b++) {
        seq_len.value<int32_t>({b}) = problem.lengths[b];
        for (int t = 0; t < q_lens[b]; t++) {
            int position = problem.lengths[b] - q_lens[b] + t;
            rows.push_back({b, position, clamp_length(static_cast<int64_t>(position) + 1, shape)});
        }
        if (q_start)
            q_start.value<int32_t>({b + 1}) = static_cast<int32_t>(rows.size());
    }
    for (int i = 0; i < problem.padding_rows; i++)
        rows.push_back({-1, -1, 0});
}

void Instance::make_block_table()
{
    std::vector<int> free_pages;
    for (int page = 0; page < num_pages; page++)
        free_pages.push_back(page);
    Rng rng(seed, "pages");
    block_table = make("block_table", &hattn_problem::block_table);
    for (int b = 0; b < static_cast<int>(problem.lengths.size()); b++) {
        pages_.emplace_back();
        const int shared = problem.shared_prefix ? shared_length(b) / shape.page_size : 0;
        for (int first = 0; first < cached_length(b); first += shape.page_size) {
            if (first / shape.page_size < shared) {
                pages_[b].push_back(pages_[0][first / shape.page_size]);
                block_table.value<int32_t>({b, first / shape.page_size}) = pages_[b].back();
                continue;
            }
            int64_t at = problem.ordered_pages ? 0 : rng.below(static_cast<int64_t>(free_pages.size()));
            pages_[b].push_back(free_pages[at]);
            block_table.value<int32_t>({b, first / shape.page_size}) = free_pages[at];
            free_pages.erase(free_pages.begin() + at);
        }
    }
}

/* Keys that it has in common with the first sequence: older than the rows' own keys of either, which append writes. */
int Instance::shared_length(int sequence) const
{
    const std::vector<int> q_lens = query_lengths(problem);
    return sequence ? std::min(cached_length(0) - q_lens[0], cached_length(sequence) - q_lens[sequence]) : 0;
}

int Instance::cached_length(int sequence) const { return clamp_length(problem.lengths[sequence], shape); }

Index Instance::cache_index(int sequence, int position, int head) const
{
    if (!shape.page_size)
        return {sequence, position, head, 0};
    return {pages_[sequence][position / shape.page_size], position % shape.page_size, head, 0};
}

double Instance::kv_scale(const Tensor &scale, int kv_head) const
{
    return !scale ? 1 : scale.load({problem.kv_scales == Scales::PER_HEAD ? kv_head : 0});
}

void Instance::protect(bool writable) const
{
    const Tensor *all[] = {&q,           &k_new,         &k_cache,     &v_cache,      &codes,        &norms,
                           &weights,     &scores,        &indices,     &counts,       &partial_out,  &partial_lse,
                           &block_table, &budgets,       &q_start,     &seq_len,      &slot_mapping, &k_scale,
                           &v_scale,     &sink_logits,   &slopes,      &steps,        &shares,       &rests,
                           &value_sums,  &value_lengths, &value_slots, &head_weights, &head_slopes,  &head_steps};
    for (const Tensor *tensor : all)
        if (*tensor)
            tensor->memory->protect(writable);
    for (const Map *map : {&key_map, &query_map})
        for (int layer = 0; layer < 3; layer++)
            for (const Tensor *tensor : {&map->weight[layer], &map->bias[layer]})
                if (*tensor)
                    tensor->memory->protect(writable);
}

hattn_batch Instance::batch() const
{
    hattn_batch batch = {};
    batch.num_sequences = static_cast<int32_t>(problem.lengths.size());
    batch.num_rows = static_cast<int32_t>(rows.size());
    batch.q_len = q_start ? 0 : problem.q_len;
    batch.q_start = q_start.buffer();
    batch.seq_len = seq_len.buffer();
    batch.block_table = block_table.buffer();
    return batch;
}

Arguments Instance::inputs() const
{
    Arguments all;
    all.batch = batch();
    all.num_tokens = problem.num_tokens;
    all.num_parts = problem.num_parts;
    all.q = q.buffer();
    all.k_new = k_new.buffer();
    all.k_cache = k_cache.buffer();
    all.v_cache = v_cache.buffer();
    all.codes = codes.buffer();
    all.norms = norms.buffer();
    all.weights = weights.buffer();
    all.scores = scores.buffer();
    all.indices = indices.buffer();
    all.counts = counts.buffer();
    all.partial_out = partial_out.buffer();
    all.partial_lse = partial_lse.buffer();
    all.slot_mapping = slot_mapping.buffer();
    all.budgets = budgets.buffer();
    all.slopes = slopes.buffer();
    all.steps = steps.buffer();
    all.head_weights = head_weights.buffer();
    all.head_slopes = head_slopes.buffer();
    all.head_steps = head_steps.buffer();
    all.shares = shares.buffer();
    all.rests = rests.buffer();
    all.value_sums = value_sums.buffer();
    all.value_lengths = value_lengths.buffer();
    all.value_slots = value_slots.buffer();
    all.k_scale = k_scale.buffer();
    all.v_scale = v_scale.buffer();
    all.sink_logits = sink_logits.buffer();
    all.key_map = key_map.buffers();
    all.query_map = query_map.buffers();
    return all;
}

hattn_encode_keys_args Instance::encode_keys_args() const
{
    hattn_encode_keys_args args = inputs().encode_keys_args();
    args.codes = args.norms = {};
    return args;
}

hattn_encode_queries_args Instance::encode_queries_args() const
{
    hattn_encode_queries_args args = inputs().encode_queries_args();
    args.weights = args.steps = args.head_weights = args.head_steps = {};
    return args;
}

hattn_score_args Instance::score_args() const
{
    hattn_score_args args = inputs().score_args();
    args.scores = {};
    return args;
}

hattn_topk_args Instance::topk_args() const
{
    hattn_topk_args args = inputs().topk_args();
    args.indices = args.counts = args.shares = args.rests = {};
    return args;
}

hattn_attend_args Instance::attend_args(bool sparse) const { return inputs().attend_args(sparse); }

hattn_merge_args Instance::merge_args() const { return inputs().merge_args(); }

hattn_sum_values_args Instance::sum_values_args() const { return inputs().sum_values_args(); }

hattn_decode_args Instance::decode_args(bool append) const
{
    hattn_decode_args args = inputs().decode_args(append);
    args.weights = args.indices = args.counts = args.steps = args.head_weights = args.head_steps = {};
    return args;
}

PoisonedCache::PoisonedCache(const Instance &instance, const std::function<void(PoisonedCache *)> &keep_rows)
    : instance_(instance)
{
    const Region &k = *instance.k_cache.memory, &v = *instance.v_cache.memory;
    k_.assign(k.begin(), k.end());
    if (!instance.problem.v_inside_k)
        v_.assign(v.begin(), v.end());
    instance.protect(true);
    instance.k_cache.memory->fill(POISON);
    instance.v_cache.memory->fill(POISON);
    keep_rows(this);
    instance.protect(false);
}

PoisonedCache::~PoisonedCache()
{
    instance_.protect(true);
    if (!k_.empty())
        memcpy(instance_.k_cache.memory->begin(), k_.data(), k_.size());
    if (!v_.empty())
        memcpy(instance_.v_cache.memory->begin(), v_.data(), v_.size());
    instance_.protect(false);
}

void PoisonedCache::keep(const Tensor &cache, const std::vector<uint8_t> &saved, const Index &index, int64_t length)
{
    uint8_t *row = cache.at(index);
    memcpy(row, saved.data() + (row - cache.memory->begin()), length * dtype_size(cache.dtype));
}

void PoisonedCache::keep_key(int sequence, int position, int kv_head)
{
    keep(instance_.k_cache, k_, instance_.cache_index(sequence, position, kv_head), instance_.shape.head_dim_qk);
}

void PoisonedCache::keep_value(int sequence, int position, int kv_head)
{
    keep(instance_.v_cache, instance_.problem.v_inside_k ? k_ : v_, instance_.cache_index(sequence, position, kv_head),
         instance_.shape.head_dim_v);
}

void keep_unsummed(const Instance &instance, int row, PoisonedCache *cache)
{
    const Row &of = instance.rows[row];
    for (int g = 0; g < instance.shape.num_kv_heads && of.length; g++)
        for (int j = instance.first_unsummed(of.sequence, g, of.length); j < of.length; j++)
            cache->keep_value(of.sequence, j, g);
}

void keep_summed(const Instance &instance, PoisonedCache *cache)
{
    const std::vector<int> q_lens = query_lengths(instance.problem);
    for (int b = 0; b < static_cast<int>(q_lens.size()); b++) {
        const int end = clamp_length(instance.problem.lengths[b] - q_lens[b], instance.shape);
        for (int g = 0; g < instance.shape.num_kv_heads && q_lens[b]; g++)
            for (int j = instance.first_unsummed(b, g, end); j < instance.cached_length(b); j++)
                cache->keep_value(b, j, g); /* those past the end for the rows' means */
    }
}

} // namespace conformance
