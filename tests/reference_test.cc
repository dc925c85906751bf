/* SPDX-License-Identifier: Apache-2.0
 * The reference on vectors small enough to work out by hand, from scores on: every expected number is written down here.
 */
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/reference_world.h"

namespace {

const float NaN = std::numeric_limits<float>::quiet_NaN(), INF = std::numeric_limits<float>::infinity();

TEST(ReferenceScore, ByHand)
{
    World w(tiny());
    std::vector<int8_t> weights = {1, -2, 3, 0, -4, 5, 0, 7}; /* sum |w| 22, negatives 6 */
    std::vector<uint32_t> codes = {0xffffff00, 0xff, 0x12, 0xed};
    std::vector<uint16_t> scores(4, 0xaaaa);
    w.seq_len[0] = 3;
    hattn_score_args args = {sizeof(args), 0, w.batch, buffer(weights), buffer(codes), {}, buffer(scores)};
    hattn_reference_score(&w.p, &args);
    EXPECT_EQ(std::vector<uint16_t>({6, 16, 0, 0xaaaa}), scores); /* the fourth is past the length */
    w.seq_len[0] = 4;
    hattn_reference_score(&w.p, &args);
    EXPECT_EQ(22, scores[3]);
}

TEST(ReferenceScore, NormsMultiplyTheCentredScore)
{
    Shape s = tiny();
    s.norms = 1;
    World w(s);
    std::vector<int8_t> weights = {1, -2, 3, 0, -4, 5, 0, 7};
    std::vector<uint32_t> codes = {0, 0xff, 0x12, 0xed};
    std::vector<uint16_t> norms = {0x4000, 0x3555, 0x0001, 0x7c00}; /* 2, 0.333251953125, 2^-24, infinity */
    std::vector<float> scores(4);
    hattn_score_args args = {sizeof(args), 0, w.batch, buffer(weights), buffer(codes), buffer(norms), buffer(scores)};
    hattn_reference_score(&w.p, &args);
    EXPECT_EQ(std::vector<float>({-20, 10 * 0.333251953125f, -22 * 0x1p-24f, INF}), scores);
}

std::vector<int32_t> select(const Shape &s, std::vector<uint16_t> scores, int32_t length, int32_t budget = INT32_MAX)
{
    World w(s);
    std::vector<int32_t> indices(s.k, 77), counts = {-5}, budgets = {budget};
    w.seq_len[0] = length;
    hattn_topk_args args = {};
    args.batch = w.batch, args.scores = buffer(scores), args.budgets = buffer(budgets);
    args.indices = buffer(indices), args.counts = buffer(counts);
    hattn_reference_topk(&w.p, &args);
    for (int i = 0; i < s.k; i++)
        EXPECT_EQ(i >= counts[0], indices[i] == -1) << i;
    indices.resize(counts[0]);
    return indices;
}

using Positions = std::vector<int32_t>;

TEST(ReferenceTopk, ByHand)
{
    Shape s = tiny();
    s.max_length = 8;
    s.k = 3;
    std::vector<uint16_t> scores = {5, 9, 5, 0, 9, 5, 1, 5};
    EXPECT_EQ(Positions({0, 1, 4}), select(s, scores, 8)); /* of four 5s the first */
    EXPECT_EQ(Positions({1, 4}), select(s, scores, 8, 2));
    EXPECT_EQ(Positions({1}), select(s, scores, 8, 1)); /* of two 9s the first */
    EXPECT_EQ(Positions({}), select(s, scores, 8, 0));
    EXPECT_EQ(Positions({}), select(s, scores, 8, -4));
    EXPECT_EQ(Positions({0, 1, 2}), select(s, scores, 4, 99));
    EXPECT_EQ(Positions({0}), select(s, scores, 1));
    EXPECT_EQ(Positions({}), select(s, scores, 0));
    EXPECT_EQ(Positions({0, 1, 4}), select(s, scores, 99)); /* a length beyond max_length is max_length */
    EXPECT_EQ(Positions({}), select(s, scores, -3));
    s.sink = s.recent = 1;
    EXPECT_EQ(Positions({0, 1, 7}), select(s, scores, 8));
    EXPECT_EQ(Positions({0, 7}), select(s, scores, 8, 1)); /* a budget below sink + recent does not drop them */
    EXPECT_EQ(Positions({0, 1}), select(s, scores, 2));
    s.recent = 2;
    EXPECT_EQ(Positions({0, 6, 7}), select(s, scores, 8));
    EXPECT_EQ(Positions({0, 2, 3}), select(s, scores, 4));
    EXPECT_EQ(Positions({0, 1}), select(s, scores, 2));
}

TEST(ReferenceTopk, OrderOfFloats)
{
    Shape s = tiny();
    s.norms = 1;
    s.max_length = 8;
    const float scores[] = {NaN, -INF, -0.0f, 0.0f, -NaN, 1e-40f, -3, INF};
    /* Best first: 7 (inf), 5 (denormal), 2 (-0), 3 (+0), 6 (-3), 1 (-inf), 0 and 4 (NaN). */
    const int best_first[] = {7, 5, 2, 3, 6, 1, 0, 4};
    for (int k = 1; k <= 8; k++) {
        s.k = k;
        World w(s);
        w.seq_len[0] = 8;
        std::memcpy(w.scores.data(), scores, sizeof(scores));
        w.topk();
        std::vector<int> expected(best_first, best_first + k), got;
        std::sort(expected.begin(), expected.end());
        for (int i = 0; i < k; i++)
            got.push_back(w.get<int32_t>(w.indices, i));
        EXPECT_EQ(expected, got);
    }
}

struct Attention {
    std::vector<float> out, lse;
};

/* q = (1, 0): the logits are the keys' first numbers, scale 1. */
Attention attend(World &w, std::vector<float> logits, std::vector<float> values, std::vector<float> sink = {})
{
    std::vector<float> q = {1, 0}, keys;
    for (float x : logits)
        keys.insert(keys.end(), {x, 100});
    Attention a = {{-7, -7}, {-7}};
    w.seq_len[0] = static_cast<int>(logits.size());
    w.p.scale = 1;
    hattn_attend_args args = {};
    args.batch = w.batch;
    args.q = buffer(q);
    args.k_cache = buffer(keys);
    args.v_cache = buffer(values);
    args.sink_logits = sink.empty() ? hattn_buffer{} : buffer(sink);
    args.out = buffer(a.out);
    args.lse = buffer(a.lse);
    hattn_reference_attend(&w.p, &args);
    Attention without_lse = {{-7, -7}, {-7}};
    args.out = buffer(without_lse.out);
    args.lse = {};
    hattn_reference_attend(&w.p, &args);
    EXPECT_EQ(0, std::memcmp(a.out.data(), without_lse.out.data(), 2 * sizeof(float)));
    return a;
}

TEST(ReferenceAttend, ByHand)
{
    World w(tiny());
    const float ln3 = std::log(3.0f);
    Attention a = attend(w, {0, ln3}, {4, 8, 8, 0});
    EXPECT_FLOAT_EQ(7, a.out[0]);
    EXPECT_FLOAT_EQ(2, a.out[1]);
    EXPECT_FLOAT_EQ(std::log(4.0f), a.lse[0]);
    /* A sink as heavy as both keys halves the output. */
    a = attend(w, {0, ln3}, {4, 8, 8, 0}, {std::log(4.0f)});
    EXPECT_FLOAT_EQ(3.5f, a.out[0]);
    EXPECT_FLOAT_EQ(std::log(8.0f), a.lse[0]);
    a = attend(w, {0, ln3}, {4, 8, 8, 0}, {-INF});
    EXPECT_FLOAT_EQ(7, a.out[0]);
    /* Logits far apart and far from 0. */
    a = attend(w, {1000, -1000, 1000}, {2, 0, NaN, 0, 4, 0});
    EXPECT_TRUE(std::isnan(a.out[0]));
    a = attend(w, {1000, -1000, 1000}, {2, 0, 9e9f, 0, 4, 0});
    EXPECT_FLOAT_EQ(3, a.out[0]);
    EXPECT_FLOAT_EQ(1000 + std::log(2.0f), a.lse[0]);
    /* Capped: 2 tanh(x / 2) of 0 and of 1000. */
    w.p.soft_cap = 2;
    a = attend(w, {0, 1000}, {1, 0, 0, 0});
    EXPECT_FLOAT_EQ(1 / (1 + std::exp(2.0f)), a.out[0]);
    EXPECT_FLOAT_EQ(2.126928f, a.lse[0]);
}

TEST(ReferenceAttend, NothingToAttendTo)
{
    World w(tiny());
    Attention a = attend(w, {}, {NaN, NaN});
    EXPECT_EQ(std::vector<float>({0, 0}), a.out);
    EXPECT_EQ(-INF, a.lse[0]);
    a = attend(w, {}, {NaN, NaN}, {1.25f});
    EXPECT_EQ(std::vector<float>({0, 0}), a.out);
    EXPECT_EQ(1.25f, a.lse[0]);
    a = attend(w, {}, {NaN, NaN}, {-INF});
    EXPECT_EQ(-INF, a.lse[0]);
    for (const std::vector<float> &logits : {std::vector<float>{NaN, 1}, {1, NaN}, {NaN}}) {
        a = attend(w, logits, {1, 1, 1, 1});
        EXPECT_TRUE(std::isnan(a.out[0]));
        EXPECT_TRUE(std::isnan(a.lse[0]));
    }
}

Attention merge(std::vector<float> outs, std::vector<float> lses)
{
    World w(tiny());
    w.p.partial_out = {HATTN_F32, 0, {2, 2, 2}};
    w.p.partial_lse = {HATTN_F32, 0, {1, 1, 1}};
    Attention a = {{-7, -7}, {-7}};
    hattn_merge_args args = {
        sizeof(args), static_cast<int>(lses.size()), 1, 0, buffer(outs), buffer(lses), buffer(a.out), buffer(a.lse)};
    hattn_reference_merge(&w.p, &args);
    return a;
}

TEST(ReferenceMerge, ByHand)
{
    /* Weights 1, 2, 5 of 8. */
    Attention a = merge({8, 0, 4, 16, 1.6f, 8}, {0, std::log(2.0f), std::log(5.0f)});
    EXPECT_FLOAT_EQ(3, a.out[0]);
    EXPECT_FLOAT_EQ(9, a.out[1]);
    EXPECT_FLOAT_EQ(std::log(8.0f), a.lse[0]);
    a = merge({NaN, INF, 3, -4}, {-INF, 500});
    EXPECT_EQ(std::vector<float>({3, -4}), a.out);
    EXPECT_EQ(500, a.lse[0]);
    a = merge({NaN, NaN, INF, NaN}, {-INF, -INF});
    EXPECT_EQ(std::vector<float>({0, 0}), a.out);
    EXPECT_EQ(-INF, a.lse[0]);
    for (const std::vector<float> &lses : {std::vector<float>{NaN, 0}, {0, NaN}, {NaN, -INF}, {-INF, NaN}}) {
        a = merge({1, 1, 1, 1}, lses);
        EXPECT_TRUE(std::isnan(a.out[0]));
        EXPECT_TRUE(std::isnan(a.lse[0]));
    }
}

} // namespace
