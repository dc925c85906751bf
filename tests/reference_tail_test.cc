/* SPDX-License-Identifier: Apache-2.0
 * The reference's tails: worked out by hand, and by what must come to the same.
 */
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/reference_world.h"

namespace {

const float NaN = std::numeric_limits<float>::quiet_NaN();
const uint32_t ANCHOR = 0x80000000u, T0 = 1u << 30; /* of the largest score */
const int64_t ONE = 1 << 24;                        /* in sums of values */

struct Told {
    std::vector<int32_t> indices;
    std::vector<uint32_t> shares;
    int64_t rest;
};

/* With 1024 a score is worth a factor of 2. */
Told tell(int k, std::vector<uint16_t> scores, int32_t step, int forced = 0, float min_probability = 0)
{
    Shape s = tiny();
    s.max_length = static_cast<int>(scores.size());
    s.k = k;
    s.tail = 0.5f;
    s.sink = s.recent = forced;
    World w(s);
    w.p.min_probability = min_probability;
    w.p.min_k = 1;
    std::memcpy(w.scores.data(), scores.data(), w.scores.size());
    w.set<int32_t>(w.steps, 0, step);
    w.topk();
    Told told = {{}, {}, w.get<int64_t>(w.rests, 0)};
    for (int i = 0; i < k; i++) {
        told.shares.push_back(w.get<uint32_t>(w.shares, i));
        if (i < w.get<int32_t>(w.counts, 0))
            told.indices.push_back(w.get<int32_t>(w.indices, i));
    }
    return told;
}

void expect_told(const Told &told, const std::vector<int32_t> &indices, const std::vector<uint32_t> &shares,
                 int64_t rest)
{
    EXPECT_EQ(indices, told.indices);
    EXPECT_EQ(shares, told.shares);
    EXPECT_EQ(rest, told.rest);
}

TEST(ReferenceTail, SharesByHand)
{
    const std::vector<uint16_t> scores = {5, 9, 7, 8, 2, 5};
    /* Z: 9 and 8 are above the 7 of the budget, and 61 times the 5 of position 0 stands for the others. */
    const uint32_t T1 = T0 / 2, T2 = T0 / 4;
    expect_told(tell(3, scores, 1024), {1, 2, 3}, {T0 | ANCHOR, T2 | ANCHOR, T1 | ANCHOR}, 57ll << 26);
    /* 2^29.5, rounded down. */
    expect_told(tell(3, scores, 512), {1, 2, 3}, {T0 | ANCHOR, T1 | ANCHOR, 759250124 | ANCHOR}, 59ll << 28);
    expect_told(tell(3, scores, 0), {1, 2, 3}, {T0 | ANCHOR, T0 | ANCHOR, T0 | ANCHOR}, 60ll << 30);
    /* Past 2^-30 nothing is left. */
    expect_told(tell(2, {1, 5, 40}, 1024), {1, 2}, {0, T0 | ANCHOR}, 0);
    /* A floor of 0.2, where 16 of 85 is less: min_k keeps one. */
    expect_told(tell(3, scores, 1024, 0, 0.2f), {1}, {T0 | ANCHOR, 0, 0}, 69ll << 26);
    /* A floor of 16/85, which 2^-32 rounds down: one reaches it. */
    expect_told(tell(3, scores, 1024, 0, 8.0f / 85 - 1e-4f), {1, 3}, {T0 | ANCHOR, T1 | ANCHOR, 0}, 61ll << 26);
    /* All are kept, and forced ones alone. */
    expect_told(tell(6, scores, 1024), {0, 1, 2, 3, 4, 5}, {0, 0, 0, 0, 0, 0}, 0);
    expect_told(tell(7, scores, 1024), {0, 1, 2, 3, 4, 5}, {0, 0, 0, 0, 0, 0, 0}, 0);
    expect_told(tell(2, scores, 1024, 1), {0, 5}, {0, 0}, 0);
    /* Forced ones are left out of the sum, and of the largest score: position 61 stands for the rest. */
    std::vector<uint16_t> many(70, 2);
    many[0] = many[69] = 60000;
    many[1] = 9;
    many[61] = 8;
    expect_told(tell(3, many, 1024, 1), {0, 1, 69}, {0, T0 | ANCHOR, 0}, 59ll << 29);
}

TEST(ReferenceTail, AnchorsByHand)
{
    /* Eight kept are within a factor of less than 4 of the least; 14 is at 4. */
    std::vector<uint16_t> scores = {3, 20, 14, 13, 13, 12, 12, 12, 12, 12, 12, 3};
    const uint32_t T6 = T0 >> 6, T7 = T0 >> 7, T8 = T0 >> 8;
    std::vector<uint32_t> shares = {T0, T6, T7, T7, T8, T8, T8, T8, T8, T8};
    std::vector<uint32_t> marked = shares;
    for (size_t i = 2; i < 10; i++)
        marked[i] |= ANCHOR;
    EXPECT_EQ(marked, tell(10, scores, 1024).shares);
    scores[4] = 14; /* seven are too few */
    shares[3] = T6;
    for (uint32_t &share : shares)
        share |= ANCHOR;
    EXPECT_EQ(shares, tell(10, scores, 1024).shares);
}

/* Six tokens of which 1, 2, 3 are kept, with weights 5, 1, 2 and values (8, 0), (0, 8), (4, 4): sums 8 and (48, 16). The mean of all six values
 * is (-5, 13). */
class SixTokens
{
public:
    SixTokens() : w(shape())
    {
        w.p.scale = 1;
        w.v.resize(values.size() * 4);
        std::memcpy(w.v.data(), values.data(), w.v.size());
        w.counts = bytes({3});
        w.indices = bytes({1, 2, 3});
        w.value_lengths = bytes({0, 0});
        w.value_sums.assign(2 * 2 * 8, 0xaa);
    }

