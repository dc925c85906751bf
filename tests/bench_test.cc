/* SPDX-License-Identifier: Apache-2.0
 * What hattn bench stands on: data of a sane size, ceilings that are speeds of memory, floors that count the right bytes.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "bench/ceiling.h"
#include "bench/memory.h"
#include "bench/workload.h"
#include "reference/reference.h"
#include "tests/run_hattn.h"

namespace {

TEST(Bench, FillsWithValuesOfAttention)
{
    for (int32_t dtype : {HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3}) {
        const int num = 4093; /* ends inside of a word */
        std::vector<uint8_t> data(num * dtype_bytes(dtype) + 8, 0xAA);
        fill_values(data.data(), num * dtype_bytes(dtype), dtype, 1);
        int positive = 0, large = 0;
        for (int i = 0; i < num; i++) {
            double value = hattn_reference_load(data.data(), dtype, i);
            ASSERT_GE(std::fabs(value), 0.125) << "dtype " << dtype << " element " << i;
            ASSERT_LT(std::fabs(value), 2.0) << "dtype " << dtype << " element " << i;
            positive += value > 0;
            large += std::fabs(value) >= 0.5;
        }
        EXPECT_NEAR(positive, num / 2, 200) << "dtype " << dtype;
        EXPECT_NEAR(large, num / 2, 200) << "dtype " << dtype;
        for (size_t i = num * dtype_bytes(dtype); i < data.size(); i++)
            EXPECT_EQ(data[i], 0xAA) << "past the end, dtype " << dtype;
    }
}

TEST(Bench, MedianAndMin)
{
    Samples samples;
    for (double value : {5.0, 1.0, 100.0})
        samples.add(value);
    EXPECT_EQ(samples.median(), 5.0);
    samples.add(2.0);
    EXPECT_EQ(samples.median(), 3.5);
    EXPECT_EQ(samples.min(), 1.0);
}

TEST(Bench, CeilingsAreSpeedsOfMemory)
{
    Arena arena(size_t(256) << 20);
    fill_bits(arena.data(), arena.size(), 1);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.data()) % (2 << 20), 0u);
    Ceiling ceiling(arena.data(), arena.size(), 1, {32768, 512, 256});
    for (int i = 0; i < 3; i++)
        ceiling.sample();
    EXPECT_GT(ceiling.stream_gbps(), 0.2);
    EXPECT_LT(ceiling.stream_gbps(), 2000.0);
    EXPECT_GT(ceiling.gather_gbps(), 0.05);
    EXPECT_LT(ceiling.gather_gbps(), 2000.0);
}

/* The floor of design.md: n codes, k rows of K and V, maps and queries besides. */
TEST(Bench, CountsTheBytesOfEveryBenchmarkShape)
{
    size_t seen = 0;
    for (const conformance::Problem &problem : conformance::bench_problems()) {
        if (Workload::layer_bytes(problem) > (size_t(300) << 20) || problem.name.rfind("S1", 0))
            continue;
        Workload workload(problem, 1); /* one layer */
        const hattn_problem &p = workload.shape();
        double element = double(dtype_bytes(p.k_cache.dtype)), n = 32768, k = 512;
        double row = (p.head_dim_qk + (problem.v_inside_k ? 0 : p.head_dim_v)) * element;
        double code = (p.code_bits + 31) / 32 * 4 + (p.key_norms ? 2 : 0);
        EXPECT_EQ(workload.traffic(SCORE).streamed, n * p.num_code_heads * code) << problem.name;
        EXPECT_EQ(workload.traffic(ATTEND).gathered, problem.q_len * p.num_selection_heads * k * row) << problem.name;
        EXPECT_EQ(workload.traffic(DENSE).streamed, n * p.num_kv_heads * row) << problem.name;
        EXPECT_GE(workload.traffic(DECODE).streamed,
                  workload.traffic(SCORE).streamed + workload.traffic(ENCODE).streamed)
            << problem.name;
        EXPECT_EQ(workload.traffic(DECODE).gathered, workload.traffic(ATTEND).gathered) << problem.name;
        seen++;
    }
    EXPECT_GE(seen, 15u);
}

double real(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    return json_is_number(value) ? json_number_value(value) : std::nan("");
}

TEST(Bench, ReportsEveryStageInJson)
{
    const Ran ran = run_hattn({"bench", "--shape", "S1_mla", "--rounds", "2", "--threads", "1", "--json", "-"});
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    const JsonOwner root = parse_json(ran.out);
    std::map<std::string, const json_t *> rows;
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(root.get(), "rows"), i, row)
        rows[json_string_value(json_object_get(row, "stage"))] = row;
    ASSERT_EQ(rows.size(), size_t(NUM_STAGES));
    for (const auto &[stage, one] : rows) {
        EXPECT_STREQ(json_string_value(json_object_get(one, "shape")), "S1_mla");
        EXPECT_STREQ(json_string_value(json_object_get(one, "backend")), "cpu");
        EXPECT_GT(real(one, "us"), 0) << stage;
        EXPECT_LE(real(one, "us_min"), real(one, "us")) << stage;
        bool has_floor = stage != "topk" && stage != "merge";
        EXPECT_EQ(has_floor, real(one, "percent") > 0) << stage;
        if (has_floor) {
            EXPECT_NEAR(real(one, "percent"), 100 * real(one, "floor_us") / real(one, "us"), 1e-3) << stage;
        }
    }
    EXPECT_EQ(real(rows["decode"], "bytes"), 32768 * 16 + 512 * 576 * 2 + 576 * 128 * 2 + 16 * 576 * 2);
    EXPECT_EQ(real(rows["dense"], "bytes"), 32768.0 * 576 * 2);
}

TEST(Bench, RefusesWhatItDoesNotKnow)
{
    const Ran shape = run_hattn({"bench", "--shape", "nothing"});
    EXPECT_EQ(shape.exit_code, 2);
    EXPECT_NE(shape.err.find("no shape 'nothing'"), std::string::npos) << shape.err;
    const Ran threads = run_hattn({"bench", "--threads", "0"});
    EXPECT_EQ(threads.exit_code, 2);
    EXPECT_NE(threads.err.find("--threads"), std::string::npos) << threads.err;
}

} // namespace
