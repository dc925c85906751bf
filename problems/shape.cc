/* SPDX-License-Identifier: Apache-2.0
 * From a problem to a hattn_problem: heads, maxima, strides.
 */
#include "problems/shape.h"

#include <algorithm>

#include "core/sized.h"

namespace problems {
namespace {

/* Lays dimensions out, innermost first as listed in `order`, each followed by pad elements. extent[0] of the outermost
 * dimension in memory does not matter. */
void lay_out(hattn_tensor *tensor, const std::vector<int> &order, const std::vector<int64_t> &extents, int64_t pad)
{
    int64_t span = extents.back() + pad;
    for (int dim : order) {
        tensor->stride[dim] = span;
        span = span * extents[dim] + pad;
    }
}

void lay_out_maps(hattn_problem *p, int64_t pad, bool broadcast)
{
    for (hattn_map *map : {&p->key_map, &p->query_map}) {
        bool mlp = p->map_kind == HATTN_MAP_MLP;
        int64_t dims[4] = {p->head_dim_qk, mlp ? map->hidden[0] : p->code_bits, map->hidden[1], p->code_bits};
        for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
            map->weight_stride[layer][1] = dims[layer + 1] + pad;
            map->weight_stride[layer][0] = broadcast ? 0 : dims[layer] * (dims[layer + 1] + pad) + pad;
            map->bias_stride[layer] = broadcast ? HATTN_BROADCAST : dims[layer + 1] + pad;
        }
    }
}

void set_strides(const Problem &problem, hattn_problem *p, int64_t num_pages)
{
    if (problem.strides == Strides::COMPACT)
        return;
    int64_t pad = problem.strides == Strides::PADDED ? 8 : problem.strides == Strides::ODD ? 3 : 0;
    int64_t slots = p->page_size ? p->page_size : p->max_length, words = (p->code_bits + 31) / 32;
    int64_t rows = p->max_rows, Hq = p->num_q_heads, Hkv = p->num_kv_heads, Hc = p->num_code_heads,
            Hs = p->num_selection_heads;

    /* Innermost first; dimensions are {page, slot, head}, {row, head}, {part, row, head}. */
    std::vector<int> cache = {1, 2, 0}, row = {1, 0}, part = {2, 1, 0};
    if (problem.strides == Strides::TOKEN_MAJOR)
        cache = {2, 1, 0};
    if (problem.strides == Strides::HEAD_MAJOR) {
        cache = {1, 0, 2};
        row = {0, 1};
        part = {1, 0, 2};
    }
    lay_out(&p->k_cache, cache, {num_pages, slots, Hkv, p->head_dim_qk}, pad);
    lay_out(&p->v_cache, cache, {num_pages, slots, Hkv, p->head_dim_v}, pad);
    lay_out(&p->codes, cache, {num_pages, slots, Hc, words}, pad);
    lay_out(&p->norms, cache, {num_pages, slots, Hc, 1}, pad);
    lay_out(&p->q, row, {rows, Hq, p->head_dim_qk}, pad);
    lay_out(&p->k_new, row, {problem.num_tokens, Hkv, p->head_dim_qk}, pad);
    lay_out(&p->weights, row, {rows, Hs, p->code_bits}, pad);
    lay_out(&p->scores, row, {rows, Hs, p->max_length}, pad);
    lay_out(&p->indices, row, {rows, Hs, p->k}, pad);
    lay_out(&p->counts, row, {rows, Hs, 1}, pad);
    lay_out(&p->out, row, {rows, Hq, p->head_dim_v}, pad);
    lay_out(&p->lse, row, {rows, Hq, 1}, pad);
    lay_out(&p->partial_out, part, {problem.num_parts, rows, Hq, p->head_dim_v}, pad);
    lay_out(&p->partial_lse, part, {problem.num_parts, rows, Hq, 1}, pad);
    lay_out(&p->steps, row, {rows, Hs, 1}, pad);
    const int64_t Hr = p->num_candidates ? Hq : Hs;
    lay_out(&p->shares, row, {rows, Hr, p->k}, pad);
    lay_out(&p->rests, row, {rows, Hr, 1}, pad);
    lay_out(&p->head_weights, row, {rows, Hq, p->code_bits}, pad);
    lay_out(&p->head_steps, row, {rows, Hq, 1}, pad);
    lay_out(&p->value_sums, row, {p->max_sequences, Hkv, p->head_dim_v}, pad);
    lay_out(&p->value_lengths, row, {p->max_sequences, Hkv, 1}, pad);
    p->block_table.stride[0] += pad;
    p->slopes.stride[0] += pad;
    p->head_slopes.stride[0] += pad;
    bool broadcast = problem.strides == Strides::BROADCAST;
    if (broadcast) {
        p->q.stride[1] = 0;
        p->slopes.stride[0] = p->head_slopes.stride[0] = HATTN_BROADCAST;
    }
    lay_out_maps(p, pad, broadcast);
}

void set_budget_strides(const Problem &problem, hattn_problem *p)
{
    switch (problem.budgets) {
    case Budgets::NONE:
    case Budgets::EACH: break;
    case Budgets::PER_SEQUENCE:
        p->budgets.stride[0] = 1;
        p->budgets.stride[1] = 0;
        break;
    case Budgets::PER_HEAD:
        p->budgets.stride[0] = 0;
        p->budgets.stride[1] = 1;
        break;
    case Budgets::ONE: p->budgets.stride[0] = p->budgets.stride[1] = HATTN_BROADCAST; break;
    }
}

} // namespace

