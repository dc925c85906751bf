/* SPDX-License-Identifier: Apache-2.0
 * hattn_plan_create: every refusal by name, a row for each rule of api/validate.c; the limits that must be accepted.
 */
#include <cmath>
#include <functional>
#include <limits>

#include "tests/plan_fixture.h"

namespace {

using Change = std::function<void(hattn_problem &)>;

struct Refusal {
    const char *name; /* what the text must say */
    hattn_status status;
    Change change;
};

const float NaN = std::numeric_limits<float>::quiet_NaN(), INF = std::numeric_limits<float>::infinity();

/* A change to a field whose other fields may depend on it is made before the defaults; all others after. */
void mlp(hattn_problem &p)
{
    p.map_kind = HATTN_MAP_MLP;
    for (hattn_map *map : {&p.key_map, &p.query_map})
        *map = {HATTN_F16, {16, 24}, 0, {}, {}};
}

#define SET(field, value) [](hattn_problem &p) { p.field = value; }
#define SET_WEIGHTED(changes)                                   \
    [](hattn_problem &p) {                                      \
        p.score_kind = HATTN_SCORE_WEIGHTED, p.weight_bits = 4; \
        changes;                                                \
    }
#define SET_MLP(field, value) \
    [](hattn_problem &p) {    \
        mlp(p);               \
        p.field = value;      \
    }

const hattn_status INVALID = HATTN_INVALID_ARGUMENT, UNSUPPORTED = HATTN_UNSUPPORTED;

const Refusal refusals[] = {
    {"struct_size", INVALID, SET(struct_size, 0)},
    {"struct_size", INVALID, SET(struct_size, 4)},
    {"struct_size", INVALID, SET(struct_size, UINT32_MAX)},
    {"num_kv_heads", INVALID, SET(num_kv_heads, 0)},
    {"num_kv_heads", INVALID, SET(num_kv_heads, -2)},
    {"num_kv_heads", INVALID, SET(num_kv_heads, 4097)},
    {"num_q_heads", INVALID, SET(num_q_heads, 0)},
    {"num_q_heads", INVALID, SET(num_q_heads, -2)},
    {"num_q_heads", INVALID, SET(num_q_heads, 9)},
    {"num_q_heads / num_kv_heads", UNSUPPORTED, SET(num_q_heads, 2 * 129)},
    {"num_code_heads", INVALID, SET(num_code_heads, -2)},
    {"num_code_heads", INVALID, SET(num_code_heads, 4)},
    {"num_selection_heads", INVALID, SET(num_selection_heads, -2)},
    {"num_selection_heads", INVALID, SET(num_selection_heads, 4)},
    {"num_code_heads", UNSUPPORTED, SET(num_code_heads, 8)},
    {"head_dim_qk", UNSUPPORTED, SET(head_dim_qk, 24)},
    {"head_dim_qk", UNSUPPORTED, SET(head_dim_qk, 60)},
    {"head_dim_qk", UNSUPPORTED, SET(head_dim_qk, 584)},
    {"head_dim_qk", UNSUPPORTED, SET(head_dim_qk, -64)},
    {"head_dim_v", UNSUPPORTED, SET(head_dim_v, 24)},
    {"head_dim_v", UNSUPPORTED, SET(head_dim_v, 60)},
    {"head_dim_v", UNSUPPORTED, SET(head_dim_v, 584)},
    {"code_bits", UNSUPPORTED, SET(code_bits, 24)},
    {"code_bits", UNSUPPORTED, SET(code_bits, 65)},
    {"code_bits", UNSUPPORTED, SET(code_bits, 520)},
    {"code_layout", UNSUPPORTED, SET(code_layout, 1)},
    {"sliding_window", UNSUPPORTED, SET(sliding_window, 128)},
    {"sliding_window", UNSUPPORTED, SET(sliding_window, -1)},
    {"page_size", INVALID, SET(page_size, -1)},
    {"max_sequences", INVALID, SET(max_sequences, 0)},
    {"max_rows", INVALID, SET(max_rows, -1)},
    {"max_q_len", UNSUPPORTED, SET(max_q_len, -1)},
    {"max_q_len", UNSUPPORTED, SET(max_q_len, 9)},
    {"max_length", INVALID, SET(max_length, 0)},
    {"max_length", INVALID, SET(max_length, (1 << 30) + 1)},
    {"k is", INVALID, SET(k, 0)},
    {"k is", INVALID, SET(k, (1 << 30) + 1)},
    {"num_sink", INVALID, SET(num_sink, -1)},
    {"num_recent", INVALID, SET(num_recent, -1)},
    {"num_sink", INVALID, SET(num_sink, 11)},
    {"num_recent", INVALID, SET(num_recent, 11)},
    {"num_sink + num_recent", INVALID, [](hattn_problem &p) { p.num_sink = 6, p.num_recent = 5; }},
    {"num_sink + num_recent", INVALID, [](hattn_problem &p) { p.num_sink = p.num_recent = INT32_MAX; }},
    {"scale", INVALID, SET(scale, INF)},
    {"scale", INVALID, SET(scale, NaN)},
    {"soft_cap", INVALID, SET(soft_cap, -1)},
    {"soft_cap", INVALID, SET(soft_cap, INF)},
    {"soft_cap", INVALID, SET(soft_cap, NaN)},
    {"key_norms", INVALID, SET(key_norms, 2)},
    {"key_norms", INVALID, SET(key_norms, -1)},
    {"min_probability", INVALID, SET(min_probability, -0.1f)},
    {"min_probability", INVALID, SET(min_probability, 1)},
    {"min_probability", INVALID, SET(min_probability, NaN)},
    {"min_probability", UNSUPPORTED, [](hattn_problem &p) { p.min_probability = 0.1f, p.key_norms = 1; }},
    {"min_k", INVALID, SET(min_k, 1)},
    {"min_k", INVALID, [](hattn_problem &p) { p.min_probability = 0.1f, p.min_k = -1; }},
    {"min_k", INVALID, [](hattn_problem &p) { p.min_probability = 0.1f, p.min_k = 11; }},
    {"tail is -0.1", INVALID, SET(tail, -0.1f)},
    {"tail is 1.1", INVALID, SET(tail, 1.1f)},
    {"tail is nan", INVALID, SET(tail, NaN)},
    {"tail is inf", INVALID, SET(tail, INF)},
    {"key_norms", UNSUPPORTED, [](hattn_problem &p) { p.tail = 0.5f, p.key_norms = 1; }},
    {"min_value_weight is -0.1", INVALID, [](hattn_problem &p) { p.tail = 0.5f, p.min_value_weight = -0.1f; }},
    {"min_value_weight is 1", INVALID, [](hattn_problem &p) { p.tail = 0.5f, p.min_value_weight = 1; }},
    {"min_value_weight is nan", INVALID, [](hattn_problem &p) { p.tail = 0.5f, p.min_value_weight = NaN; }},
    {"without a tail", INVALID, SET(min_value_weight, 0.01f)},
    {"max_length", UNSUPPORTED, [](hattn_problem &p) { p.tail = 0.5f, p.max_length = (1 << 22) + 1; }},
    {"num_candidates is 9", INVALID, SET_WEIGHTED(p.num_candidates = 9)},
    {"num_candidates is -1", INVALID, SET_WEIGHTED(p.num_candidates = -1)},
    {"num_candidates is 1048577", INVALID, SET_WEIGHTED(p.num_candidates = (1 << 20) + 1)},
    {"weighted scores", UNSUPPORTED, SET(num_candidates, 10)},
    {"without key_norms", UNSUPPORTED, SET_WEIGHTED((p.num_candidates = 10, p.key_norms = 1))},
    {"65 query heads of a selection", UNSUPPORTED, SET_WEIGHTED((p.num_candidates = 10, p.num_q_heads = 2 * 65))},
    {"per_head_kv_scales", INVALID, SET(per_head_kv_scales, 2)},
    {"reserved", INVALID, SET(key_map.reserved, 1)},
    {"reserved", INVALID, SET(query_map.reserved, 1)},
    {"map_kind", UNSUPPORTED, SET(map_kind, -1)},
    {"map_kind", UNSUPPORTED, SET(map_kind, 3)},
    {"score_kind", UNSUPPORTED, SET(score_kind, -1)},
    {"score_kind", UNSUPPORTED, SET(score_kind, 3)},
    {"weight_bits", UNSUPPORTED, [](hattn_problem &p) { p.score_kind = HATTN_SCORE_WEIGHTED, p.weight_bits = 1; }},
    {"weight_bits", UNSUPPORTED, [](hattn_problem &p) { p.score_kind = HATTN_SCORE_WEIGHTED, p.weight_bits = 9; }},
    {"key_map.dtype", INVALID, SET(key_map.dtype, -1)},
    {"key_map.dtype", INVALID, SET(key_map.dtype, HATTN_F8_E4M3)},
    {"query_map.dtype", INVALID, SET(query_map.dtype, HATTN_I8)},
    {"key_map.hidden[0]", INVALID, SET(key_map.hidden[0], 8)},
    {"query_map.hidden[1]", INVALID, SET(query_map.hidden[1], 8)},
    {"key_map.hidden[0]", UNSUPPORTED, SET_MLP(key_map.hidden[0], 0)},
    {"key_map.hidden[1]", UNSUPPORTED, SET_MLP(key_map.hidden[1], 12)},
    {"query_map.hidden[0]", UNSUPPORTED, SET_MLP(query_map.hidden[0], 1032)},
    {"query_map.hidden[1]", UNSUPPORTED, SET_MLP(query_map.hidden[1], -8)},
    {"key_map.weight_stride[0] {head}", INVALID, SET(key_map.weight_stride[0][0], -2)},
    {"key_map.weight_stride[0] {head}", INVALID, SET(key_map.weight_stride[0][0], FAR)},
    {"key_map.weight_stride[0] {input}", INVALID, SET(key_map.weight_stride[0][1], 63)},
    {"query_map.weight_stride[0] {input}", INVALID, SET(query_map.weight_stride[0][1], FAR)},
    {"key_map.weight_stride[1] {head}", INVALID, SET_MLP(key_map.weight_stride[1][0], FAR)},
    {"key_map.weight_stride[1] {input}", INVALID, SET_MLP(key_map.weight_stride[1][1], 23)},
    {"query_map.weight_stride[2] {input}", INVALID, SET_MLP(query_map.weight_stride[2][1], 63)},
    {"key_map.bias_stride[0]", INVALID, SET(key_map.bias_stride[0], -2)},
    {"key_map.bias_stride[0]", INVALID, SET(key_map.bias_stride[0], FAR)},
    {"query_map.bias_stride[2]", INVALID, SET_MLP(query_map.bias_stride[2], -2)},
    {"v_cache.dtype", INVALID, SET(v_cache.dtype, HATTN_BF16)},
    {"k_new.dtype", INVALID, SET(k_new.dtype, HATTN_F32)},
    {"out.dtype", INVALID, SET(out.dtype, HATTN_BF16)},
    {"q.dtype", INVALID, SET(q.dtype, HATTN_F8_E4M3)},
    {"scores.dtype", INVALID, SET(scores.dtype, HATTN_F32)},
    {"scores.dtype", INVALID, SET(key_norms, 1)}, /* u16 scores, set when there were no norms */
    {"k_cache.memory", INVALID, SET(k_cache.memory, 2)},
    {"v_cache.memory", INVALID, SET(v_cache.memory, -1)},
};

TEST_P(PlanTest, RefusesByName)
{
    expect_accepted(good_problem());
    for (const Refusal &refusal : refusals) {
        hattn_problem p = good_problem();
        refusal.change(p);
        expect_refused(refusal.name, refusal.status, p);
    }
}

TEST_P(PlanTest, RefusesNulls)
{
    hattn_problem p = good_problem();
    hattn_plan *plan = nullptr;
    hattn_error error = fresh_error();
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_create(nullptr, &p, &plan, &error));
    EXPECT_STREQ("device is null", error.text);
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_create(device_.get(), nullptr, &plan, &error));
    EXPECT_STREQ("problem is null", error.text);
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_create(device_.get(), &p, nullptr, &error));
    EXPECT_STREQ("plan is null", error.text);
    EXPECT_EQ(nullptr, plan);
    hattn_plan_destroy(nullptr);
}

