/* SPDX-License-Identifier: Apache-2.0
 * The reference against algebra: other ways to say the same thing, on random data.
 */
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/reference_world.h"

namespace {

bool code_bit(const World &w, int64_t b, int64_t j, int64_t head, int r)
{
    return w.get<uint32_t>(w.codes, w.at(w.p.codes, b, j, head) + r / 32) >> r % 32 & 1;
}

/* Sign bits of one query head, in long double. */
std::vector<bool> query_bits(World &w, int row, int h)
{
    std::vector<double> x(w.p.head_dim_qk);
    for (int i = 0; i < w.p.head_dim_qk; i++)
        x[i] = hattn_reference_load(w.q.data(), w.p.q.dtype, row * w.p.q.stride[0] + h * w.p.q.stride[1] + i);
    int head = h * w.p.num_code_heads / w.p.num_q_heads;
    std::vector<bool> bits;
    for (int r = 0; r < w.p.code_bits; r++) {
        long double sum = 0;
        for (int i = 0; i < w.p.head_dim_qk; i++)
            sum += static_cast<long double>(x[i]) *
                   w.wq[head * w.p.query_map.weight_stride[0][0] + i * w.p.query_map.weight_stride[0][1] + r];
        bits.push_back(sum > 0);
    }
    return bits;
}

TEST(ReferenceIdentities, HammingScoreRanksBySummedDistance)
{
    for (int group : {1, 2, 3, 4, 7}) {
        /* One selection a group; one a query head, on the group's codes; everything by query head. */
        for (int heads = 0; heads < 3; heads++) {
            Shape s;
            s.kv_heads = 2;
            s.q_heads = 2 * group;
            s.code_heads = heads == 2 ? s.q_heads : 2;
            s.selection_heads = heads >= 1 ? s.q_heads : 2;
            s.bits = 72;
            s.q_len = 2;
            s.seed = static_cast<unsigned>(group * 3 + heads);
            World w(s);
            w.encode_all_keys();
            w.encode_queries();
            w.score();
            int heads_of_s = s.q_heads / s.selection_heads, factor = heads_of_s % 2 ? 1 : 2;
            for (int row = 0; row < w.rows; row++) {
                for (int sel = 0; sel < s.selection_heads; sel++) {
                    int64_t constant = -1;
                    std::vector<std::vector<bool>> bits;
                    for (int h = sel * heads_of_s; h < (sel + 1) * heads_of_s; h++)
                        bits.push_back(query_bits(w, row, h));
                    for (int64_t j = 0; j < w.length(row); j++) {
                        int64_t distance = 0;
                        for (const auto &query : bits)
                            for (int r = 0; r < s.bits; r++)
                                distance += query[r] !=
                                            code_bit(w, row / s.q_len, j,
                                                     static_cast<int64_t>(sel) * s.code_heads / s.selection_heads, r);
                        int64_t score =
                            w.get<uint16_t>(w.scores, row * w.p.scores.stride[0] + sel * w.p.scores.stride[1] + j);
                        if (j == 0)
                            constant = factor * score + distance;
                        ASSERT_EQ(constant, factor * score + distance)
                            << "group " << group << " row " << row << " key " << j;
                    }
                }
            }
        }
    }
}

TEST(ReferenceIdentities, ScoreIsPlanesIsSumPlusConstant)
{
    for (int bits : {32, 40, 64, 128, 200, 512}) {
        for (int weight_bits : {2, 4, 8}) {
            Shape s;
            s.bits = bits;
            s.score_kind = HATTN_SCORE_WEIGHTED;
            s.weight_bits = weight_bits;
            s.page_size = 7;
            s.spread = true;
            World w(s);
            w.encode_all_keys();
            w.encode_queries();
            w.score();
            int qmax = (1 << (weight_bits - 1)) - 1;
            for (int row = 0; row < w.rows; row++) {
                for (int sel = 0; sel < s.selection_heads; sel++) {
                    const auto *weight = reinterpret_cast<const int8_t *>(
                        &w.weights[row * w.p.weights.stride[0] + sel * w.p.weights.stride[1]]);
                    int largest = 0;
                    for (int r = 0; r < bits; r++)
                        largest = std::max(largest, std::abs(weight[r]));
                    ASSERT_EQ(qmax, largest);
                    for (int64_t j = 0; j < w.length(row); j++) {
                        int sum = 0, constant = 0, planes = 0;
                        for (int r = 0; r < bits; r++) {
                            bool bit = code_bit(w, row, j, sel, r), negative = weight[r] < 0;
                            sum += weight[r] * bit;
                            constant += negative ? -weight[r] : 0;
                            for (int p = 0; p < 7; p++)
                                planes += (bit != negative && std::abs(weight[r]) >> p & 1) << p;
                        }
                        int64_t at = row * w.p.scores.stride[0] + sel * w.p.scores.stride[1] + j;
                        ASSERT_EQ(sum + constant, w.get<uint16_t>(w.scores, at));
                        ASSERT_EQ(planes, w.get<uint16_t>(w.scores, at));
                    }
                }
            }
        }
    }
}

TEST(ReferenceIdentities, TopkIsAStableSort)
{
    std::mt19937 random(7);
    for (int round = 0; round < 400; round++) {
        Shape s;
        s.max_length = 1 + static_cast<int>(random() % 300);
        s.k = 1 + static_cast<int>(random() % 120);
        s.sink = static_cast<int>(random() % 3) * static_cast<int>(random() % static_cast<unsigned>(s.k + 1)) / 3;
        s.recent = static_cast<int>(random() % static_cast<unsigned>(s.k - s.sink + 1)) / 2;
        s.norms = round % 2;
        s.q_len = 1 + round % 3;
        s.spread = round % 5 == 0;
        s.seed = static_cast<unsigned>(round);
        World w(s);
        const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -NAN, 1e-42f, -1e-42f};
        unsigned levels = 1 + random() % 40;
        for (int64_t i = 0; i < static_cast<int64_t>(w.scores.size()) / hattn_dtype_size(w.p.scores.dtype); i++) {
            unsigned level = random() % levels;
            if (s.norms)
                w.set<float>(w.scores, i, level < 8 ? special[level] : (static_cast<float>(level) - 20) * 1.5f);
            else
                w.set<uint16_t>(w.scores, i, static_cast<uint16_t>(level * 1700));
        }
        std::vector<int32_t> budgets(s.sequences * s.selection_heads);
        for (int32_t &budget : budgets)
            budget = static_cast<int32_t>(random() % static_cast<unsigned>(s.k + 20)) - 10;
        w.topk(round % 4 ? buffer(budgets) : hattn_buffer{});

        for (int row = 0; row < w.rows; row++) {
            for (int sel = 0; sel < s.selection_heads; sel++) {
                int n = static_cast<int>(w.length(row)), budget = s.k, forced = s.sink + s.recent;
                if (round % 4)
                    budget = std::clamp(budgets[row / s.q_len * s.selection_heads + sel], 0, s.k);
                int kept = std::min(n, std::max(budget, forced));
                std::vector<int> order(n);
                std::iota(order.begin(), order.end(), 0);
                auto tier = [&](int j) { return j < s.sink || j >= n - s.recent ? 0 : 1; };
                auto score = [&](int j) {
                    int64_t at = row * w.p.scores.stride[0] + sel * w.p.scores.stride[1] + j;
                    return s.norms ? static_cast<double>(w.get<float>(w.scores, at))
                                   : static_cast<double>(w.get<uint16_t>(w.scores, at));
                };
                std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
                    if (tier(a) != tier(b))
                        return tier(a) < tier(b);
                    if (tier(a) == 0 || std::isnan(score(a)))
                        return false;
                    return std::isnan(score(b)) || score(a) > score(b);
                });
                order.resize(kept);
                std::sort(order.begin(), order.end());
                order.resize(s.k, -1);
                ASSERT_EQ(kept, w.get<int32_t>(w.counts, row * w.p.counts.stride[0] + sel * w.p.counts.stride[1]));
                for (int i = 0; i < s.k; i++)
                    ASSERT_EQ(order[i],
                              w.get<int32_t>(w.indices, row * w.p.indices.stride[0] + sel * w.p.indices.stride[1] + i))
                        << "round " << round << " row " << row << " head " << sel << " at " << i;
            }
        }
    }
}