    /* lse; out is left in w. */
    float attend(const std::vector<uint32_t> &shares, int64_t rest, hattn_buffer sinks = {}, hattn_buffer slots = {})
    {
        const std::vector<float> query = {1, 0};
        std::vector<float> keys;
        for (float weight : {1000.0f, 5.0f, 1.0f, 2.0f, 1000.0f, 1000.0f})
            keys.insert(keys.end(), {std::log(weight), 100});
        std::memcpy(w.q.data(), query.data(), w.q.size());
        std::memcpy(w.k.data(), keys.data(), w.k.size());
        std::memcpy(w.shares.data(), shares.data(), w.shares.size());
        w.set(w.rests, 0, rest);
        hattn_attend_args args = w.arguments().attend_args(true);
        args.sink_logits = sinks;
        args.value_slots = slots;
        hattn_reference_attend(&w.p, &args);
        return w.get<float>(w.lse, 0);
    }

    void expect_out(float x, float y) const
    {
        EXPECT_FLOAT_EQ(x, w.get<float>(w.out, 0));
        EXPECT_FLOAT_EQ(y, w.get<float>(w.out, 1));
    }

    static std::vector<uint8_t> bytes(const std::vector<int32_t> &numbers)
    {
        const auto *begin = reinterpret_cast<const uint8_t *>(numbers.data());
        return std::vector<uint8_t>(begin, begin + numbers.size() * 4);
    }

