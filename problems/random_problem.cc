/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>

#include "core/dtype.h"
#include "problems/problems.h"
#include "problems/rng.h"

namespace problems {
namespace {

/* How large problems may be. */
struct Limits {
    int64_t work; /* multiplications of one pass of dense attention */
    int longest, long_one, tokens, sequences, q_len, kv_heads, group, dim, bits, hidden;
    int large_k; /* of one problem in twenty, whose last row is about as long; 0: of none */
};
const Limits MODERATE = {1500000, 260, 3000, 40,  4,   8,
                         4,       128, 576,  512, 128, 2048};          /* milliseconds on a scalar backend */
const Limits SMALL = {10000, 24, 80, 20, 2, 3, 2, 16, 48, 128, 16, 0}; /* some fifty in a second */

int steps_of_8(Rng &rng, int low, int high) { return 8 * static_cast<int>(rng.between(low / 8, high / 8)); }

void choose_heads(Rng &rng, const Limits &limits, Problem &p)
{
    const int groups[] = {1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 12, 16};
    p.num_kv_heads = static_cast<int>(rng.between(1, limits.kv_heads));
    p.group = rng.chance(5) ? static_cast<int>(rng.between(1, 128)) : rng.pick(groups);
    p.selections_per_query_head = rng.chance(30);
    p.codes_per_query_head = p.selections_per_query_head && rng.chance(50);
    const int dims[] = {32, 40, 64, 64, 96, 128, 128};
    p.head_dim_qk = rng.chance(20) ? steps_of_8(rng, 32, 576) : rng.pick(dims);
    p.head_dim_v = rng.chance(70) ? 0 : rng.chance(50) ? steps_of_8(rng, 32, 256) : rng.pick(dims);
    p.group = std::min(p.group, limits.group);
    p.head_dim_qk = std::min(p.head_dim_qk, limits.dim);
    p.head_dim_v = std::min(p.head_dim_v, limits.dim);
    p.v_inside_k = rng.chance(10) && p.head_dim_v <= p.head_dim_qk;
    const int bits[] = {32, 64, 64, 128, 128, 128, 256};
    p.code_bits = std::min(rng.chance(30) ? steps_of_8(rng, 32, 512) : rng.pick(bits), limits.bits);
}

void choose_types(Rng &rng, const Limits &limits, Problem &p)
{
    const int32_t floats[] = {HATTN_F32, HATTN_F16, HATTN_BF16};
    p.q_dtype = rng.pick(floats);
    p.kv_dtype = rng.chance(60) ? p.q_dtype : rng.chance(40) ? static_cast<int32_t>(HATTN_F8_E4M3) : rng.pick(floats);
    p.map_dtype = rng.chance(70) ? 0 : rng.pick(floats);
    p.out_dtype = rng.chance(80) ? 0 : static_cast<int32_t>(HATTN_F32);
    if (p.kv_dtype == HATTN_F8_E4M3)
        p.kv_scales = static_cast<Scales>(rng.below(3));
    if (rng.chance(15)) {
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = steps_of_8(rng, 8, limits.hidden);
        p.hidden[1] = steps_of_8(rng, 8, limits.hidden);
    }
    if (p.v_inside_k) {
        const int unit = 16 / static_cast<int>(hattn_dtype_size(p.kv_dtype)); /* GPUs want V's first element there */
        p.v_offset = unit * static_cast<int>(
                                rng.below((p.head_dim_qk - (p.head_dim_v ? p.head_dim_v : p.head_dim_qk)) / unit + 1));
    }
    p.key_bias = rng.chance(25);
    p.shared_map = rng.chance(25);
    p.score_kind = rng.chance(50) ? HATTN_SCORE_HAMMING : HATTN_SCORE_WEIGHTED;
    p.weight_bits = static_cast<int>(rng.between(2, 8));
    p.key_norms = rng.chance(20);
}

void choose_batch(Rng &rng, const Limits &limits, Problem &p)
{
    const int pages[] = {0, 0, 1, 2, 3, 7, 16, 16, 32, 64, 129};
    p.page_size = rng.pick(pages);
    int sequences = static_cast<int>(rng.between(1, limits.sequences));
    int64_t work_per_key =
        static_cast<int64_t>(p.num_kv_heads) * p.group * (p.head_dim_qk + std::max(p.head_dim_v, p.head_dim_qk));
    int q_len = rng.chance(60) ? 1 : static_cast<int>(rng.between(1, limits.q_len));
    int64_t affordable = std::max<int64_t>(8, limits.work / (work_per_key * sequences * q_len));
    int longest = static_cast<int>(std::min<int64_t>(affordable, rng.chance(20) ? limits.long_one : limits.longest));
    p.lengths.clear();
    for (int b = 0; b < sequences; b++)
        p.lengths.push_back(rng.chance(10) ? static_cast<int>(rng.below(4))
                                           : static_cast<int>(rng.between(1, longest)));
    p.q_len = q_len;
    if (rng.chance(35)) {
        for (int b = 0; b < sequences; b++)
            p.q_lens.push_back(static_cast<int>(rng.between(0, q_len)));
        p.padding_rows = rng.chance(40) ? static_cast<int>(rng.between(1, 3)) : 0;
    }
    if (rng.chance(30))
        p.max_length = static_cast<int>(rng.between(std::max(1, longest / 2), longest + 100));
    p.append = rng.chance(60);
    int longest_used = *std::max_element(p.lengths.begin(), p.lengths.end());
    int slots = p.max_length ? std::min(p.max_length, longest_used) : longest_used;
    p.num_tokens = static_cast<int>(rng.between(0, std::min(limits.tokens, slots)));
    p.slot_mapping = rng.chance(70);
    p.num_parts = static_cast<int>(rng.between(1, 5));
}

void choose_selection(Rng &rng, const Limits &limits, Problem &p)
{
    p.k = rng.chance(10) ? static_cast<int>(rng.between(1, 3)) : static_cast<int>(rng.between(1, 150));
    if (limits.large_k && rng.chance(5)) {
        p.k = static_cast<int>(rng.between(257, limits.large_k));
        p.lengths.back() = static_cast<int>(rng.between(p.k / 2, 3 * p.k / 2));
        p.max_length = p.max_length ? p.lengths.back() + 1 : 0;
        p.num_kv_heads = std::min(p.num_kv_heads, 2);
        p.group = std::min(p.group, 4);
        p.repetitions = 4;
    }
    p.num_sink = rng.chance(70) ? 0 : static_cast<int>(rng.between(0, p.k));
    p.num_recent = rng.chance(70) ? 0 : static_cast<int>(rng.between(0, p.k - p.num_sink));
    p.budgets = static_cast<Budgets>(rng.chance(50) ? 0 : rng.below(5));
    for (int &value : p.budget_values)
        value = static_cast<int>(rng.between(-1, p.k + 2));
    p.sink_logits = rng.chance(25);
    p.soft_cap = rng.chance(80) ? 0 : static_cast<float>(rng.between(1, 50));
    p.pattern = rng.chance(55) ? Pattern::RANDOM : static_cast<Pattern>(rng.below(8));
    p.strides = rng.chance(50) ? Strides::COMPACT : static_cast<Strides>(rng.below(6));
    p.kv_on_host = rng.chance(10);
}

/* By a generator of its own: what else a seed makes does not depend on it. */
void choose_floor(Rng rng, Problem &p)
{
    if (p.key_norms || !rng.chance(25))
        return;
    const float probabilities[] = {1e-3f, 1e-2f, 3e-2f, 0.1f, 0.5f, 1e-6f};
    p.min_probability = rng.pick(probabilities);
    p.min_k = rng.chance(30) ? 0 : static_cast<int>(rng.between(1, p.k));
    p.odd_slopes = rng.chance(20);
}

void choose_tail(Rng rng, Problem &p)
{
    if (p.key_norms || !rng.chance(20))
        return;
    const float factors[] = {0.5f, 1, 0.25f};
    p.tail = rng.pick(factors);
    p.value_slots = rng.chance(30);
    p.odd_slopes = p.odd_slopes || rng.chance(20);
    p.min_value_weight = rng.chance(40) ? static_cast<float>(rng.between(1, 30)) / 1000 : 0;
}

void choose_candidates(Rng rng, Problem &p)
{
    if (p.key_norms || p.score_kind != HATTN_SCORE_WEIGHTED || !rng.chance(40))
        return;
    p.group = std::min(p.group, 64);
    p.num_candidates = static_cast<int>(rng.between(p.k, 4 * p.k));
    p.odd_slopes = p.odd_slopes || rng.chance(20);
}

Problem make_problem(uint64_t seed, const Limits &limits, const std::string &prefix)
{
    Rng rng(seed, "problem");
    Problem p;
    p.name = prefix + std::to_string(seed);
    choose_heads(rng, limits, p);
    choose_types(rng, limits, p);
    choose_batch(rng, limits, p);
    choose_selection(rng, limits, p);
    p.shared_prefix = p.page_size && rng.chance(20);
    choose_floor(Rng(seed, "floor"), p);
    choose_tail(Rng(seed, "tail"), p);
    choose_candidates(Rng(seed, "candidates"), p);
    return p;
}

const std::string RANDOM = "random-", SMALL_RANDOM = "small-";

} // namespace

Problem random_problem(uint64_t seed) { return make_problem(seed, MODERATE, RANDOM); }

Problem small_problem(uint64_t seed)
{
    Problem p = make_problem(seed, SMALL, SMALL_RANDOM);
    p.repetitions = 3;
    return p;
}

std::string random_kind(const std::string &problem)
{
    return problem.rfind(RANDOM, 0) == 0 ? "random" : problem.rfind(SMALL_RANDOM, 0) == 0 ? "small" : "";
}

} // namespace problems
