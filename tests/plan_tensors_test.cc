/* SPDX-License-Identifier: Apache-2.0
 * hattn_plan_create: dtypes, memory and strides of every tensor, refused by name or accepted.
 */
#include <algorithm>
#include <functional>
#include <vector>

#include "tests/plan_fixture.h"

namespace {

/* Every tensor: its number of strides, and the change that makes two of its elements one; none for inputs. */
struct Tensor {
    const char *name;
    hattn_tensor hattn_problem::*field;
    int num_strides;
    std::vector<int64_t> overlapping;
};

const Tensor tensors[] = {
    {"q", &hattn_problem::q, 2, {}},
    {"k_cache", &hattn_problem::k_cache, 3, {}},
    {"v_cache", &hattn_problem::v_cache, 3, {}},
    {"k_new", &hattn_problem::k_new, 2, {}},
    {"codes", &hattn_problem::codes, 3, {64, 2, 31}}, /* the heads' slots, 2 words each */
    {"norms", &hattn_problem::norms, 3, {32, 1, 15}},
    {"weights", &hattn_problem::weights, 2, {127, 64}},
    {"scores", &hattn_problem::scores, 2, {200, 99}},
    {"indices", &hattn_problem::indices, 2, {0, 10}},
    {"counts", &hattn_problem::counts, 2, {1, 1}},
    {"out", &hattn_problem::out, 2, {64, 255}}, /* rows inside heads: 4 rows of 64 need 256 */
    {"lse", &hattn_problem::lse, 2, {8, 0}},
    {"partial_out", &hattn_problem::partial_out, 3, {}},
    {"partial_lse", &hattn_problem::partial_lse, 3, {}},
    {"block_table", &hattn_problem::block_table, 1, {}},
    {"budgets", &hattn_problem::budgets, 2, {}},
};

/* Those that a tail has. */
const Tensor tail_tensors[] = {
    {"slopes", &hattn_problem::slopes, 1, {}},
    {"steps", &hattn_problem::steps, 2, {1, 1}},
    {"shares", &hattn_problem::shares, 2, {20, 9}},
    {"rests", &hattn_problem::rests, 2, {1, 1}},
    {"value_sums", &hattn_problem::value_sums, 2, {127, 64}},
    {"value_lengths", &hattn_problem::value_lengths, 2, {1, 1}},
};

/* Those that scores per query head have. */
const Tensor head_tensors[] = {
    {"head_weights", &hattn_problem::head_weights, 2, {511, 64}},
    {"head_slopes", &hattn_problem::head_slopes, 1, {}},
    {"head_steps", &hattn_problem::head_steps, 2, {7, 1}},
    {"shares", &hattn_problem::shares, 2, {79, 10}},
    {"rests", &hattn_problem::rests, 2, {7, 1}},
};

class PlanTensors : public PlanTest
{
protected:
    void refuse_all(const hattn_problem &good, const Tensor &tensor);
};

void PlanTensors::refuse_all(const hattn_problem &good, const Tensor &tensor)
{
    auto refuse = [&](const std::string &rule, const std::function<void(hattn_tensor &)> &change) {
        hattn_problem p = good;
        change(p.*tensor.field);
        expect_refused(tensor.name + rule, HATTN_INVALID_ARGUMENT, p);
    };
    const int32_t other = (good.*tensor.field).dtype == HATTN_I64 ? HATTN_I32 : HATTN_I64;
    for (int32_t dtype : {-1, HATTN_I64 + 1, INT32_MAX, INT32_MIN, other})
        refuse(".dtype", [&](hattn_tensor &t) { t.dtype = dtype; });
    if (tensor.field != &hattn_problem::k_cache && tensor.field != &hattn_problem::v_cache)
        refuse(".memory", [&](hattn_tensor &t) { t.memory = HATTN_MEMORY_PINNED_HOST; });
    for (int i = 0; i < tensor.num_strides; i++) {
        std::string stride = ".stride[" + std::to_string(i) + "]";
        refuse(stride, [&](hattn_tensor &t) { t.stride[i] = -2; });
        refuse(stride, [&](hattn_tensor &t) { t.stride[i] = FAR; });
    }
    if (!tensor.overlapping.empty())
        refuse(".stride",
               [&](hattn_tensor &t) { std::copy(tensor.overlapping.begin(), tensor.overlapping.end(), t.stride); });
}

TEST_P(PlanTensors, RefusesTensors)
{
    hattn_problem good = plain_problem();
    good.key_norms = 1;
    good = completed(good);
    expect_accepted(good);
    for (const Tensor &tensor : tensors)
        refuse_all(good, tensor);
    good = plain_problem();
    good.tail = 0.5f;
    good = completed(good);
    expect_accepted(good);
    for (const Tensor &tensor : tail_tensors)
        refuse_all(good, tensor);
    good = plain_problem();
    good.score_kind = HATTN_SCORE_WEIGHTED;
    good.num_candidates = 40;
    good.tail = 0.5f;
    good = completed(good);
    expect_accepted(good);
    for (const Tensor &tensor : head_tensors)
        refuse_all(good, tensor);
}

/* Without a tail its outputs are not written, and may be anything. */
TEST_P(PlanTensors, TailsTensorsWithoutATail)
{
    hattn_problem p = good_problem();
    for (const Tensor &tensor : tail_tensors)
        std::fill_n((p.*tensor.field).stride, 3, HATTN_BROADCAST);
    expect_accepted(p);
    p.tail = 0.5f;
    expect_refused("steps.stride", HATTN_INVALID_ARGUMENT, p);
}

TEST_P(PlanTensors, TensorsOfHeadsWithoutCandidates)
{
    hattn_problem p = plain_problem();
    p.score_kind = HATTN_SCORE_WEIGHTED;
    p = completed(p);
    for (const Tensor &tensor : head_tensors)
        std::fill_n((p.*tensor.field).stride, 3, HATTN_BROADCAST);
    expect_accepted(p);
    p.num_candidates = 40;
    expect_refused("head_weights.stride", HATTN_INVALID_ARGUMENT, p);
}

/* Sequences of contiguous caches, and pages, must not lie in each other. */
TEST_P(PlanTensors, RefusesCachesThatOverlap)
{
    for (int page_size : {0, 16})
        for (bool head_major : {false, true}) {
            SCOPED_TRACE(page_size);
            hattn_problem p = plain_problem();
            p.page_size = page_size;
            p.max_sequences = 4;
            p.key_norms = 1;
            p = completed(p);
            const int64_t slots = page_size ? page_size : p.max_length;
            if (head_major) {
                p.codes.stride[0] = 2 * slots, p.codes.stride[1] = 2, p.codes.stride[2] = 1 << 20;
                p.norms.stride[0] = slots, p.norms.stride[1] = 1, p.norms.stride[2] = 1 << 20;
            }
            expect_accepted(p);
            for (int64_t stride : {int64_t(2), p.codes.stride[0] - 1, int64_t(HATTN_BROADCAST)}) {
                hattn_problem bad = p;
                bad.codes.stride[0] = stride;
                expect_refused("codes.stride", HATTN_INVALID_ARGUMENT, bad);
                bad = p;
                bad.norms.stride[0] = stride == 2 ? 1 : stride == HATTN_BROADCAST ? stride : p.norms.stride[0] - 1;
                expect_refused("norms.stride", HATTN_INVALID_ARGUMENT, bad);
            }
        }
}

TEST_P(PlanTensors, RefusesSpans)
{
    hattn_problem p = good_problem();
    p.max_rows = 1 << 20;
    p.q.stride[0] = static_cast<int64_t>(1) << 41;
    expect_refused("q.stride[0]", HATTN_INVALID_ARGUMENT, p);
}

TEST_P(PlanTensors, AcceptsBroadcastInputsAndLonelyStrides)
{
    hattn_problem p = good_problem();
    for (const Tensor &tensor : tensors)
        if (tensor.overlapping.empty())
            std::fill_n((p.*tensor.field).stride, 3, HATTN_BROADCAST);
    p.key_map.weight_stride[0][0] = p.query_map.weight_stride[0][0] = p.key_map.bias_stride[0] = HATTN_BROADCAST;
    p.norms.stride[0] = p.norms.stride[1] = HATTN_BROADCAST; /* not written: no norms */
    expect_accepted(p);
    /* The stride of a dimension of 1 says nothing. */
    p = plain_problem();
    p.num_kv_heads = p.max_rows = 1;
    p = completed(p);
    p.counts.stride[0] = p.counts.stride[1] = p.scores.stride[0] = p.codes.stride[2] = HATTN_BROADCAST;
    expect_accepted(p);
    /* Heads outermost, and gaps. */
    p = good_problem();
    p.out.stride[0] = 70, p.out.stride[1] = 4 * 70;
    p.codes.stride[0] = 2, p.codes.stride[1] = 1 << 20, p.codes.stride[2] = 1 << 26;
    expect_accepted(p);
}

INSTANTIATE_TEST_SUITE_P(Backends, PlanTensors, testing::Values("reference", "cpu"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
