/* SPDX-License-Identifier: Apache-2.0
 * What is counted in an instance: codes and weights, scores, budgets, selections, slots.
 */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "conformance/instance.h"
#include "problems/sampled_keys.h"

extern "C" {
#include "core/tail.h"
}

namespace conformance {

/* Codes of the caches, independent of the keys: so that ties, extremes and orders are there whatever the maps are. */
void Instance::make_codes(Rng &rng)
{
    codes = make("codes", &hattn_problem::codes);
    if (shape.key_norms)
        norms = make("norms", &hattn_problem::norms);
    int bits = shape.code_bits, words = (bits + 31) / 32;
    std::vector<uint32_t> code(words), cluster(words);
    auto random_code = [&](std::vector<uint32_t> *to) {
        for (uint32_t &word : *to)
            word = static_cast<uint32_t>(rng.next() >> 32);
    };
    auto low_bits = [&](int64_t n) {
        for (int w = 0; w < words; w++)
            code[w] = n >= 32 * (w + 1) ? ~0u : n > 32 * w ? (1u << (n - 32 * w)) - 1 : 0;
    };
    for (int b = 0; b < static_cast<int>(problem.lengths.size()); b++) {
        int length = cached_length(b);
        for (int c = 0; c < shape.num_code_heads; c++) {
            for (int j = 0; j < length; j++) {
                double norm = 1 + 0.01 * static_cast<double>(rng.below(1000));
                switch (problem.pattern) {
                case Pattern::RANDOM:
                case Pattern::BIASED:
                case Pattern::HUGE_VALUES:
                case Pattern::INFINITE:
                case Pattern::NOTHING:
                case Pattern::LAST_IS_NONE:
                case Pattern::LOWEST_WEIGHT:
                case Pattern::SUBNORMAL: random_code(&code); break;
                case Pattern::ZERO:
                    low_bits(0);
                    norm = 0;
                    break;
                case Pattern::EQUAL:
                    low_bits(bits);
                    norm = 1;
                    break;
                case Pattern::ALTERNATING:
                    low_bits(j % 2 ? bits : 0);
                    norm = j % 3;
                    break;
                case Pattern::CLUSTERED:
                    if (j % 16 == 0)
                        random_code(&cluster);
                    code = cluster;
                    code[rng.below(words)] ^= 1u << rng.below(32);
                    break;
                case Pattern::BY_TIME: low_bits(static_cast<int64_t>(j) * bits / length); break;
                case Pattern::OVERFLOW:
                    low_bits(j % 3 == 1 ? 0 : bits);
                    norm = 65504;
                    break;
                case Pattern::NOT_A_NUMBER:
                    random_code(&code);
                    norm = j % 7 == 2 ? NAN : j % 7 == 4 ? INFINITY : norm;
                    break;
                case Pattern::SAMPLED_APART:
                    if (j == 0)
                        random_code(&cluster);
                    code = cluster;
                    for (int flips = 0; flips < 6; flips++)
                        code[rng.below(words)] ^= 1u << rng.below(32);
                    if (problems::is_sampled(j, length))
                        random_code(&code);
                    break;
                }
                if (bits % 32)
                    code[words - 1] &= (1u << bits % 32) - 1;
                memcpy(codes.at(cache_index(b, j, c)), code.data(), words * sizeof(code[0]));
                if (norms)
                    norms.store(cache_index(b, j, c), norm);
            }
        }
    }
}

/* Only weights that hattn_encode_queries could give, and -128 for 8 bits. */
void Instance::make_weights()
{
    Rng rng(seed, "weights");
    weights = make("weights", &hattn_problem::weights);
    int group = shape.num_q_heads / shape.num_selection_heads;
    bool hamming = shape.score_kind == HATTN_SCORE_HAMMING;
    int limit = !hamming ? (1 << (shape.weight_bits - 1)) - 1 : group % 2 ? group : group / 2;
    int step = hamming && group % 2 ? 2 : 1;
    weights.for_each([&](const Index &index) {
        if (rows[index[0]].sequence < 0)
            return;
        int64_t positive = step == 2 ? rng.below((limit + 1) / 2) * 2 + 1 : rng.between(0, limit);
        int64_t any = -limit + step * rng.below(2 * limit / step + 1), value = any;
        if (problem.pattern == Pattern::ZERO)
            value = hamming ? -limit : 0;
        if (problem.pattern == Pattern::BY_TIME)
            value = positive;
        if (problem.pattern == Pattern::OVERFLOW)
            value = limit;
        if (problem.pattern == Pattern::LOWEST_WEIGHT && (index[1] == 0 || rng.chance(20)))
            value = -128;
        weights.value<int8_t>(index) = static_cast<int8_t>(value);
    });
}

/* Scores for top-k; those of forced positions and past the length stay poisoned. */
void Instance::make_scores()
{
    Rng rng(seed, "scores");
    scores = make("scores", &hattn_problem::scores);
    if (problem.budgets != Budgets::NONE) {
        budgets = make("budgets", &hattn_problem::budgets);
        size_t turn = 0;
        budgets.for_each([&](const Index &index) {
            budgets.value<int32_t>(index) = problem.budget_values[turn++ % problem.budget_values.size()];
        });
    }
    int group = shape.num_q_heads / shape.num_selection_heads;
    int limit = shape.score_kind == HATTN_SCORE_WEIGHTED ? (1 << (shape.weight_bits - 1)) - 1
                : group % 2                              ? group
                                                         : group / 2;
    int64_t largest = static_cast<int64_t>(limit) * shape.code_bits;
    const float specials[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-42f, -1e-42f, 3e38f, -1.0f, 1.0f};
    for (int row = 0; row < static_cast<int>(rows.size()); row++) {
        for (int s = 0; s < shape.num_selection_heads; s++) {
            /* Every other selection is full of ties. */
            int64_t span = (row + s) % 2 ? std::min<int64_t>(largest, 6) : largest;
            for (int j = shape.num_sink; j < rows[row].length - shape.num_recent; j++) {
                int64_t level = rng.between((largest - span) / 2, (largest + span) / 2);
                switch (problem.pattern) {
                case Pattern::RANDOM:
                case Pattern::NOT_A_NUMBER:
                case Pattern::BIASED:
                case Pattern::HUGE_VALUES:
                case Pattern::INFINITE:
                case Pattern::NOTHING:
                case Pattern::LAST_IS_NONE:
                case Pattern::LOWEST_WEIGHT:
                case Pattern::SUBNORMAL:
                case Pattern::SAMPLED_APART: break;
                case Pattern::ZERO: level = 0; break;
                case Pattern::EQUAL: level = largest / 2; break;
                case Pattern::ALTERNATING: level = j % 2 ? largest : 0; break;
                case Pattern::CLUSTERED: level = j / 16 % 2 ? level : level / 2; break;
                case Pattern::BY_TIME: level = static_cast<int64_t>(j) * largest / rows[row].length; break;
                case Pattern::OVERFLOW: level = j % 3 == 1 ? 0 : largest; break;
                }
                if (scores.dtype == HATTN_U16)
                    scores.value<uint16_t>({row, s, j}) = static_cast<uint16_t>(level);
                else if (problem.pattern == Pattern::NOT_A_NUMBER)
                    scores.value<float>({row, s, j}) = rng.pick(specials);
                else
                    scores.value<float>({row, s, j}) = static_cast<float>(2 * level - largest) * 0.37f;
            }
        }
    }
}

/* Slopes with which a score's usual deviation is worth some nats; steps of every size for top-k. */
void Instance::make_floor()
{
    const float odd[] = {
        0.05f, 0, -1, 1e30f, std::numeric_limits<float>::quiet_NaN(), 1e-4f, 3, std::numeric_limits<float>::infinity()};
    const int32_t sizes[] = {100, 30, 7, 300, 0, 1000, 2, 32768, 60, 20000};
    slopes = make("slopes", &hattn_problem::slopes);
    slopes.for_each([&](const Index &index) {
        const float slope = 0.05f * static_cast<float>(1 + index[0] % 3);
        slopes.store(index, problem.odd_slopes ? odd[index[0] % 8] : slope);
    });
    steps = make("steps", &hattn_problem::steps);
    size_t turn = 0;
    steps.for_each([&](const Index &index) {
        if (rows[index[0]].sequence >= 0)
            steps.value<int32_t>(index) = sizes[turn++ % 10];
    });
}

/* Of query heads, as those of selection heads are made; every third head has the weights of the one before it, so that heads agree. */
void Instance::make_heads()
{
    Rng rng(seed, "heads");
    const float odd[] = {0.05f, 0, 1e30f, std::numeric_limits<float>::quiet_NaN(), 1e-4f, 3};
    const int32_t sizes[] = {100, 30, 7, 300, 0, 1000, 2, 32768, 60, 20000};
    const int limit = (1 << (shape.weight_bits - 1)) - 1;
    head_weights = make("head_weights", &hattn_problem::head_weights);
    head_weights.for_each([&](const Index &index) {
        if (rows[index[0]].sequence < 0)
            return;
        int64_t value = rng.between(-limit, limit);
        if (problem.pattern == Pattern::ZERO)
            value = 0;
        if (problem.pattern == Pattern::BY_TIME || problem.pattern == Pattern::OVERFLOW)
            value = limit;
        if (index[1] % 3 == 2)
            value = head_weights.value<int8_t>({index[0], index[1] - 1, index[2]});
        head_weights.value<int8_t>(index) = static_cast<int8_t>(value);
    });
    head_slopes = make("head_slopes", &hattn_problem::head_slopes);
    head_slopes.for_each([&](const Index &index) {
        const float slope = 0.02f * static_cast<float>(1 + index[0] % 3);
        head_slopes.store(index, problem.odd_slopes ? odd[index[0] % 6] : slope);
    });
    head_steps = make("head_steps", &hattn_problem::head_steps);
    size_t turn = 0;
    head_steps.for_each([&](const Index &index) {
        if (rows[index[0]].sequence >= 0)
            head_steps.value<int32_t>(index) = sizes[turn++ % 10];
    });
}

/* Shares and rests of every size, for attend; and states of values: as they are before a step, and all that they may be else. */
void Instance::make_tail()
{
    Rng rng(seed, "tail");
    shares = make("shares", &hattn_problem::shares);
    rests = make("rests", &hattn_problem::rests);
    shares.for_each([&](const Index &index) {
        const uint32_t share =
            rng.chance(20) ? 0 : static_cast<uint32_t>((1 << 30) - rng.below(1 << 28)) >> rng.below(14);
        shares.value<uint32_t>(index) = share | (share && rng.chance(30) ? HATTN_SHARE_ANCHOR : 0);
    });
    const int64_t sizes[] = {int64_t(1) << 30, 0, 12345678, int64_t(1) << 36, 1, int64_t(1) << 33, int64_t(1) << 45};
    rests.for_each([&](const Index &index) { rests.value<int64_t>(index) = rng.pick(sizes); });

    const int sequences = static_cast<int>(problem.lengths.size());
    if (problem.value_slots) {
        value_slots = make_vector("value_slots", HATTN_I32, sequences);
        for (int b = 0; b < sequences; b++)
            value_slots.value<int32_t>({b}) = sequences - 1 - b;
    }
    value_sums = make("value_sums", &hattn_problem::value_sums);
    value_lengths = make("value_lengths", &hattn_problem::value_lengths);
    const std::vector<int> q_lens = query_lengths(problem);
    for (int b = 0; b < sequences; b++) {
        const int usual = std::max(0, cached_length(b) - q_lens[b]);
        const int any = static_cast<int>(rng.between(0, usual));
        /* usual + 2: past the first row of the step, and not of the second. */
        const int lengths[] = {usual, any, 0, usual + 2, cached_length(b) + 7, usual + 1, -1};
        for (int g = 0; g < shape.num_kv_heads; g++) {
            const int length = lengths[(b + g) % 7];
            value_lengths.value<int32_t>({state_of(b), g}) = length;
            if (length <= 0 || length > cached_length(b))
                continue;
            int64_t *sums = &value_sums.value<int64_t>({state_of(b), g});
            std::fill_n(sums, shape.head_dim_v, 0);
            for (int j = 0; j < length; j++)
                for (int i = 0; i < shape.head_dim_v; i++) {
                    Index at = cache_index(b, j, g);
                    at[3] = i;
                    const double value = v_cache.load(at);
                    if (!std::isnan(value))
                        sums[i] += std::llrint(std::clamp(value, -65536.0, 65536.0) * 0x1p24);
                }
        }
    }
}

int Instance::first_unsummed(int sequence, int kv_head, int length) const
{
    const int summed = value_lengths.value<int32_t>({state_of(sequence), kv_head});
    return summed <= 0 || summed > length ? 0 : summed;
}

/* Any positions in any order, for attend; rows of even number in rising order. */
void Instance::make_selection()
{
    Rng rng(seed, "selection");
    indices = make("indices", &hattn_problem::indices);
    counts = make("counts", &hattn_problem::counts);
    for (int row = 0; row < static_cast<int>(rows.size()); row++) {
        for (int s = 0; s < shape.num_selection_heads; s++) {
            int length = rows[row].length, most = std::min(length, shape.k);
            int count = rng.chance(70) ? most : static_cast<int>(rng.between(0, most));
            counts.value<int32_t>({row, s}) = count;
            std::vector<int> positions(length);
            for (int j = 0; j < length; j++)
                positions[j] = j;
            for (int i = 0; i < count; i++)
                std::swap(positions[i], positions[rng.between(i, length - 1)]);
            if (row % 2 == 0)
                std::sort(positions.begin(), positions.begin() + count);
            for (int i = 0; i < count; i++)
                indices.value<int32_t>({row, s, i}) = positions[i];
        }
    }
}

void Instance::make_slot_mapping()
{
    if (!problem.slot_mapping)
        return;
    Rng rng(seed, "slots");
    slot_mapping = make_vector("slot_mapping", HATTN_I64, problem.num_tokens);
    std::vector<int64_t> slots(static_cast<size_t>(num_pages) * slots_per_page());
    for (size_t i = 0; i < slots.size(); i++)
        slots[i] = static_cast<int64_t>(i);
    for (int64_t t = 0; t < problem.num_tokens; t++) {
        std::swap(slots[t], slots[rng.between(t, static_cast<int64_t>(slots.size()) - 1)]);
        slot_mapping.value<int64_t>({t}) = t % 7 == 5 ? (t % 2 ? -1 : INT64_MIN) : slots[t];
    }
}

} // namespace conformance
