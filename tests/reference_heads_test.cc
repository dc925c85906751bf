/* SPDX-License-Identifier: Apache-2.0
 * The reference's scores per query head, worked out by hand.
 */
#include <vector>

#include <gtest/gtest.h>

#include "tests/reference_world.h"

namespace {

const uint32_t ANCHOR = 0x80000000u, T0 = 1u << 30; /* of the largest score */
const int32_t OCTAVE = 1024;                        /* a score is worth a factor of 2 */

/* A key's scores by two query heads, 0..7 each; their sum is its summed score. */
struct Key {
    uint16_t a, b;
};

struct Options {
    int32_t step = OCTAVE, step_a = OCTAVE, step_b = OCTAVE;
    int forced = 0, min_k = 0;
    float floor = 0;
};

struct Told {
    std::vector<int32_t> indices;
    std::vector<uint32_t> shares_a, shares_b;
    int64_t rest_a, rest_b;
};

Told tell(int k, int candidates, const std::vector<Key> &keys, const Options &o = {})
{
    Shape s = tiny();
    s.q_heads = 2;
    s.score_kind = HATTN_SCORE_WEIGHTED;
    s.max_length = static_cast<int>(keys.size());
    s.k = k;
    s.candidates = candidates;
    s.tail = 0.5f;
    s.sink = s.recent = o.forced;
    World w(s);
    w.p.min_probability = o.floor;
    w.p.min_k = o.min_k;
    for (size_t j = 0; j < keys.size(); j++) {
        w.set<uint32_t>(w.codes, static_cast<int64_t>(j), keys[j].a | keys[j].b << 3);
        w.set<uint16_t>(w.scores, static_cast<int64_t>(j), static_cast<uint16_t>(keys[j].a + keys[j].b));
    }
    const int8_t weights[16] = {1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 0, 0};
    std::memcpy(w.head_weights.data(), weights, sizeof(weights));
    w.set<int32_t>(w.steps, 0, o.step);
    w.set<int32_t>(w.head_steps, 0, o.step_a);
    w.set<int32_t>(w.head_steps, 1, o.step_b);
    w.topk();
    Told told = {{}, {}, {}, w.get<int64_t>(w.rests, 0), w.get<int64_t>(w.rests, 1)};
    for (int i = 0; i < k; i++) {
        told.shares_a.push_back(w.get<uint32_t>(w.shares, i));
        told.shares_b.push_back(w.get<uint32_t>(w.shares, k + i));
        if (i < w.get<int32_t>(w.counts, 0))
            told.indices.push_back(w.get<int32_t>(w.indices, i));
    }
    return told;
}

/* Candidates are 2, and of the sums of 7 in 1, 3, 4; or these and 6. In 2^23: T of head A 128, 16, 1, 8 in 1, 2, 3, 4, of B 1, 16, 128, 16; Z 153
 * and 161. p in 1/153 and 1/161: 128 + 1, 16 + 16, 1 + 128, 8 + 16. */
const std::vector<Key> six = {{3, 3}, {7, 0}, {4, 4}, {0, 7}, {3, 4}, {1, 0}};
using Indices = std::vector<int32_t>;
using Shares = std::vector<uint32_t>;

TEST(ReferenceHeads, SharesByHand)
{
    const Told told = tell(2, 4, six);
    EXPECT_EQ(told.indices, (Indices{1, 3})); /* the best two sums are in 1 and 2 */
    EXPECT_EQ(told.shares_a, (Shares{T0 | ANCHOR, (T0 >> 7) | ANCHOR}));
    EXPECT_EQ(told.shares_b, (Shares{(T0 >> 7) | ANCHOR, T0 | ANCHOR}));
    /* By sums, in 2^28: all are 4, of 2, and 61 times the 1 of position 0; candidates 10; 2 and 4, which are not kept, 6. 2346 is 256 * 55 / 6. */
    EXPECT_EQ(told.rest_a, (24ll << 23) + (24ll * 2346 << 15));
    EXPECT_EQ(told.rest_b, (32ll << 23) + (32ll * 2346 << 15));
}

TEST(ReferenceHeads, FactorsOfRestsByHand)
{
    /* All sums are equal: 1 and 61 less 4 are 58, of 2. That is above 19. */
    const Told most = tell(2, 4, six, {0});
    EXPECT_EQ(most.indices, (Indices{1, 3}));
    EXPECT_EQ(most.rest_a, 20 * 24ll << 23);
    EXPECT_EQ(most.rest_b, 20 * 32ll << 23);
    /* All candidates are kept: those are 2, and 1, the first of the sums of 7. */
    const Told none = tell(2, 2, six);
    EXPECT_EQ(none.indices, (Indices{1, 2}));
    EXPECT_EQ(none.rest_a, 0);
    EXPECT_EQ(none.rest_b, 0);
    /* Nothing is outside: 0 has 8, and 5 has 1, in 2^23. */
    const Told all = tell(2, 100, six);
    EXPECT_EQ(all.indices, (Indices{1, 3}));
    EXPECT_EQ(all.rest_a, (24ll + 8 + 2) << 23);
    EXPECT_EQ(all.rest_b, (32ll + 8 + 1) << 23);
    /* Or less than was counted exactly: forced positions stand for nothing. */
    std::vector<Key> eight = six;
    eight.insert(eight.begin(), {7, 7});
    eight.push_back({7, 7});
    const Told forced = tell(4, 4, eight, {OCTAVE, OCTAVE, OCTAVE, 1});
    EXPECT_EQ(forced.indices, (Indices{0, 2, 4, 7}));
    EXPECT_EQ(forced.shares_a, (Shares{0, T0 | ANCHOR, (T0 >> 7) | ANCHOR, 0}));
    EXPECT_EQ(forced.rest_a, 24ll << 23);
}

TEST(ReferenceHeads, NothingIsLeftOut)
{
    for (int forced : {0, 1}) {
        const int k = forced ? 2 : 6;
        const Told told = tell(k, 8, six, {OCTAVE, OCTAVE, OCTAVE, forced});
        EXPECT_EQ(told.indices, forced ? (Indices{0, 5}) : (Indices{0, 1, 2, 3, 4, 5}));
        EXPECT_EQ(told.shares_a, Shares(k, 0));
        EXPECT_EQ(told.shares_b, Shares(k, 0));
        EXPECT_EQ(told.rest_a, 0);
        EXPECT_EQ(told.rest_b, 0);
    }
}

/* Of two heads p is twice the mean probability; 2^-25 is half its unit. */
TEST(ReferenceHeads, FloorsByHand)
{
    const int32_t p = 1754480 + 1667300; /* of position 2: 2^24 * 16 / 153 and / 161, rounded down */
    const auto kept = [](float floor, int min_k = 0) {
        return tell(4, 4, six, {OCTAVE, OCTAVE, OCTAVE, 0, min_k, floor}).indices;
    };
    EXPECT_EQ(kept(0), (Indices{1, 2, 3, 4}));
    EXPECT_EQ(kept(static_cast<float>(p) * 0x1p-25f), (Indices{1, 2, 3}));
    EXPECT_EQ(kept(static_cast<float>(p + 1) * 0x1p-25f), (Indices{1, 3}));
    EXPECT_EQ(kept(0.41f), (Indices{1})); /* 3 has 0.4008 */
    EXPECT_EQ(kept(0.9f), (Indices{}));
    EXPECT_EQ(kept(0.9f, 2), (Indices{1, 3}));
    EXPECT_EQ(kept(0.9f, 3), (Indices{1, 2, 3}));
}

TEST(ReferenceHeads, EqualOnesBySmallestPosition)
{
    EXPECT_EQ(tell(1, 2, {{0, 0}, {0, 7}, {7, 0}}).indices, (Indices{1}));
    EXPECT_EQ(tell(2, 3, {{2, 2}, {0, 7}, {7, 0}, {2, 2}, {2, 2}}).indices, (Indices{1, 2}));
    EXPECT_EQ(tell(3, 4, {{0, 7}, {2, 2}, {7, 0}, {2, 2}, {2, 2}}).indices, (Indices{0, 1, 2}));
}

TEST(ReferenceHeads, AnchorsByHand)
{
    /* p of the eight is 2^-2 + 2^-5 of that of 1 in each head, which is more than 4 times as much; by single heads' T only four are near. */
    const std::vector<Key> ten = {{0, 0}, {7, 7}, {5, 2}, {2, 5}, {5, 2}, {2, 5}, {5, 2}, {2, 5}, {5, 2}, {2, 5}};
    Shares a = {T0}, b = {T0};
    for (int i = 0; i < 4; i++) {
        a.insert(a.end(), {(T0 >> 2) | ANCHOR, (T0 >> 5) | ANCHOR});
        b.insert(b.end(), {(T0 >> 5) | ANCHOR, (T0 >> 2) | ANCHOR});
    }
    const Told told = tell(9, 10, ten);
    EXPECT_EQ(told.indices, (Indices{1, 2, 3, 4, 5, 6, 7, 8, 9}));
    EXPECT_EQ(told.shares_a, a);
    EXPECT_EQ(told.shares_b, b);
    EXPECT_EQ(told.rest_a, T0 >> 7);
    /* Seven are too few: all are. */
    for (Shares *shares : {&a, &b}) {
        shares->pop_back();
        shares->front() |= ANCHOR;
    }
    const Told fewer = tell(8, 9, std::vector<Key>(ten.begin(), ten.end() - 1));
    EXPECT_EQ(fewer.shares_a, a);
    EXPECT_EQ(fewer.shares_b, b);
    /* A score of head A is worth 32 octaves: nothing but its best one has a share, and is an anchor. */
    const Told steep = tell(2, 4, six, {OCTAVE, 32768});
    EXPECT_EQ(steep.indices, (Indices{1, 3}));
    EXPECT_EQ(steep.shares_a, (Shares{T0 | ANCHOR, 0}));
    EXPECT_EQ(steep.shares_b, (Shares{(T0 >> 7) | ANCHOR, T0 | ANCHOR}));
    EXPECT_EQ(steep.rest_a, 0);
}

/* A head's weights and step are those of a selection of its own. */
TEST(ReferenceHeads, WeightsAreThoseOfOwnSelections)
{
    for (unsigned seed = 0; seed < 4; seed++) {
        Shape s;
        s.score_kind = HATTN_SCORE_WEIGHTED;
        s.tail = 0.5f;
        s.spread = seed % 2;
        s.q_len = 2;
        s.seed = seed;
        s.candidates = 16;
        World by_heads(s);
        s.candidates = 0;
        World of_groups(s);
        s.selection_heads = s.q_heads;
        World of_heads(s);
        for (World *w : {&by_heads, &of_groups, &of_heads})
            w->encode_queries();
        EXPECT_EQ(by_heads.head_weights, of_heads.weights);
        EXPECT_EQ(by_heads.head_steps, of_heads.steps);
        EXPECT_EQ(by_heads.weights, of_groups.weights);
        EXPECT_EQ(by_heads.steps, of_groups.steps);
    }
}

} // namespace
