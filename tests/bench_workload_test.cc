/* SPDX-License-Identifier: Apache-2.0
 * What hattn bench times: cold layers, keys that are alike, plans larger than what they run, and the bytes of their floors.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "bench/key_codes.h"
#include "bench/workload.h"
#include "core/dtype.h"
#include "core/sized.h"

namespace {

using devices::Buffer, devices::host_memory;

/* The host's, with a cache of 32 MiB whatever the machine has. */
class SmallCacheMemory : public devices::Memory
{
public:
    void *allocate(size_t size) const override { return host_memory().allocate(size); }
    void release(void *address) const override { host_memory().release(address); }
    void write(void *to, const void *from, size_t size) const override { host_memory().write(to, from, size); }
    void read(void *to, const void *from, size_t size) const override { host_memory().read(to, from, size); }
    void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const override
    {
        host_memory().fill(data, size, keep, set, seed);
    }
    void synchronize() const override {}
    devices::Properties properties() const override
    {
        devices::Properties properties = host_memory().properties();
        properties.cache = size_t(32) << 20;
        return properties;
    }
};

/* Alone, a stage touches three caches before it meets its data again, and encodes a prefill's number of keys. */
TEST(Workload, StagesReplayedAloneStayCold)
{
    problems::Problem problem = problems::bench_problems()[0];
    problem.lengths = {4096};
    problem.k = 512;
    const SmallCacheMemory memory;
    const Workload workload(problem, memory, Turns::ALONE, size_t(2) << 30);
    const double caches = 3.0 * double(memory.properties().cache);
    for (Stage stage : {ENCODE, SCORE, ATTEND, DECODE, DENSE, ENCODE_KEYS}) {
        const Traffic traffic = workload.traffic(stage);
        EXPECT_GE(double(workload.cold_calls(stage)) * (traffic.streamed + traffic.gathered), caches);
        EXPECT_LT(double(workload.cold_calls(stage) - 1) * (traffic.streamed + traffic.gathered), caches);
    }
    EXPECT_EQ(workload.traffic(ENCODE_KEYS).streamed, 129 * 128 * 8 * 2 + 131072 * (8 * 128 * 2 + 8 * 16.0));
    EXPECT_EQ(workload.layers().find("short of memory"), std::string::npos) << workload.layers();
}

const problems::Problem &bench_problem(const std::string &name)
{
    static const std::vector<problems::Problem> all = problems::bench_problems();
    for (const problems::Problem &problem : all)
        if (problem.name == name)
            return problem;
    throw std::logic_error("no shape " + name);
}

TEST(Workload, BaselinesComeFirst)
{
    std::set<std::string> seen;
    for (const problems::Problem &problem : problems::bench_problems()) {
        EXPECT_TRUE(problem.baseline.empty() || seen.count(problem.baseline)) << problem.name;
        EXPECT_TRUE(seen.insert(problem.name).second) << problem.name << " twice";
    }
}

/* Bits of two keys that differ, of 128. */
int distance(const std::vector<uint32_t> &codes, size_t key, size_t other)
{
    int bits = 0;
    for (size_t w = 0; w < 4; w++)
        bits += __builtin_popcount(codes[key * 4 + w] ^ codes[other * 4 + w]);
    return bits;
}

/* The mean distance between neighbours for which is_pair(first) holds. */
template <class IsPair>
double neighbours(const std::vector<uint32_t> &codes, IsPair is_pair)
{
    double sum = 0, num = 0;
    for (size_t key = 0; key + 1 < codes.size() / 4; key++)
        if (is_pair(key)) {
            sum += distance(codes, key, key + 1);
            num++;
        }
    return sum / num;
}

TEST(Workload, KeysOfARunAreAlike)
{
    for (const char *name : {"S4_runs4", "S4_runs256", "S1_clustered"}) {
        const problems::Problem &problem = bench_problem(name);
        const size_t run = size_t(problem.run_length);
        const auto codes = key_codes(problem, {2, 3, 4096, 4}, nullptr, 1);
        ASSERT_EQ(codes.size(), 2u * 3 * 4096 * 4);
        /* Each has 7 of 128 bits of its own: two differ in 2 * 7 * (1 - 7 / 128). */
        EXPECT_NEAR(neighbours(codes, [=](size_t key) { return (key + 1) % run; }), 13.2, 0.3) << name;
        EXPECT_NEAR(neighbours(codes, [=](size_t key) { return (key + 1) % run == 0; }), 64, 3) << name;
        EXPECT_NE(codes, key_codes(problem, {2, 3, 4096, 4}, nullptr, 2)) << name << ": layers are alike";
    }
}