TEST(ReferenceIdentities, TopkOfAMillion)
{
    for (int norms : {0, 1}) {
        Shape s;
        s.q_heads = s.kv_heads = s.code_heads = s.selection_heads = s.sequences = 1;
        s.d = s.dv = 1;
        s.bits = 8;
        s.max_length = 1 << 20;
        s.k = 2048;
        s.norms = norms;
        World w(s);
        std::mt19937 random(3);
        std::vector<float> best_first;
        for (int j = 0; j < s.max_length; j++) {
            auto score = static_cast<uint16_t>(random() % 60000);
            norms ? w.set<float>(w.scores, j, score * 0.5f - 9000) : w.set<uint16_t>(w.scores, j, score);
            best_first.push_back(score);
        }
        std::vector<float> scores = best_first;
        std::nth_element(best_first.begin(), best_first.begin() + s.k - 1, best_first.end(), std::greater<float>());
        w.topk();
        int above = 0;
        for (int i = 0; i < s.k; i++) {
            int32_t j = w.get<int32_t>(w.indices, i);
            ASSERT_TRUE(i == 0 ? j >= 0 : j > w.get<int32_t>(w.indices, i - 1));
            ASSERT_GE(scores[j], best_first[s.k - 1]);
            above += scores[j] > best_first[s.k - 1];
        }
        EXPECT_EQ(std::count_if(scores.begin(), scores.end(), [&](float x) { return x > best_first[s.k - 1]; }), above);
    }
}