TEST_P(PlanTest, CountersAreNamedOrRefused)
{
    hattn_problem p = good_problem();
    hattn_plan *plan = nullptr;
    uint64_t offset = 77;
    hattn_error error = fresh_error();
    ASSERT_EQ(HATTN_OK, hattn_plan_create(device_.get(), &p, &plan, &error)) << error.text;
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_counter(nullptr, HATTN_COUNTER_RESCORED, &offset, &error));
    EXPECT_STREQ("plan is null", error.text);
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_counter(plan, HATTN_COUNTER_RESCORED, nullptr, &error));
    EXPECT_STREQ("byte_offset is null", error.text);
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_counter(plan, static_cast<hattn_counter>(9), &offset, &error));
    EXPECT_STREQ("counter is 9: there is no such counter", error.text);
    EXPECT_EQ(HATTN_UNSUPPORTED, hattn_plan_counter(plan, HATTN_COUNTER_RESCORED, &offset, &error));
    EXPECT_STREQ((std::string(GetParam()) + ": this plan's runs do not count what they score again").c_str(),
                 error.text);
    EXPECT_EQ(77u, offset);
    hattn_plan_destroy(plan);
}

TEST_P(PlanTest, AcceptsTheLimits)
{
    const Change changes[] = {
        SET(num_q_heads, 2 * 128),
        SET(num_q_heads, 2),
        [](hattn_problem &p) { p.num_kv_heads = p.num_q_heads = 4096; },
        SET(num_code_heads, 2),
        SET(num_selection_heads, 8),
        [](hattn_problem &p) { p.num_code_heads = p.num_selection_heads = 8; },
        SET(head_dim_qk, 32),
        SET(head_dim_qk, 576),
        SET(head_dim_v, 32),
        SET(head_dim_v, 576),
        SET(head_dim_v, 72),
        SET(code_bits, 32),
        SET(code_bits, 40),
        SET(code_bits, 512),
        SET(page_size, 0),
        SET(page_size, 1),
        SET(page_size, 1 << 20),
        SET(max_q_len, 8),
        SET(max_length, 1),
        SET(max_length, 1 << 30),
        SET(k, 1 << 30),
        SET(max_rows, 1),
        SET(max_rows, 1000),
        SET(max_sequences, 1000),
        [](hattn_problem &p) { p.num_sink = 4, p.num_recent = 6; },
        SET(num_sink, 10),
        SET(scale, -2),
        SET(soft_cap, 30),
        SET(key_norms, 1),
        SET(tail, 1),
        SET(tail, 1e-38f),
        [](hattn_problem &p) { p.tail = 0.5f, p.min_probability = 0.5f, p.max_length = 1 << 22; },
        SET_WEIGHTED(p.num_candidates = p.k),
        SET_WEIGHTED((p.num_candidates = 1 << 20, p.num_q_heads = 2 * 64)),
        SET_WEIGHTED((p.num_candidates = 40, p.num_q_heads = p.num_selection_heads = 2 * 128)),
        SET_WEIGHTED((p.num_candidates = 40, p.tail = 0.5f, p.min_probability = 0.5f)),
        SET(per_head_kv_scales, 1),
        SET(weight_bits, 77), /* not read: hamming */
        [](hattn_problem &p) { p.score_kind = HATTN_SCORE_WEIGHTED, p.weight_bits = 2; },
        [](hattn_problem &p) { p.score_kind = HATTN_SCORE_WEIGHTED, p.weight_bits = 8; },
        SET_MLP(key_map.hidden[0], 8),
        SET_MLP(query_map.hidden[1], 1024),
        SET(k_cache.dtype, HATTN_F8_E4M3),
        SET(k_cache.dtype, HATTN_F32),
        SET(k_cache.dtype, HATTN_BF16),
        SET(q.dtype, HATTN_F32),
        SET(out.dtype, HATTN_F32),
        SET(key_map.dtype, HATTN_F32),
        SET(k_cache.memory, HATTN_MEMORY_PINNED_HOST),
        SET(v_cache.memory, HATTN_MEMORY_PINNED_HOST),
    };
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        SCOPED_TRACE(i);
        hattn_problem p = plain_problem();
        changes[i](p);
        p = completed(p);
        expect_accepted(p);
    }
}