TEST(Workload, KeysMadeAgainstTheSample)
{
    const int n = 131072;
    const auto codes = key_codes(bench_problem("S4_sampled_apart"), {1, 1, n, 4}, nullptr, 1);
    int apart = 0;
    for (int key = 0; key < n; key++)
        apart += distance(codes, size_t(key), n - 1) > 35; /* else 13 of 128, in the mean */
    EXPECT_NEAR(apart, 512 * 2, 10);
    const auto ties = key_codes(bench_problem("S4_ties"), {1, 2, 1000, 4}, nullptr, 1);
    EXPECT_EQ(neighbours(ties, [](size_t key) { return key != 999; }), 0);
}

/* Neighbours of the trace stay neighbours: codes that count their keys. */
TEST(Workload, TracesComeAgainFromAnotherStart)
{
    TraceKeys trace;
    trace.num_heads = 2;
    trace.num_keys = 500;
    trace.num_words = 4;
    for (uint32_t key = 0; key < 1000; key++)
        for (uint32_t w = 0; w < 4; w++)
            trace.codes.push_back((key * 4 + w) * 2654435761u);
    const auto codes = key_codes(bench_problem("S4_trace3"), {2, 4, 1700, 4}, &trace, 1);
    const auto source = [&](size_t key) { /* the nearest key of the trace */
                                          int best = 129, nearest = -1;
                                          for (int other = 0; other < 1000; other++) {
                                              int bits = 0;
                                              for (size_t w = 0; w < 4; w++)
                                                  bits += __builtin_popcount(codes[key * 4 + w] ^
                                                                             trace.codes[size_t(other) * 4 + w]);
                                              nearest = bits < best ? other : nearest;
                                              best = std::min(best, bits);
                                          }
                                          EXPECT_LE(best, 24) << key; /* 4 in the mean */
                                          return nearest;
    };
    for (size_t head = 0; head < 8; head++)
        for (size_t j : {0, 77, 499, 500, 1499, 1698}) {
            const int one = source(head * 1700 + j), next = source(head * 1700 + j + 1);
            EXPECT_EQ(one / 500, int(head % 2));
            if (j % 500 != 499) {
                EXPECT_EQ(next % 500, (one + 1) % 500) << "head " << head << " key " << j;
            }
        }
    EXPECT_NE(source(0), source(500));
    EXPECT_NE(source(0) % 500, source(1700) % 500);
}

/* A cpu or reference device with a plan, and a workload's stages on it. */
void run_stages(const problems::Problem &problem, const std::string &backend)
{
    Workload workload(problem, host_memory(), Turns::STAGES, size_t(60) << 20);
    hattn_error error = {};
    hattn_device *device = nullptr;
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = backend.c_str();
    ASSERT_EQ(hattn_device_open(&options, &device, &error), HATTN_OK) << error.text;
    hattn_plan *plan = nullptr;
    ASSERT_EQ(hattn_plan_create(device, &workload.shape(), &plan, &error), HATTN_OK) << error.text;
    hattn_exec exec = sized<hattn_exec>();
    exec.num_threads = 1;
    exec.workspace_size = hattn_plan_workspace_size(plan);
    const Buffer workspace(host_memory(), exec.workspace_size);
    exec.workspace = workspace.at();
    ASSERT_EQ(hattn_workspace_init(device, exec.workspace, exec.workspace_size, nullptr, nullptr), HATTN_OK);
    EXPECT_EQ(workload.prepare(plan, &exec, &error), HATTN_OK) << problem.name << ": " << error.text;
    for (int step = 0; step < 2; step++) {
        workload.next_layer();
        workload.renew_queries(workload.set_turn(), 5);
        for (int stage = 0; stage < NUM_STAGES; stage++)
            EXPECT_EQ(workload.run(Stage(stage), plan, &exec, &error), HATTN_OK)
                << problem.name << " " << STAGE_NAMES[stage] << ": " << error.text;
    }
    hattn_plan_destroy(plan);
    hattn_device_close(device);
}

TEST(Workload, StagesRunOverFewLayersToo)
{
    problems::Problem problem = problems::bench_problems()[0];
    problem.lengths = {4096};
    const Workload workload(problem, host_memory(), Turns::STAGES, size_t(60) << 20);
    EXPECT_NE(workload.layers().find("short of memory"), std::string::npos) << workload.layers();
    run_stages(problem, "cpu");
}

TEST(Workload, StagesRunWithWhatIsBeyondTopk)
{
    for (const char *name : {"S1_floor", "S1_floor_tail", "S1_heads", "S1_heads_floor_tail"}) {
        problems::Problem problem = bench_problem(name);
        problem.lengths = {4096};
        run_stages(problem, "cpu");
    }
}

