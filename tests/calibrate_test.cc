/* SPDX-License-Identifier: Apache-2.0
 * hattn calibrate: slopes that are known are found, and the trace is otherwise as it was.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "api/hattn.h"
#include "tests/run_hattn.h"
#include "tools/safetensors.h"
#include "tools/slopes.h"
#include "tools/trace.h"

static const int D = 32, NUM_KEYS = 300, NUM_QUERIES = 9, NUM_Q_HEADS = 4, NUM_KV_HEADS = 2;

static float sign(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 31 ? 1.0f : -1.0f;
}

/* Keys of signs, a map that takes them as they are, and queries of signs times a size for each KV head, alike in a group of two: q k is
 * then size * sum w_r (2 code_r - 1) for hamming weights, and half of what unit times that is for weighted ones. */
static std::string exact_trace(const float *sizes)
{
    uint32_t state = 1;
    std::vector<float> q, k, v, map(NUM_KV_HEADS * D * D);
    std::vector<int32_t> q_pos;
    for (int i = 0; i < NUM_KEYS * NUM_KV_HEADS * D; i++) {
        k.push_back(sign(&state));
        v.push_back(sign(&state));
    }
    for (int query = 0; query < NUM_QUERIES; query++) {
        q_pos.push_back(NUM_KEYS - 1 - query * 20);
        for (int g = 0; g < NUM_KV_HEADS; g++) {
            std::vector<float> one;
            for (int i = 0; i < D; i++)
                one.push_back(sizes[g] * sign(&state));
            for (int h = 0; h < NUM_Q_HEADS / NUM_KV_HEADS; h++)
                q.insert(q.end(), one.begin(), one.end());
        }
    }
    for (int i = 0; i < NUM_KV_HEADS * D; i++)
        map[i * D + i % D] = 1;
    SafetensorsWriter writer;
    writer.metadata("softmax_scale", "0.25");
    writer.metadata("about", "signs");
    writer.add("q", Dtype::F32, {NUM_QUERIES, NUM_Q_HEADS, D}, q.data());
    writer.add("q_pos", Dtype::I32, {NUM_QUERIES}, q_pos.data());
    writer.add("k", Dtype::F32, {NUM_KEYS, NUM_KV_HEADS, D}, k.data());
    writer.add("v", Dtype::F32, {NUM_KEYS, NUM_KV_HEADS, D}, v.data());
    writer.add("m.wk", Dtype::F32, {NUM_KV_HEADS, D, D}, map.data());
    return writer.bytes();
}

static void expect_same_tensors(const Safetensors &before, const Safetensors &after)
{
    EXPECT_EQ(before.metadata(), after.metadata());
    for (const auto &[name, tensor] : before.tensors()) {
        const Safetensors::Tensor &other = after.get(name);
        EXPECT_EQ(tensor.dtype, other.dtype) << name;
        EXPECT_EQ(tensor.shape, other.shape) << name;
        EXPECT_EQ(before.read(tensor), after.read(other)) << name;
    }
}

TEST(Calibrate, FindsSlopesThatAreKnown)
{
    const Directory directory;
    const std::string trace = directory.at("in"), once = directory.at("once"), twice = directory.at("twice");
    const float sizes[] = {0.5f, 1.25f}; /* of logits: a quarter of that for each sign */
    write_file(trace, exact_trace(sizes));
    const Ran ran = run_hattn({"calibrate", "--trace", trace, "--out", once});
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_NE(ran.out.find("slope"), std::string::npos) << ran.out;
    const Trace loaded = load_trace(once);
    for (int g = 0; g < NUM_KV_HEADS; g++) {
        EXPECT_NEAR(loaded.maps[0].slopes_of(HATTN_SCORE_HAMMING).at(g), 0.25 * sizes[g], 1e-6) << g;
        EXPECT_NEAR(loaded.maps[0].slopes_of(HATTN_SCORE_WEIGHTED).at(g), 0.125, 1e-6) << g;
    }
    /* Heads of a group are alike: each by itself has half of what they have together. */
    ASSERT_EQ(loaded.maps[0].head_slopes.size(), size_t(NUM_Q_HEADS));
    for (const float slope : loaded.maps[0].head_slopes)
        EXPECT_NEAR(slope, 0.25, 1e-6);
    const Safetensors after = Safetensors::open(once);
    EXPECT_EQ(after.tensors().size(), 8u);
    expect_same_tensors(Safetensors::open(trace), after);
    /* Slopes that are there are replaced, by the same ones. */
    ASSERT_EQ(run_hattn({"calibrate", "--trace", once, "--out", twice}).exit_code, 0);
    EXPECT_EQ(read_file(once), read_file(twice));
    EXPECT_EQ(run_hattn({"calibrate", "--trace", trace, "--out", "-"}).out, read_file(once));
}

TEST(Calibrate, FloorsAndTailsNeedSlopes)
{
    const Directory directory;
    const float sizes[] = {1, 1};
    write_file(directory.at("in"), exact_trace(sizes));
    expect_refusal({"decode", "--trace", directory.at("in"), "--floor", "0.01"},
                   "map m has no slopes of hamming scores, which a floor needs: hattn calibrate adds them");
    expect_refusal({"decode", "--trace", directory.at("in"), "--tail", "0.5"},
                   "map m has no slopes of hamming scores, which a tail needs: hattn calibrate adds them");
}

/* What has no slope, or none that is finite. */
TEST(Calibrate, SlopesAtTheEdges)
{
    const ScoreLevels alone = {{3, 1, 1}}, alike = {{0, 2, 0.5}, {1, 2, 0.5}}, against = {{0, 2, 0.9}, {1, 2, 0.1}},
                      certain = {{0, 2, 0}, {1, 2, 1}};
    EXPECT_EQ(fit_slope({alone}).slope, 0);
    EXPECT_EQ(fit_slope({alike}).slope, 0);
    EXPECT_EQ(fit_slope({against}).slope, 0);
    EXPECT_NEAR(fit_slope({certain}).fitted, std::log(2), 1e-6);
    EXPECT_LE(fit_slope({certain}).slope, 32 * std::log(2));
    EXPECT_GT(fit_slope({certain}).slope, 15);
    const FittedSlope some = fit_slope({{{0, 2, 0.25}, {1, 2, 0.75}}});
    EXPECT_NEAR(some.slope, std::log(3), 1e-9);
    EXPECT_NEAR(some.uniform, std::log(4), 1e-12);
    EXPECT_LT(some.fitted, some.uniform);
}