    const std::vector<float> values = {-40, 60, 8, 0, 0, 8, 4, 4, -1, 3, -1, 3};
    World w;

private:
    static Shape shape()
    {
        Shape s = tiny();
        s.max_length = 6;
        s.k = 3;
        s.tail = 0.5f;
        return s;
    }
};

TEST(ReferenceTail, AttendByHand)
{
    SixTokens six;
    /* Anchors: 0.5 * (1 + 2) * 8 / (1 + 3) = 3, less than all's 8 * 8 / 12. */
    EXPECT_FLOAT_EQ(std::log(11.0f), six.attend({8, 1 | ANCHOR, 3 | ANCHOR}, 8));
    six.expect_out(3, 5); /* (48 - 3 * 5) / 11, (16 + 3 * 13) / 11 */
    /* All: 8 * 6 / 16 = 3, less than the anchor's 0.5 * 5 * 6 / 2. */
    EXPECT_FLOAT_EQ(std::log(11.0f), six.attend({2 | ANCHOR, 10, 4}, 6));
    six.expect_out(3, 5);
    /* One with a share of 0 says nothing: its 2 is in the sum alone. 0.5 * (5 + 1) * 8 / 8. */
    EXPECT_FLOAT_EQ(std::log(11.0f), six.attend({7 | ANCHOR, 1 | ANCHOR, 0}, 8));
    six.expect_out(3, 5);
    for (const std::vector<uint32_t> &none : {std::vector<uint32_t>{0, 0, 0}, {8, 1, 3}}) {
        EXPECT_FLOAT_EQ(std::log(8.0f), six.attend(none, 8));
        six.expect_out(6, 2);
    }
    EXPECT_FLOAT_EQ(std::log(8.0f), six.attend({8, 1 | ANCHOR, 3 | ANCHOR}, 0));
    six.expect_out(6, 2);
    /* A sink as heavy as all of it. */
    std::vector<float> sink = {std::log(11.0f)};
    EXPECT_FLOAT_EQ(std::log(22.0f), six.attend({8, 1 | ANCHOR, 3 | ANCHOR}, 8, buffer(sink)));
    six.expect_out(1.5f, 2.5f);
}

/* Weights of 5, 1 and 2 eighths, and with a sink of nineteenths: the mean takes the place of the light ones. */
TEST(ReferenceTail, ValuesOfSmallWeightAreNotRead)
{
    const std::vector<uint32_t> shares = {8, 1 | ANCHOR, 3 | ANCHOR};
    SixTokens six;
    six.w.p.min_value_weight = 0.2f;
    six.w.set<float>(six.w.v, 5, NaN); /* of token 2 */
    six.w.value_lengths = SixTokens::bytes({6, 6});
    for (int64_t state = 0; state < 2; state++) {
        six.w.set<int64_t>(six.w.value_sums, 2 * state, -30 * ONE);
        six.w.set<int64_t>(six.w.value_sums, 2 * state + 1, 78 * ONE);
    }
    EXPECT_FLOAT_EQ(std::log(11.0f), six.attend(shares, 8));
    six.expect_out(28.0f / 11, 60.0f / 11); /* (40 + 8 - 4 * 5) / 11, (8 + 4 * 13) / 11 */
    EXPECT_FLOAT_EQ(std::log(8.0f), six.attend(shares, 0));
    six.expect_out(43.0f / 8, 21.0f / 8);
    std::vector<float> sink = {std::log(11.0f)};
    EXPECT_FLOAT_EQ(std::log(22.0f), six.attend(shares, 8, buffer(sink)));
    six.expect_out(10.0f / 22, 78.0f / 22); /* (40 - 6 * 5) / 22, 6 * 13 / 22 */
}

TEST(ReferenceTail, TheMeanIsOutOfSumsAndTheCache)
{
    const std::vector<uint32_t> shares = {8, 1 | ANCHOR, 3 | ANCHOR};
    for (int32_t outside : {-1, 7, INT32_MIN, INT32_MAX}) {
        SixTokens six;
        six.w.value_lengths = SixTokens::bytes({outside, 0});
        six.attend(shares, 8);
        six.expect_out(3, 5);
    }
    SixTokens six; /* in slot 1: the sum of tokens 0 and 1 */
    std::vector<int32_t> slots = {1};
    six.w.value_lengths = SixTokens::bytes({0, 2});
    six.w.set<int64_t>(six.w.value_sums, 2, -32 * ONE);
    six.w.set<int64_t>(six.w.value_sums, 3, 60 * ONE);
    six.w.set<float>(six.w.v, 0, NaN); /* no longer read */
    six.attend(shares, 8, {}, buffer(slots));
    six.expect_out(3, 5);
    six.w.value_lengths = SixTokens::bytes({0, 6}); /* of all */
    six.w.set<int64_t>(six.w.value_sums, 2, -30 * ONE);
    six.w.set<int64_t>(six.w.value_sums, 3, 78 * ONE);
    six.attend(shares, 8, {}, buffer(slots));
    six.expect_out(3, 5);
}

TEST(ReferenceTail, SumsByHand)
{
    Shape s = tiny();
    s.tail = 0.5f;
    World w(s);
    const std::vector<float> values = {1.5f, NaN, 1e9f, -1e9f, 0x1p-25f, 0x3p-25f, 4, 4};
    std::memcpy(w.v.data(), values.data(), w.v.size());
    w.sum_values(); /* four tokens, of which one is of the step */
    EXPECT_EQ(3, w.get<int32_t>(w.value_lengths, 0));
    EXPECT_EQ(3 * ONE / 2 + 65536 * ONE, w.get<int64_t>(w.value_sums, 0));
    EXPECT_EQ(2 - 65536 * ONE, w.get<int64_t>(w.value_sums, 1));
    /* Who has no rows keeps what is there; who has more rows than tokens has none. */
    const std::vector<uint8_t> before = w.value_sums;
    std::vector<int32_t> nobody = {0, 0};
    hattn_sum_values_args args = w.arguments().sum_values_args();
    args.batch.q_start = buffer(nobody);
    w.seq_len[0] = 2;
    hattn_reference_sum_values(&w.p, &args);
    EXPECT_EQ(before, w.value_sums);
    EXPECT_EQ(3, w.get<int32_t>(w.value_lengths, 0));
    w.seq_len[0] = 0;
    w.sum_values();
    EXPECT_EQ(0, w.get<int32_t>(w.value_lengths, 0));
}

Shape random_shape(unsigned seed)
{
    Shape s;
    s.kv_dtype = seed % 3 == 0 ? HATTN_F32 : seed % 3 == 1 ? HATTN_F16 : HATTN_F8_E4M3;
    s.page_size = seed % 2 ? 7 : 0;
    s.spread = seed % 4 < 2;
    s.sequences = 2;
    s.max_length = 70;
    s.tail = 0.5f;
    s.seed = seed;
    return s;
}

void decode(World &w)
{
    w.encode_all_keys();
    w.encode_queries();
    w.score();
    w.topk();
    w.sum_values();
    w.attend(false);
}

TEST(ReferenceTail, OfEverythingKeptIsNone)
{
    for (unsigned seed = 0; seed < 6; seed++) {
        Shape s = random_shape(seed);
        s.k = s.max_length;
        World with(s);
        s.tail = 0;
        World without(s);
        decode(with);
        without.encode_all_keys(), without.encode_queries(), without.score(), without.topk(), without.attend(false);
        EXPECT_EQ(without.out, with.out);
        EXPECT_EQ(without.lse, with.lse);
    }
}

/* The two sequences of a world as halves of a context: what merging them gives is the sum of both and both tails, over the sum of all weights. */
TEST(ReferenceTail, HalvesAreMerged)
{
    int num_tails = 0;
    for (unsigned seed = 0; seed < 6; seed++) {
        Shape s = random_shape(seed);
        World w(s);
        w.seq_len = {70, 45};
        std::copy_n(w.q.begin(), w.p.q.stride[0] * 4, w.q.begin() + w.p.q.stride[0] * 4); /* one query */
        decode(w);
        w.p.partial_out = {HATTN_F32, 0, {w.p.out.stride[0], w.p.out.stride[0], w.p.out.stride[1]}};
        w.p.partial_lse = {HATTN_F32, 0, {w.p.lse.stride[0], w.p.lse.stride[0], w.p.lse.stride[1]}};
        std::vector<float> out(w.p.out.stride[0]), lse(w.p.lse.stride[0]);
        hattn_merge_args merge = {sizeof(merge), 2, 1, 0, buffer(w.out), buffer(w.lse), buffer(out), buffer(lse)};
        hattn_reference_merge(&w.p, &merge);
        for (int h = 0; h < s.q_heads; h++) {
            const int g = h / 2;
            const double v_scale = w.fp8() ? w.v_scale[0] : 1, k_scale = w.fp8() ? w.k_scale[0] : 1;
            std::vector<long double> sum(s.dv, 0.0L);
            long double weight = 0;
            for (int b = 0; b < 2; b++) {
                long double near = 0, all = 0, shares_near = 0, shares_all = 0;
                for (int i = 0; i < w.get<int32_t>(w.counts, b * w.p.counts.stride[0] + g * w.p.counts.stride[1]);
                     i++) {
                    const int64_t at = b * w.p.indices.stride[0] + g * w.p.indices.stride[1] + i;
                    const int32_t j = w.get<int32_t>(w.indices, at);
                    const auto share = w.get<uint32_t>(w.shares, at);
                    long double x = 0;
                    for (int e = 0; e < s.d; e++)
                        x += static_cast<long double>(w.get<float>(w.q, h * w.p.q.stride[1] + e)) *
                             hattn_reference_load(w.k.data(), s.kv_dtype, w.at(w.p.k_cache, b, j, g) + e);
                    const long double power = std::exp(x * k_scale * w.p.scale);
                    for (int e = 0; e < s.dv; e++)
                        sum[e] += power * hattn_reference_load(w.v.data(), s.kv_dtype, w.at(w.p.v_cache, b, j, g) + e);
                    weight += power;
                    all += share ? power : 0;
                    shares_all += share & ~ANCHOR;
                    near += share & ANCHOR ? power : 0;
                    shares_near += share & ANCHOR ? share & ~ANCHOR : 0;
                }
                const auto rest = static_cast<long double>(
                    w.get<int64_t>(w.rests, b * w.p.rests.stride[0] + g * w.p.rests.stride[1]));
                num_tails += rest > 0;
                const long double tail = std::min(0.5L * near * rest / shares_near, all * rest / shares_all);
                for (int e = 0; e < s.dv; e++)
                    for (int j = 0; j < w.seq_len[b]; j++)
                        sum[e] += tail / w.seq_len[b] *
                                  hattn_reference_load(w.v.data(), s.kv_dtype, w.at(w.p.v_cache, b, j, g) + e);
                weight += tail;
            }
            for (int e = 0; e < s.dv; e++)
                EXPECT_NEAR(out[h * w.p.out.stride[1] + e], static_cast<double>(sum[e] / weight) * v_scale, 1e-6);
            EXPECT_NEAR(lse[h * w.p.lse.stride[1]], static_cast<double>(std::log(weight)), 1e-6);
        }
    }
    EXPECT_GT(num_tails, 12); /* of 24 */
}

TEST(ReferenceTail, SumsInTwoCallsAreThoseOfOne)
{
    for (unsigned seed = 0; seed < 6; seed++) {
        Shape s = random_shape(seed);
        s.q_len = 2;
        World once(s), twice(s);
        twice.seq_len = {30, 9};
        twice.sum_values();
        once.seq_len = twice.seq_len = {70, 33};
        for (World *w : {&once, &twice})
            w->sum_values();
        EXPECT_EQ(once.value_sums, twice.value_sums);
        EXPECT_EQ(once.value_lengths, twice.value_lengths);
        /* Far below what was summed: from the start. */
        World again(s);
        again.seq_len = twice.seq_len = {21, 33};
        for (World *w : {&again, &twice})
            w->sum_values();
        EXPECT_EQ(again.value_sums, twice.value_sums);
        EXPECT_EQ(again.value_lengths, twice.value_lengths);
    }
}

/* Three tokens are tried, one is right: seq_len is lowered, and others take the places of the two. */
TEST(ReferenceTail, DroppedTokensLeaveNothing)
{
    for (unsigned seed = 0; seed < 6; seed++) {
        Shape s = random_shape(seed);
        s.q_len = 3;
        World never(s), dropped(s);
        const std::vector<uint8_t> right = dropped.v;
        for (int b = 0; b < 2; b++)
            for (int j = 41; j < 43; j++)
                for (int g = 0; g < 2; g++)
                    for (int e = 0; e < s.dv; e++)
                        hattn_reference_store(dropped.v.data(), s.kv_dtype, dropped.at(dropped.p.v_cache, b, j, g) + e,
                                              9);
        dropped.seq_len = {43, 43};
        decode(dropped);
        dropped.v = right;
        never.seq_len = dropped.seq_len = {44, 44}; /* 41 are right, and three are tried next */
        for (World *w : {&never, &dropped})
            decode(*w);
        EXPECT_EQ(never.value_sums, dropped.value_sums);
        EXPECT_EQ(never.out, dropped.out);
        EXPECT_EQ(never.lse, dropped.lse);
    }
}

} // namespace