std::vector<int> query_lengths(const Problem &problem)
{
    return problem.q_lens.empty() ? std::vector<int>(problem.lengths.size(), problem.q_len) : problem.q_lens;
}

int longest_length(const Problem &problem)
{
    int longest = 1;
    for (int length : problem.lengths)
        longest = std::max(longest, length);
    return problem.max_length ? problem.max_length : longest;
}

hattn_problem make_shape(const Problem &problem, int num_pages)
{
    hattn_problem sparse = sized<hattn_problem>(), p = sparse;
    sparse.num_kv_heads = problem.num_kv_heads;
    sparse.num_q_heads = problem.num_kv_heads * problem.group;
    sparse.num_code_heads = problem.codes_per_query_head ? sparse.num_q_heads : 0;
    sparse.num_selection_heads = problem.selections_per_query_head ? sparse.num_q_heads : 0;
    sparse.head_dim_qk = problem.head_dim_qk;
    sparse.head_dim_v = problem.head_dim_v;
    sparse.code_bits = problem.code_bits;
    sparse.map_kind = problem.map_kind;
    sparse.score_kind = problem.score_kind;
    sparse.weight_bits = problem.weight_bits;
    sparse.key_norms = problem.key_norms;
    sparse.page_size = problem.page_size;
    sparse.max_length = longest_length(problem);
    sparse.k = problem.k;
    sparse.num_sink = problem.num_sink;
    sparse.num_recent = problem.num_recent;
    sparse.min_probability = problem.min_probability;
    sparse.min_k = problem.min_k;
    sparse.tail = problem.tail;
    sparse.min_value_weight = problem.min_value_weight;
    sparse.num_candidates = problem.num_candidates;
    sparse.scale = problem.scale;
    sparse.soft_cap = problem.soft_cap;
    sparse.per_head_kv_scales = problem.kv_scales == Scales::PER_HEAD;

    std::vector<int> q_lens = query_lengths(problem);
    int rows = problem.padding_rows;
    for (int length : q_lens) {
        rows += length;
        sparse.max_q_len = std::max(sparse.max_q_len, length);
    }
    bool spare = problem.tag != Tag::BENCH;
    sparse.max_sequences = std::max(static_cast<int>(problem.lengths.size()), problem.max_sequences) + spare;
    sparse.max_rows = std::max(rows, problem.max_sequences * sparse.max_q_len) + 2 * spare;
    sparse.q.dtype = problem.q_dtype;
    sparse.k_cache.dtype = problem.kv_dtype;
    sparse.out.dtype = problem.out_dtype;
    if (problem.kv_on_host)
        sparse.k_cache.memory = HATTN_MEMORY_PINNED_HOST;
    if (problem.kv_on_host && !problem.v_on_device)
        sparse.v_cache.memory = HATTN_MEMORY_PINNED_HOST;
    for (hattn_map *map : {&sparse.key_map, &sparse.query_map}) {
        map->dtype = problem.map_dtype;
        std::copy(problem.hidden, problem.hidden + 2, map->hidden);
    }
    if (problem.query_map_dtype)
        sparse.query_map.dtype = problem.query_map_dtype;
    if (problem.query_hidden[0])
        std::copy(problem.query_hidden, problem.query_hidden + 2, sparse.query_map.hidden);
    hattn_problem_complete(&sparse, &p, nullptr);
    set_strides(problem, &p, num_pages);
    set_budget_strides(problem, &p);
    if (problem.v_inside_k)
        std::copy(p.k_cache.stride, p.k_cache.stride + 3, p.v_cache.stride);
    return p;
}

hattn_problem resolved(hattn_problem shape)
{
    const auto resolve = [](int64_t &stride) { stride = stride == HATTN_BROADCAST ? 0 : stride; };
    for (int64_t &stride : shape.budgets.stride)
        resolve(stride);
    resolve(shape.slopes.stride[0]);
    resolve(shape.head_slopes.stride[0]);
    for (hattn_map *map : {&shape.key_map, &shape.query_map})
        for (int64_t &stride : map->bias_stride)
            resolve(stride);
    return shape;
}

} // namespace problems
