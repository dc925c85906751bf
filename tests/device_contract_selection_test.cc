/* SPDX-License-Identifier: Apache-2.0
 * Selections on the device: decode against the separate calls, ties and orders at long rows, many tasks.
 */
#include <algorithm>
#include <stdexcept>

#include "tests/device_contract.h"

namespace conformance {
namespace {

class DeviceSelection : public DeviceContract
{
protected:
    void expect_separate_calls_agree(const Problem &problem, uint64_t seed)
    {
        DeviceDecode job(memory, pinned, session->device, problem, seed);
        DeviceWorkspace workspace(memory, session->device, job.workspace_size());
        ASSERT_EQ(job.enqueue(workspace.exec(nullptr)), "") << problem.name;
        job.results();

        const Instance &instance = job.instance;
        const Tensor weights = job.weights.twin(".separate", 0xAA), indices = job.indices.twin(".separate", 0xAA),
                     counts = job.counts.twin(".separate", 0xAA),
                     scores = instance.output("scores", &hattn_problem::scores, 0xAA);
        const auto output_if = [&](bool is_there, const char *name, Field field) {
            return is_there ? instance.output(name, field, 0xAA) : Tensor();
        };
        const bool has_tail = problem.tail > 0, by_heads = problem.num_candidates > 0;
        const Tensor steps = output_if(has_tail || (problem.min_probability > 0 && !by_heads), "steps",
                                       &hattn_problem::steps),
                     shares = output_if(has_tail, "shares", &hattn_problem::shares),
                     rests = output_if(has_tail, "rests", &hattn_problem::rests),
                     head_weights = output_if(by_heads, "head_weights", &hattn_problem::head_weights),
                     head_steps = output_if(by_heads, "head_steps", &hattn_problem::head_steps);
        hattn_encode_queries_args encode = instance.encode_queries_args();
        encode.weights = weights.buffer();
        encode.steps = steps.buffer();
        encode.head_weights = head_weights.buffer();
        encode.head_steps = head_steps.buffer();
        hattn_score_args score = instance.score_args();
        score.weights = weights.buffer();
        score.scores = scores.buffer();
        if (job.codes)
            score.codes = job.codes.buffer();
        if (job.norms)
            score.norms = job.norms.buffer();
        hattn_topk_args topk = instance.topk_args();
        topk.scores = scores.buffer();
        topk.indices = indices.buffer();
        topk.counts = counts.buffer();
        topk.steps = steps.buffer();
        topk.shares = shares.buffer();
        topk.rests = rests.buffer();
        topk.head_weights = head_weights.buffer();
        topk.head_steps = head_steps.buffer();
        if (by_heads && job.codes)
            topk.codes = job.codes.buffer();

        Mirror mirror(*memory, pinned);
        encode = mirror.there_all(encode);
        score = mirror.there_all(score);
        topk = mirror.there_all(topk);
        memory->synchronize();
        OwnStream stream(streams);
        const hattn_exec exec = workspace.exec(stream.get());
        ASSERT_EQ(hattn_encode_queries(job.plan.get(), &encode, &exec, nullptr), HATTN_OK);
        ASSERT_EQ(hattn_score(job.plan.get(), &score, &exec, nullptr), HATTN_OK);
        ASSERT_EQ(hattn_topk(job.plan.get(), &topk, &exec, nullptr), HATTN_OK);
        stream.wait();
        ASSERT_EQ(mirror.bring_back(), "");
        EXPECT_TRUE(same(job.weights, weights)) << problem.name << ": weights, seed " << seed;
        EXPECT_TRUE(same(job.counts, counts)) << problem.name << ": counts, seed " << seed;
        EXPECT_TRUE(same(job.indices, indices)) << problem.name << ": indices, seed " << seed;
    }

private:
    static bool same(const Tensor &a, const Tensor &b)
    {
        return std::equal(a.memory->begin(), a.memory->end(), b.memory->begin(), b.memory->end());
    }
};

TEST_P(DeviceSelection, DecodeIsTheSeparateCalls)
{
    for (const Problem &problem : tested_problems())
        expect_separate_calls_agree(problem, 50);
}

TEST_P(DeviceSelection, DecodeIsTheSeparateCallsOnRandomProblems)
{
    for (uint64_t seed = 1; seed <= 100; seed++)
        expect_separate_calls_agree(random_problem(seed), seed);
}

/* A selection that many blocks find together: everything that can tie does. */
TEST_P(DeviceSelection, PatternsOfLongRows)
{
    const struct {
        const char *name;
        Pattern pattern;
    } patterns[] = {{"random", Pattern::RANDOM},       {"zero", Pattern::ZERO},
                    {"equal", Pattern::EQUAL},         {"alternating", Pattern::ALTERNATING},
                    {"clustered", Pattern::CLUSTERED}, {"by_time", Pattern::BY_TIME},
                    {"overflow", Pattern::OVERFLOW},   {"nan", Pattern::NOT_A_NUMBER}};
    for (const auto &row : patterns)
        for (int kind = 0; kind < 4; kind++) {
            Problem p;
            p.name = std::string(row.name) + "_" + std::to_string(kind);
            p.pattern = row.pattern;
            p.num_kv_heads = 1;
            p.head_dim_qk = 64;
            p.k = 512;
            p.lengths = {40000, 0, 1, 511, 512, 513, 2048, 2049, 4096, 17};
            p.page_size = kind % 2 ? 16 : 0;
            p.code_bits = kind == 1 ? 64 : 128;
            p.score_kind = kind % 2 ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
            p.weight_bits = kind == 3 ? 8 : 4;
            p.key_norms = kind == 2;
            p.num_sink = kind == 3 ? 4 : 0;
            p.num_recent = kind == 3 ? 60 : 0;
            p.append = kind == 1;
            expect_passes(p, 60, "/decode");
            expect_passes(p, 61, "/topk");
        }
}

/* More rows and heads than a device works on at once. */
TEST_P(DeviceSelection, ManyTasks)
{
    for (const bool norms : {false, true}) {
        Problem p;
        p.name = norms ? "tasks_1120_norms" : "tasks_1120";
        p.num_kv_heads = 8;
        p.group = 1;
        p.head_dim_qk = 32;
        p.key_norms = norms;
        p.k = 200;
        p.lengths.clear();
        for (int b = 0; b < 140; b++)
            p.lengths.push_back(b * 37 % 4500);
        expect_passes(p, 62, "/decode");
    }
    Problem p;
    p.name = "tasks_65536";
    p.num_kv_heads = 8;
    p.group = 1;
    p.head_dim_qk = 32;
    p.k = 16;
    p.q_len = 8;
    p.lengths.clear();
    for (int b = 0; b < 1024; b++)
        p.lengths.push_back(b % 60);
    expect_passes(p, 63, "/decode");
}

TEST_P(DeviceSelection, MillionKeys)
{
    Problem p;
    p.name = "million";
    p.num_kv_heads = 1;
    p.head_dim_qk = 64;
    p.k = 2048;
    p.page_size = 64;
    p.lengths = {1 << 20, 1000};
    p.append = true;
    expect_passes(p, 64, "/decode");
    expect_passes(p, 65, "/attend_dense");
    p.name = "million_norms";
    p.page_size = 0;
    p.lengths = {1000003};
    p.key_norms = true;
    p.score_kind = HATTN_SCORE_WEIGHTED;
    p.code_bits = 64;
    expect_passes(p, 66, "/decode");
}

FOR_DEVICE_BACKENDS(DeviceSelection);

} // namespace
} // namespace conformance
