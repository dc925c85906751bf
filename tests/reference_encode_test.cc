/* SPDX-License-Identifier: Apache-2.0
 * The reference's encoding of keys and queries on vectors small enough to work out by hand: every expected number is written
 * down here.
 */
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/reference_world.h"

namespace {

const float NaN = std::numeric_limits<float>::quiet_NaN(), INF = std::numeric_limits<float>::infinity();

std::vector<uint32_t> encode(World &w, std::vector<float> keys, std::vector<float> weight, std::vector<float> bias = {},
                             std::vector<uint16_t> *norms = nullptr)
{
    int n = static_cast<int>(keys.size()) / 2;
    std::vector<uint32_t> codes(n, 0xaaaaaaaa);
    hattn_encode_keys_args args = {};
    args.num_tokens = n;
    args.k_new = buffer(keys);
    args.key_map.weight[0] = buffer(weight);
    args.key_map.bias[0] = bias.empty() ? hattn_buffer{} : buffer(bias);
    args.codes = buffer(codes);
    args.norms = norms ? buffer(*norms) : hattn_buffer{};
    hattn_reference_encode_keys(&w.p, &args);
    return codes;
}

TEST(ReferenceEncodeKeys, BitsAreSignsAboveZero)
{
    World w(tiny());
    /* x = (1, -2): z = first row - 2 * second row = -1, 0, 1, 3, -4, 5, 0, 2^-30. */
    std::vector<float> weight = {1, 2, 3, 1, 0, 3, 0, 0, 1, 1, 1, -1, 2, -1, 0, -0x1p-31f};
    EXPECT_EQ(std::vector<uint32_t>({0xac}), encode(w, {1, -2}, weight));
    /* The bias moves bits 0 and 5 across zero, and bit 1 off it. */
    EXPECT_EQ(std::vector<uint32_t>({0x8f}), encode(w, {1, -2}, weight, {1.5f, 0.25f, 0, 0, 0, -5, 0, 0}));
    /* NaN is no set bit; infinity is. */
    EXPECT_EQ(std::vector<uint32_t>({0, 0x2f}),
              encode(w, {NaN, 1, INF, 0}, {1, 1, 1, 1, -1, 1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1}));
}

TEST(ReferenceEncodeKeys, NormsAreRoundedOnce)
{
    Shape s = tiny();
    s.norms = 1;
    World w(s);
    std::vector<uint16_t> norms(5, 0xaaaa);
    encode(w, {1, -2, 3, 4, 60000, 60000, 0, 0, NaN, 1}, std::vector<float>(16, 1), {}, &norms);
    EXPECT_EQ(0x4079, norms[0]); /* sqrt 5 = 2.23607: 2.236328125 */
    EXPECT_EQ(0x4500, norms[1]); /* 5 */
    EXPECT_EQ(0x7c00, norms[2]); /* beyond fp16 */
    EXPECT_EQ(0, norms[3]);
    EXPECT_TRUE(std::isnan(hattn_reference_load(norms.data(), HATTN_F16, 4)));
}

TEST(ReferenceEncodeKeys, SlotsPagesAndHeads)
{
    Shape s = tiny();
    s.q_heads = s.code_heads = s.selection_heads = 4;
    s.kv_heads = 2;
    s.page_size = 3;
    s.bits = 40;
    World w(s);
    /* Code heads 0, 1 read KV head 0, whose key is (1, 0); 2, 3 read KV head 1: (0, 1). Two words a code. */
    std::vector<float> keys = {1, 0, 0, 1}, more = {9, 9, 9, 9}, weight(4 * 2 * 40, -1);
    keys.insert(keys.end(), more.begin(), more.end());
    keys.insert(keys.end(), {-1, 0, 0, -1});
    weight[0 * 80 + 0 * 40 + 3] = 1;
    weight[1 * 80 + 0 * 40 + 31] = 1;
    weight[1 * 80 + 1 * 40 + 30] = 1; /* of the other dimension: no effect */
    weight[2 * 80 + 1 * 40 + 32] = 1;
    weight[3 * 80 + 1 * 40 + 39] = 1;
    std::vector<int64_t> slots = {4, -1, 0};
    std::vector<uint32_t> codes(6 * 4 * 2, 0xaaaaaaaa), expected = codes;
    hattn_encode_keys_args args = {};
    args.num_tokens = 3;
    args.k_new = buffer(keys);
    args.key_map.weight[0] = buffer(weight);
    args.slot_mapping = buffer(slots);
    args.codes = buffer(codes);
    hattn_reference_encode_keys(&w.p, &args);
    const uint32_t first[] = {8, 0, 0x80000000, 0, 0, 1, 0, 0x80};
    for (int i = 0; i < 8; i++) {
        expected[4 * 8 + i] = first[i];                                      /* slot 4: page 1, slot 1 */
        expected[0 * 8 + i] = (i % 2 ? 0x000000ff : 0xffffffff) & ~first[i]; /* the negated key: all other bits */
    }
    EXPECT_EQ(expected, codes);
}

TEST(ReferenceEncodeKeys, ContiguousSlotsStepOverSequences)
{
    World w(tiny());
    w.p.codes.stride[0] = 10; /* of max_length 4: six unused after each sequence */
    std::vector<float> keys = {1, 1}, weight(16, 1);
    std::vector<int64_t> slots = {6};
    std::vector<uint32_t> codes(20, 7);
    hattn_encode_keys_args args = {};
    args.num_tokens = 1;
    args.k_new = buffer(keys);
    args.key_map.weight[0] = buffer(weight);
    args.slot_mapping = buffer(slots);
    args.codes = buffer(codes);
    hattn_reference_encode_keys(&w.p, &args);
    std::vector<uint32_t> expected(20, 7);
    expected[12] = 0xff;
    EXPECT_EQ(expected, codes);
}

TEST(ReferenceEncodeKeys, ScalesOfFp8)
{
    Shape s = tiny();
    s.q_heads = s.kv_heads = s.code_heads = s.selection_heads = 2;
    s.kv_dtype = HATTN_F8_E4M3;
    s.norms = 1;
    World w(s);
    std::vector<uint8_t> keys = {0x40, 0, 0, 0xb8}; /* (2, 0) and (0, -1) */
    std::vector<float> weight(32, 1), scale = {0.5f, -3};
    std::vector<uint32_t> codes(2);
    std::vector<uint16_t> norms(2);
    hattn_encode_keys_args args = {};
    args.num_tokens = 1;
    args.k_new = buffer(keys);
    args.key_map.weight[0] = buffer(weight);
    args.codes = buffer(codes);
    args.norms = buffer(norms);
    hattn_reference_encode_keys(&w.p, &args);
    EXPECT_EQ(std::vector<uint32_t>({0xff, 0}), codes);
    EXPECT_EQ(std::vector<uint16_t>({0x4000, 0x3c00}), norms);
    args.k_scale = buffer(scale);
    hattn_reference_encode_keys(&w.p, &args);
    EXPECT_EQ(std::vector<uint32_t>({0xff, 0}), codes);
    EXPECT_EQ(std::vector<uint16_t>({0x3c00, 0x3800}), norms);
    w.p.per_head_kv_scales = 1;
    hattn_reference_encode_keys(&w.p, &args);
    EXPECT_EQ(std::vector<uint32_t>({0xff, 0xff}), codes);
    EXPECT_EQ(std::vector<uint16_t>({0x3c00, 0x4200}), norms);
}

std::vector<int> weights_of(const Shape &s, std::vector<float> q, std::vector<float> weight)
{
    World w(s);
    hattn_encode_queries_args args = {};
    std::vector<int8_t> weights(s.bits + 1, 0x55);
    args.num_rows = 1;
    args.q = buffer(q);
    args.query_map.weight[0] = buffer(weight);
    args.weights = buffer(weights);
    hattn_reference_encode_queries(&w.p, &args);
    EXPECT_EQ(0x55, weights.back());
    return std::vector<int>(weights.begin(), weights.end() - 1);
}

TEST(ReferenceEncodeQueries, HammingCountsSigns)
{
    Shape s = tiny();
    std::vector<float> weight = {1, -1, 0, 1, 1, -1, -1, 1, 0, 0, 0, 1, -1, 1, -1, NaN};
    EXPECT_EQ(std::vector<int>({1, -1, -1, 1, 1, -1, -1, -1}), weights_of(s, {2, 1}, weight));
    s.q_heads = 3; /* signs of (1, 0), (0, 1), (-1, -1) */
    EXPECT_EQ(std::vector<int>({-1, -1, -3, 1, -1, -1, -1, -3}), weights_of(s, {1, 0, 0, 1, -1, -1}, weight));
    s.q_heads = 4; /* and (1, 0) again; an even group is halved */
    EXPECT_EQ(std::vector<int>({0, -1, -2, 1, 0, -1, -1, -2}), weights_of(s, {1, 0, 0, 1, -1, -1, 1, 0}, weight));
}

TEST(ReferenceEncodeQueries, WeightedRoundsTiesToEven)
{
    Shape s = tiny();
    s.score_kind = HATTN_SCORE_WEIGHTED;
    std::vector<float> weight = {14, 1, 3, 5, -1, -3, -5, 13, 0, 0, 0, 0, 0, 0, 0, 0};
    /* 4 bits: qmax 7, so w = u / 2. */
    EXPECT_EQ(std::vector<int>({7, 0, 2, 2, 0, -2, -2, 6}), weights_of(s, {1, 7}, weight));
    EXPECT_EQ(std::vector<int>({-7, 0, -2, -2, 0, 2, 2, -6}), weights_of(s, {-3, 7}, weight));
    s.weight_bits = 2;
    EXPECT_EQ(std::vector<int>({1, 0, 0, 0, 0, 0, 0, 1}), weights_of(s, {1, 7}, weight));
    s.weight_bits = 8; /* 127 u / 14 */
    EXPECT_EQ(std::vector<int>({127, 9, 27, 45, -9, -27, -45, 118}), weights_of(s, {1, 7}, weight));
    s.q_heads = 2; /* u adds up over the group: 28, 0, 6, 10, -2, -12, -38, 26, times 7 / 38 */
    s.weight_bits = 4;
    std::vector<float> second = {14, 1, 3, 5, -1, -3, -5, 13, 0, 2, 0, 0, 0, 6, 28, 0};
    EXPECT_EQ(std::vector<int>({5, 0, 1, 2, 0, -2, -7, 5}), weights_of(s, {1, 0, 1, -1}, second));
}

TEST(ReferenceEncodeQueries, WeightedWithoutDirectionIsZero)
{
    Shape s = tiny();
    s.score_kind = HATTN_SCORE_WEIGHTED;
    std::vector<float> weight = {14, 1, 3, 5, -1, -3, -5, 13, 0, 0, 0, 0, 0, 0, 0, 1};
    std::vector<int> zero(8, 0);
    EXPECT_EQ(zero, weights_of(s, {0, 0}, weight));
    EXPECT_EQ(zero, weights_of(s, {0, NaN}, weight));
    for (float bad : {NaN, INF, -INF}) { /* one bit is enough */
        weight[15] = bad;
        EXPECT_EQ(zero, weights_of(s, {1, 1}, weight));
    }
}

} // namespace