/* Shorter, and with fewer heads, so that the reference takes part; of all sequences the first are kept. */
problems::Problem shortened(problems::Problem problem)
{
    const bool pages = problem.page_size;
    problem.num_kv_heads = 2;
    problem.k = 32;
    problem.num_tokens = 64;
    for (int &length : problem.lengths)
        length = pages ? length / 512 : 3000;
    problem.max_length = pages ? 256 : 0;
    problem.max_sequences /= 8;
    problem.padding_rows /= 8;
    if (problem.lengths.size() > 8)
        problem.lengths.resize(problem.lengths.size() / 8);
    if (!problem.q_lens.empty())
        problem.q_lens.resize(problem.lengths.size());
    return problem;
}

TEST(Workload, KeysAndPlansRunOnTheHost)
{
    for (const char *name : {"S3_runs16", "S4_sampled_apart_first_alone", "S4_ties", "S4_weighted_nan",
                             "S4_weighted_norms_outlier", "plan64_rows1_128k", "plan64_rows4_32k_padded",
                             "plan256_rows4_1k_ragged", "plan64_mixed_ragged", "plan256_mixed_padded"})
        for (const char *backend : {"cpu", "reference"})
            run_stages(shortened(bench_problem(name)), backend);
}

/* Of a mixed batch the true lengths, whatever the plan allows; short ones keep all that they have. */
TEST(Workload, CountsTheBytesOfWhatIsThere)
{
    problems::Problem problem = bench_problem("plan64_rows4_8k_padded");
    problem.lengths = {0, 1000, 64, 300, 0};
    problem.k = 200;
    for (bool is_ragged : {false, true}) {
        if (is_ragged) {
            problem.q_lens = {1, 1, 1, 1, 1};
            problem.padding_rows = 59;
        }
        const Workload workload(problem, host_memory(), Turns::STAGES, 1);
        EXPECT_EQ(workload.shape().max_rows, 64);
        EXPECT_EQ(workload.shape().max_length, 131072);
        EXPECT_EQ(workload.traffic(SCORE).streamed, 1364 * 8 * 16);
        EXPECT_EQ(workload.traffic(ATTEND).gathered, (200 + 64 + 200) * 8 * 512);
        EXPECT_EQ(workload.traffic(TOPK).cached, 1364 * 8 * 2);
        EXPECT_EQ(workload.traffic(DENSE).streamed, 1364 * 8 * 512);
    }
}

/* Sequences that share pages need no more memory than the pool. */
TEST(Workload, PoolsBoundMemory)
{
    problems::Problem problem = bench_problem("plan256_rows256_128k");
    const size_t of_pool = Workload::layer_bytes(problem);
    problem.pool_keys /= 2;
    EXPECT_NEAR(double(of_pool) / double(Workload::layer_bytes(problem)), 2, 0.01);
    EXPECT_LT(of_pool, size_t(40) << 30);
    problem = shortened(problem);
    problem.pool_keys = 512; /* 2 sequences' of 32 */
    run_stages(problem, "cpu");
}

/* The floor of design.md: n codes, k rows of K and V, maps and queries besides. */
TEST(Workload, CountsTheBytesOfEveryBenchmarkShape)
{
    size_t seen = 0;
    for (const problems::Problem &problem : problems::bench_problems()) {
        if (Workload::layer_bytes(problem) > (size_t(300) << 20) || problem.name.rfind("S1", 0))
            continue;
        Workload workload(problem, host_memory(), Turns::STAGES, 1); /* one layer */
        const hattn_problem &p = workload.shape();
        double element = double(size_t(hattn_dtype_size(p.k_cache.dtype))), n = 32768, k = 512;
        double row = (p.head_dim_qk + (problem.v_inside_k ? 0 : p.head_dim_v)) * element;
        double code = (p.code_bits + 31) / 32 * 4 + (p.key_norms ? 2 : 0);
        EXPECT_EQ(workload.traffic(SCORE).streamed, n * p.num_code_heads * code) << problem.name;
        const double gathered =
            problem.min_value_weight > 0 ? p.head_dim_qk * element : row; /* which V, nobody knows */
        EXPECT_EQ(workload.traffic(ATTEND).gathered, problem.q_len * p.num_selection_heads * k * gathered)
            << problem.name;
        EXPECT_EQ(workload.traffic(DENSE).streamed, n * p.num_kv_heads * row) << problem.name;
        EXPECT_GE(workload.traffic(DECODE).streamed,
                  workload.traffic(SCORE).streamed + workload.traffic(ENCODE).streamed)
            << problem.name;
        EXPECT_EQ(workload.traffic(DECODE).gathered, workload.traffic(ATTEND).gathered) << problem.name;
        seen++;
    }
    EXPECT_GE(seen, 15u);
}

} // namespace
