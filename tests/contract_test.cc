/* SPDX-License-Identifier: Apache-2.0
 * The judge of hattn decode must see what is wrong: results of the reference backend, tampered with one at a time.
 */
#include "tools/contract.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

static const int NUM_KEYS = 200, BITS = 64, TOPK = 16;

static std::vector<uint8_t> random_floats(size_t count, unsigned seed)
{
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float &value : values)
        value = normal(random);
    std::vector<uint8_t> bytes(count * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

/* fp32, 4 query heads on 2 KV heads: tolerances are at their smallest. */
static Trace make_trace()
{
    Trace trace;
    trace.path = "made";
    trace.num_queries = 2;
    trace.num_keys = NUM_KEYS;
    trace.num_q_heads = 4;
    trace.num_kv_heads = 2;
    trace.head_dim_qk = trace.head_dim_v = 32;
    trace.q_dtype = trace.kv_dtype = HATTN_F32;
    trace.scale = 0.2f;
    trace.q_pos = {150, NUM_KEYS - 1};
    trace.q = random_floats(2 * 4 * 32, 1);
    trace.k = random_floats(NUM_KEYS * 2 * 32, 2);
    trace.v = random_floats(NUM_KEYS * 2 * 32, 3);
    TraceMap map;
    map.name = "m";
    map.kind = HATTN_MAP_LINEAR;
    map.num_heads = 2;
    map.bits = BITS;
    map.key.dtype = map.query.dtype = HATTN_F32;
    map.key.weight[0] = map.query.weight[0] = random_floats(2 * 32 * BITS, 4);
    trace.maps.push_back(map);
    return trace;
}

class Contract : public testing::TestWithParam<int32_t>
{
protected:
    Contract()
        : trace_(make_trace()), source_(trace_), truth_(source_, 0), device_("reference", "", 0, trace_),
          cpu_("cpu", "", 1, trace_), oracle_(device_, trace_, trace_.maps[0], settings()),
          lane_(cpu_, trace_, trace_.maps[0], settings())
    {
        oracle_.encode_keys();
        lane_.encode_keys();
        step_ = lane_.decode(0);
        expected_ = oracle_.encode_query(0);
    }

    static LaneSettings settings()
    {
        LaneSettings settings;
        settings.score_kind = GetParam();
        settings.num_selection_heads = 2;
        settings.bits = BITS;
        settings.topk = TOPK;
        settings.norms = true;
        return settings;
    }

    Verdict keys() const
    {
        Verdict verdict;
        judge_keys(source_, lane_, oracle_, &verdict);
        return verdict;
    }

    Verdict steps() const
    {
        Verdict verdict;
        judge_step(source_, truth_, 0, lane_, oracle_, step_, expected_, &verdict);
        return verdict;
    }

    uint32_t *code(int head, int64_t key) { return const_cast<uint32_t *>(lane_.code(head, key)); }

    Trace trace_;
    TruthSource source_;
    Truth truth_;
    LaneDevice device_, cpu_;
    Lane oracle_, lane_;
    StepResult step_;
    EncodedQuery expected_;
};

TEST_P(Contract, HonestResultsPass)
{
    EXPECT_EQ(keys().wrong, 0);
    EXPECT_EQ(keys().flips, 0);
    EXPECT_EQ(steps().wrong, 0);
    EXPECT_EQ(steps().flips, 0);
    Verdict dense;
    judge_dense(source_, truth_, lane_, lane_.attend_dense(0), &dense);
    EXPECT_EQ(dense.wrong, 0);
}

TEST_P(Contract, EveryCodeBitIsJudged)
{
    for (int bit : {0, 31, 32, BITS - 1})
        for (int64_t key : {0, NUM_KEYS - 1}) {
            code(1, key)[bit / 32] ^= 1u << bit % 32;
            EXPECT_EQ(keys().wrong, 1) << bit;
            code(1, key)[bit / 32] ^= 1u << bit % 32;
        }
    EXPECT_EQ(keys().wrong, 0);
}

TEST_P(Contract, CodesAreJudgedWithTheirOwnSelection)
{
    /* All codes alike: the best are the first, and the step's list is another. Scores use norms, so with equal codes they
     * rank keys; either way the list made from the true codes cannot be right. */
    for (int64_t key = 0; key < NUM_KEYS; key++)
        std::memset(code(0, key), 0, BITS / 8);
    EXPECT_EQ(steps().wrong, 1);
}

TEST_P(Contract, WeightOffByOne)
{
    int steps_wrong = 0;
    for (int bit = 0; bit < BITS; bit++) {
        expected_.weights[bit]++;
        steps_wrong += steps().wrong == 1;
        expected_.weights[bit]--;
    }
    EXPECT_EQ(steps_wrong, BITS); // random data has no ties
}

TEST_P(Contract, Selection)
{
    const std::vector<int32_t> indices = step_.indices;
    for (size_t i : {size_t(0), size_t(TOPK - 1), size_t(TOPK), step_.indices.size() - 1}) {
        step_.indices[i]++;
        EXPECT_EQ(steps().wrong, 1) << i;
        step_.indices = indices;
    }
    std::swap(step_.indices[0], step_.indices[1]);
    EXPECT_EQ(steps().wrong, 1);
    step_.indices = indices;
    step_.indices[3] = -1; // and is not followed
    EXPECT_EQ(steps().wrong, 1);
    step_.indices[3] = 1 << 30;
    EXPECT_EQ(steps().wrong, 1);
    step_.indices = indices;
    step_.counts[1]--;
    EXPECT_EQ(steps().wrong, 1);
}

TEST_P(Contract, Output)
{
    const StepResult honest = step_;
    float largest = 0; /* of all values: some of those that are selected are nearly as large */
    for (int64_t key = 0; key < truth_.length(); key++)
        for (int x = 0; x < 2 * 32; x++)
            largest = std::max(largest, std::fabs(source_.v(x / 32, key)[x % 32]));
    for (size_t i : {size_t(0), step_.out.size() - 1}) {
        step_.out[i] += static_cast<float>(largest * 0x1p-16);
        EXPECT_EQ(steps().wrong, 1);
        step_ = honest;
        step_.out[i] += static_cast<float>(largest * 0x1p-20);
        EXPECT_EQ(steps().wrong, 0);
        step_.out[i] = std::numeric_limits<float>::quiet_NaN();
        EXPECT_EQ(steps().wrong, 1);
        step_ = honest;
    }
    step_.lse[3] += 0.001f;
    EXPECT_EQ(steps().wrong, 1);
    step_.lse[3] = NAN;
    EXPECT_EQ(steps().wrong, 1);
}

TEST_P(Contract, DenseOutput)
{
    StepResult dense = lane_.attend_dense(0);
    dense.out[40] += 0.01f;
    Verdict verdict;
    judge_dense(source_, truth_, lane_, dense, &verdict);
    EXPECT_EQ(verdict.wrong, 1);
}

INSTANTIATE_TEST_SUITE_P(Scores, Contract, testing::Values(HATTN_SCORE_HAMMING, HATTN_SCORE_WEIGHTED),
                         [](const auto &info) { return info.param == HATTN_SCORE_WEIGHTED ? "weighted" : "hamming"; });

/* A key that lies in the plane of a bit: fp32 may see it on either side, so that bit is a flip and no error. */
TEST(ContractFlips, BitWithinItsBoundIsAFlip)
{
    Trace trace = make_trace();
    std::vector<float> k(32), w(32);
    for (int i = 0; i < 32; i++)
        std::memcpy(&w[i], &trace.maps[0].key.weight[0][static_cast<size_t>(i) * BITS * 4], 4); // head 0, bit 0
    /* x = (w1, -w0, w3, -w2, ...): x·w is 0 exactly, in double as in fp32 pairs. */
    for (int i = 0; i < 32; i += 2) {
        k[i] = w[i + 1];
        k[i + 1] = -w[i];
    }
    std::memcpy(trace.k.data(), k.data(), 32 * 4);
    const TruthSource source(trace);
    const LaneDevice device("reference", "", 0, trace);
    LaneSettings settings;
    settings.score_kind = HATTN_SCORE_HAMMING;
    settings.num_selection_heads = 2;
    settings.bits = BITS;
    settings.topk = TOPK;
    Lane oracle(device, trace, trace.maps[0], settings), lane(device, trace, trace.maps[0], settings);
    oracle.encode_keys();
    lane.encode_keys();
    const_cast<uint32_t *>(lane.code(0, 0))[0] ^= 1;
    Verdict verdict;
    judge_keys(source, lane, oracle, &verdict);
    EXPECT_EQ(verdict.flips, 1);
    EXPECT_EQ(verdict.wrong, 0);
    const_cast<uint32_t *>(lane.code(0, 0))[0] ^= 2;
    judge_keys(source, lane, oracle, &verdict);
    EXPECT_EQ(verdict.wrong, 1);
}

/* What an fp32 dot product makes of q and k as large as those of Qwen2.5, of a deviation of 3.5 and 27, is no error; a hundredth of
 * that in the values is. */
TEST(ContractLogits, LargeOnesAreRounded)
{
    Trace trace = make_trace();
    const auto scale = [](std::vector<uint8_t> *data, float factor) {
        for (size_t i = 0; i < data->size(); i += sizeof(float)) {
            float value;
            std::memcpy(&value, &(*data)[i], sizeof(value));
            value *= factor;
            std::memcpy(&(*data)[i], &value, sizeof(value));
        }
    };
    scale(&trace.q, 35); /* ten times as much */
    scale(&trace.k, 27);
    const TruthSource source(trace);
    LaneSettings settings;
    settings.score_kind = HATTN_SCORE_HAMMING;
    settings.num_selection_heads = 2;
    settings.bits = BITS;
    settings.topk = NUM_KEYS;
    const LaneDevice reference("reference", "", 0, trace);
    Lane oracle(reference, trace, trace.maps[0], settings);
    oracle.encode_keys();
    for (const char *isa : {"scalar", ""}) {
        const LaneDevice device("cpu", isa, 1, trace);
        Lane lane(device, trace, trace.maps[0], settings);
        lane.encode_keys();
        for (int query = 0; query < trace.num_queries; query++) {
            const Truth truth(source, query);
            Verdict verdict;
            StepResult step = lane.decode(query), dense = lane.attend_dense(query);
            judge_step(source, truth, query, lane, oracle, step, oracle.encode_query(query), &verdict);
            judge_dense(source, truth, lane, dense, &verdict);
            EXPECT_EQ(verdict.wrong, 0) << isa;
            dense.out[7] += 0.01f;
            judge_dense(source, truth, lane, dense, &verdict);
            EXPECT_EQ(verdict.wrong, 1) << isa;
        }
    }
}