/* Whatever is in the fields: a plan or a refusal with words. */
TEST_P(PlanTest, NeverCrashes)
{
    std::mt19937 random(11);
    const int64_t values[] = {0,
                              1,
                              2,
                              8,
                              64,
                              100,
                              255,
                              4096,
                              -1,
                              INT32_MAX,
                              INT32_MIN,
                              1 << 30,
                              static_cast<int64_t>(1) << 46,
                              FAR,
                              INT64_MAX,
                              INT64_MIN};
    int accepted = 0;
    for (int round = 0; round < 20000; round++) {
        hattn_problem p = round % 2 ? plain_problem() : good_problem();
        for (unsigned n = 1 + random() % 3; n > 0; n--) {
            int64_t value = values[random() % (sizeof(values) / sizeof(*values))];
            size_t size = random() % 2 ? 4 : 8, offset = random() % (sizeof(p) / size) * size;
            if (offset > 0)
                std::memcpy(reinterpret_cast<char *>(&p) + offset, &value, size);
        }
        if (round % 2)
            p = completed(p);
        hattn_error error = fresh_error();
        hattn_plan *plan = nullptr;
        hattn_status status = hattn_plan_create(device_.get(), &p, &plan, &error);
        if (status == HATTN_OK) {
            accepted++;
            ASSERT_GT(hattn_plan_workspace_size(plan), 0u);
            hattn_plan_destroy(plan);
        } else {
            ASSERT_TRUE(status == HATTN_INVALID_ARGUMENT || status == HATTN_UNSUPPORTED) << status;
            ASSERT_STRNE("untouched", error.text);
        }
    }
    EXPECT_GT(accepted, 100);
    EXPECT_LT(accepted, 19000);
}

INSTANTIATE_TEST_SUITE_P(Backends, PlanTest, testing::Values("reference", "cpu"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