/* Softmax in long double over every row and head of a world that has been attended to. */
void check_attention(World &w, const Shape &s, bool dense, const std::vector<float> &sinks, double out_eps)
{
    for (int row = 0; row < w.rows; row++) {
        for (int h = 0; h < s.q_heads; h++) {
            int g = h * s.kv_heads / s.q_heads, sel = h * s.selection_heads / s.q_heads, b = row / s.q_len;
            long double k_scale = w.fp8() ? w.k_scale[s.per_head_kv_scales ? g : 0] : 1;
            long double v_scale = w.fp8() ? w.v_scale[s.per_head_kv_scales ? g : 0] : 1;
            int64_t n = dense ? w.length(row)
                              : w.get<int32_t>(w.counts, row * w.p.counts.stride[0] + sel * w.p.counts.stride[1]);
            std::vector<long double> sum(s.dv, 0.0L);
            long double denominator = sinks.empty() ? 0 : std::exp(static_cast<long double>(sinks[h])), largest_v = 0;
            for (int64_t i = 0; i < n; i++) {
                int64_t j =
                    dense ? i
                          : w.get<int32_t>(w.indices, row * w.p.indices.stride[0] + sel * w.p.indices.stride[1] + i);
                long double x = 0;
                for (int e = 0; e < s.d; e++)
                    x += static_cast<long double>(hattn_reference_load(
                             w.q.data(), s.q_dtype, row * w.p.q.stride[0] + h * w.p.q.stride[1] + e)) *
                         hattn_reference_load(w.k.data(), s.kv_dtype, w.at(w.p.k_cache, b, j, g) + e);
                x *= k_scale * w.p.scale;
                if (s.soft_cap > 0)
                    x = s.soft_cap * std::tanh(x / s.soft_cap);
                denominator += std::exp(x);
                for (int e = 0; e < s.dv; e++) {
                    long double value =
                        v_scale * hattn_reference_load(w.v.data(), s.kv_dtype, w.at(w.p.v_cache, b, j, g) + e);
                    sum[e] += std::exp(x) * value;
                    largest_v = std::max(largest_v, std::fabs(value));
                }
            }
            for (int e = 0; e < s.dv; e++) {
                double got = hattn_reference_load(w.out.data(), s.out_dtype,
                                                  row * w.p.out.stride[0] + h * w.p.out.stride[1] + e);
                double expected = n > 0 ? static_cast<double>(sum[e] / denominator) : 0;
                ASSERT_TRUE(std::fabs(got - expected) <= out_eps * largest_v) << got << " " << expected;
            }
            double lse = w.get<float>(w.lse, row * w.p.lse.stride[0] + h * w.p.lse.stride[1]);
            double expected = static_cast<double>(std::log(denominator));
            if (denominator > 0)
                ASSERT_TRUE(std::fabs(lse - expected) <= 0x1p-24 * std::fabs(expected) + 1e-13)
                    << lse << " " << expected;
            else
                ASSERT_EQ(-INFINITY, lse);
        }
    }
}

TEST(ReferenceIdentities, AttentionIsALongDoubleSoftmax)
{
    const int kv_dtypes[] = {HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3};
    for (int variant = 0; variant < 32; variant++) {
        Shape s;
        s.kv_dtype = kv_dtypes[variant % 4];
        s.q_dtype = s.kv_dtype == HATTN_F8_E4M3 ? HATTN_BF16 : s.kv_dtype;
        s.out_dtype = variant / 4 % 2 ? HATTN_F32 : s.q_dtype;
        s.soft_cap = variant / 8 % 2 ? 1.5f : 0;
        s.page_size = variant / 16 % 2 ? 8 : 0;
        s.spread = variant % 3 == 0;
        s.q_heads = 6;
        s.selection_heads = variant % 5 ? 2 : 6;
        s.dv = 24;
        s.q_len = 1 + variant % 3;
        s.per_head_kv_scales = variant / 4 % 2;
        s.seed = static_cast<unsigned>(variant);
        World w(s);
        std::vector<float> sinks = {-1, 0.5f, 2, 0, -30, 1};
        bool with_sinks = variant % 7 < 3;
        w.encode_all_keys();
        w.encode_queries();
        w.score();
        w.topk();
        double eps = s.out_dtype == HATTN_F32 ? 0x1p-24 : s.out_dtype == HATTN_F16 ? 0x1p-11 : 0x1p-8;
        for (bool dense : {false, true}) {
            w.attend(dense, with_sinks ? buffer(sinks) : hattn_buffer{});
            check_attention(w, s, dense, with_sinks ? sinks : std::vector<float>(), eps * 1.01);
        }
    }
}

} // namespace
