/* SPDX-License-Identifier: Apache-2.0
 * What hattn bench stands on: data of a sane size, ceilings that are speeds of memory, floors that count the right bytes.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "bench/ceiling.h"
#include "bench/fill.h"
#include "bench/workload.h"
#include "core/dtype.h"
#include "reference/reference.h"
#include "tests/run_hattn.h"

namespace {

using devices::Buffer, devices::host_memory;

TEST(Bench, FillsWithValuesOfAttention)
{
    for (int32_t dtype : {HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3}) {
        const int num = 4093; /* ends inside of a word */
        std::vector<uint8_t> data(num * size_t(hattn_dtype_size(dtype)) + 8, 0xAA);
        fill_values(host_memory(), data.data(), num * size_t(hattn_dtype_size(dtype)), dtype, 1);
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
        for (size_t i = num * size_t(hattn_dtype_size(dtype)); i < data.size(); i++)
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

TEST(Bench, MeanQuantileAndShare)
{
    Samples samples;
    for (int value = 200; value >= 1; value--)
        samples.add(value);
    EXPECT_EQ(samples.mean(), 100.5);
    EXPECT_EQ(samples.quantile(0.99), 198);
    EXPECT_EQ(samples.quantile(1), 200);
    EXPECT_EQ(samples.share_above(150), 0.25);
}

/* How fast a loop that anyone would write reads, at best of some. */
double plain_gbps(const uint64_t *words, size_t num)
{
    double best = 0;
    for (int i = 0; i < 5; i++) {
        uint64_t sums[4] = {};
        const double start = now_us();
        for (size_t j = 0; j + 4 <= num; j += 4)
            for (size_t lane = 0; lane < 4; lane++)
                sums[lane] += words[j + lane];
        const double passed = now_us() - start;
        volatile uint64_t used = sums[0] + sums[1] + sums[2] + sums[3];
        (void)used;
        best = std::max(best, double(num) * 8e-3 / passed);
    }
    return best;
}

TEST(Bench, CeilingsAreSpeedsOfMemory)
{
    const Buffer data(host_memory(), size_t(256) << 20);
    fill_bits(host_memory(), data.data(), data.size(), 1);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data.data()) % (2 << 20), 0u);
    HostCeiling ceiling(data.data(), data.size(), 1, {32768, 512, 256});
    for (int i = 0; i < 3; i++)
        ceiling.sample();
    /* Of one thread, as a plain loop is: apart by what other users of the memory take meanwhile. */
    const double plain = plain_gbps(reinterpret_cast<const uint64_t *>(data.data()), data.size() / 8);
    printf("stream %.2f, gather %.2f, a plain loop %.2f GB/s\n", ceiling.stream_gbps(), ceiling.gather_gbps(), plain);
    EXPECT_GT(ceiling.stream_gbps(), 0.15 * plain);
    EXPECT_LT(ceiling.stream_gbps(), 5 * plain);
    EXPECT_GT(ceiling.gather_gbps(), 0.03 * plain);
    EXPECT_LT(ceiling.gather_gbps(), 5 * plain);
    EXPECT_TRUE(std::isnan(ceiling.copy_gbps()));
}

TEST(Bench, DrawsSortedRowsFromOneMatrixAfterTheOther)
{
    const GatherShape shape = {1000, 30, 64};
    Draw draw(2 * 1000 * 64 + 63, shape); /* two matrices and a bit */
    const std::vector<uint32_t> first = draw.rows(70), second = draw.rows(1);
    ASSERT_EQ(first.size(), 90u);
    ASSERT_EQ(second.size(), 30u);
    for (size_t i = 0; i < first.size(); i++) {
        EXPECT_EQ(first[i] / 1000, i / 30 % 2) << i;
        EXPECT_TRUE(i % 30 == 0 || first[i - 1] < first[i]) << i;
    }
    EXPECT_EQ(second[0] / 1000, 1u);
    EXPECT_FALSE(std::equal(first.begin(), first.begin() + 30, first.begin() + 60)) << "the same rows again";
}

TEST(Bench, DeviceMemoryHoldsWhatHostMemoryWould)
{
    const std::string why = why_no_device("cuda");
    if (!why.empty())
        GTEST_SKIP() << why;
    const devices::Memory &memory = *devices::memory_of("cuda");
    const size_t size = 3000 * 1024 + 5;
    const Buffer here(host_memory(), size), there(memory, size);
    for (const devices::Memory *one : {&host_memory(), &memory})
        fill_values(*one, one == &memory ? there.data() : here.data(), size, HATTN_BF16, 7);
    EXPECT_EQ(here.contents<uint8_t>(), there.contents<uint8_t>());
    EXPECT_GT(memory.properties().cache, size_t(1) << 20);
    EXPECT_LE(memory.properties().available, memory.properties().total);
    EXPECT_FALSE(memory.properties().driver.empty());
    EXPECT_FALSE(memory.properties().runtime.empty());
}

/* A step that the clock sees: 1 GiB read, and the copy's result. */
TEST(Bench, DeviceRecordingsRunAtEachReplay)
{
    const std::string why = why_no_device("cuda");
    if (!why.empty())
        GTEST_SKIP() << why;
    const devices::Memory &memory = *devices::memory_of("cuda");
    const devices::Probe &probe = *devices::probe_of("cuda");
    const auto stopwatch = devices::stopwatch_of("cuda");
    const Buffer from(memory, size_t(1) << 30), to(memory, (size_t(1) << 20) + 64);
    fill_bits(memory, from.data(), from.size(), 1);
    for (int way = 0; way < probe.num_read_ways(); way++) {
        const auto read = [&](int times) {
            const auto recording = stopwatch->record([&] {
                for (int i = 0; i < times; i++)
                    probe.read(way, from.data(), from.size(), stopwatch->stream());
            });
            recording->replay();
            return recording->replay();
        };
        const double once = read(1), four = read(4);
        EXPECT_GT(once, 50) << "faster than 20 TB/s";
        EXPECT_NEAR(four / once, 4, 1) << "way " << way;
    }
    for (int way = 0; way < probe.num_copy_ways(); way++) {
        const auto recording = stopwatch->record(
            [&] { probe.copy(way, to.data(), from.data() + 64 * way, to.size(), stopwatch->stream()); });
        const std::vector<uint8_t> zeros(to.size());
        for (int replay = 0; replay < 2; replay++) {
            memory.write(to.data(), zeros.data(), zeros.size());
            recording->replay();
            std::vector<uint8_t> expected(to.size());
            memory.read(expected.data(), from.data() + 64 * way, expected.size());
            EXPECT_EQ(to.contents<uint8_t>(), expected) << "way " << way;
        }
    }
    EXPECT_THROW(stopwatch->record([] { throw std::logic_error("inside"); }), std::logic_error);
    EXPECT_GT(stopwatch->record([&] { probe.read(0, from.data(), 64, stopwatch->stream()); })->replay(), 0);
}

TEST(Bench, DeviceCeilingsAreSpeedsOfMemory)
{
    const std::string why = why_no_device("cuda");
    if (!why.empty())
        GTEST_SKIP() << why;
    const devices::Memory &memory = *devices::memory_of("cuda");
    const auto stopwatch = devices::stopwatch_of("cuda");
    const Buffer data(memory, size_t(2) << 30);
    fill_bits(memory, data.data(), data.size(), 1);
    for (int64_t row_bytes : {64, 128, 256, 1152}) {
        DeviceCeiling ceiling(memory, *stopwatch, *devices::probe_of("cuda"), data.data(), data.size(),
                              {32768, 512, row_bytes});
        for (int i = 0; i < 3; i++)
            ceiling.sample();
        EXPECT_GT(ceiling.stream_gbps(), 100);
        EXPECT_LT(ceiling.stream_gbps(), 20000);
        EXPECT_GT(ceiling.gather_gbps(), 0.2 * ceiling.stream_gbps()) << row_bytes;
        EXPECT_LT(ceiling.gather_gbps(), 1.05 * ceiling.stream_gbps()) << row_bytes;
        EXPECT_GT(ceiling.copy_gbps(), 0.2 * ceiling.stream_gbps());
        EXPECT_LT(ceiling.copy_gbps(), 0.6 * ceiling.stream_gbps());
    }
}

double real(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    return json_is_number(value) ? json_number_value(value) : std::nan("");
}

void check_report(const std::string &backend)
{
    const Ran ran = run_hattn(
        {"bench", "--backend", backend, "--shape", "S1_mla", "--rounds", "2", "--threads", "1", "--json", "-"});
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
        EXPECT_STREQ(json_string_value(json_object_get(one, "backend")), backend.c_str());
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
    EXPECT_EQ(json_array_size(json_object_get(root.get(), "devices")), backend == "cpu" ? 0u : 1u);
}

TEST(Bench, ReportsEveryStageInJson) { check_report("cpu"); }

void check_steps(const std::string &backend)
{
    const Ran ran = run_hattn({"bench", "--backend", backend, "--shape", "exact_rows1_1k,plan8_rows1_1k_padded",
                               "--rounds", "1", "--threads", "1", "--steps", "4", "--json", "-"});
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    const JsonOwner root = parse_json(ran.out);
    size_t i, seen = 0;
    json_t *row;
    json_array_foreach(json_object_get(root.get(), "rows"), i, row)
    {
        const json_t *steps = json_object_get(row, "steps");
        const bool is_decode = json_string_value(json_object_get(row, "stage")) == std::string("decode");
        ASSERT_EQ(steps != nullptr, is_decode);
        if (!is_decode)
            continue;
        seen++;
        EXPECT_EQ(real(steps, "number"), 4);
        EXPECT_GT(real(steps, "median_us"), 0);
        EXPECT_GE(real(steps, "p99_us"), real(steps, "median_us"));
        EXPECT_GE(real(steps, "p99_us"), real(steps, "mean_us"));
        EXPECT_EQ(real(steps, "percent_above_2_medians") > 0, real(steps, "p99_us") > 2 * real(steps, "median_us"));
        EXPECT_EQ(json_is_null(json_object_get(steps, "rescored")), backend != "cuda");
        const json_t *baseline = json_object_get(row, "baseline");
        EXPECT_STREQ(json_string_value(json_object_get(row, "shape")),
                     baseline ? "plan8_rows1_1k_padded" : "exact_rows1_1k");
        EXPECT_TRUE(!baseline || json_string_value(baseline) == std::string("exact_rows1_1k"));
        EXPECT_EQ(real(row, "bytes"), 1024 * 8 * (16 + 512) + 8 * 128 * 128 * 2 + (baseline ? 8 : 1) * 32 * 128 * 2);
    }
    EXPECT_EQ(seen, 2u);
}

TEST(Bench, ReportsStepsInJson)
{
    check_steps("cpu");
    check_steps("reference");
}

/* Of two shapes, whichever comes first. */
void check_turns(const std::string &backend)
{
    const Ran ran =
        run_hattn({"bench", "--backend", backend, "--in-turns", "--shape", "plan8_rows1_1k_padded,exact_rows1_1k",
                   "--rounds", "3", "--threads", "1", "--json", "-"});
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    const JsonOwner root = parse_json(ran.out);
    EXPECT_EQ(json_array_size(json_object_get(root.get(), "rows")), 0u) << "stages are not timed";
    const json_t *turns = json_object_get(root.get(), "turns"), *padded = json_array_get(turns, 0),
                 *exact = json_array_get(turns, 1);
    ASSERT_EQ(json_array_size(turns), 2u);
    EXPECT_STREQ(json_string_value(json_object_get(padded, "shape")), "plan8_rows1_1k_padded");
    EXPECT_STREQ(json_string_value(json_object_get(padded, "baseline")), "exact_rows1_1k");
    EXPECT_STREQ(json_string_value(json_object_get(padded, "backend")), backend.c_str());
    EXPECT_EQ(json_object_get(exact, "baseline"), nullptr);
    EXPECT_EQ(json_object_get(exact, "ratio"), nullptr);
    for (const json_t *row : {padded, exact}) {
        EXPECT_GT(real(row, "us_min"), 0);
        EXPECT_GE(real(row, "us"), real(row, "us_min"));
    }
    /* No ratio of a round is outside of what the fastest and the slowest of both allow; of three, quarters are the extremes. */
    EXPECT_GT(real(padded, "ratio_first_quarter"), 0);
    EXPECT_GE(real(padded, "ratio"), real(padded, "ratio_first_quarter"));
    EXPECT_LE(real(padded, "ratio"), real(padded, "ratio_last_quarter"));
    EXPECT_LE(real(padded, "ratio_first_quarter") * real(exact, "us_min"), real(padded, "us") * (1 + 1e-9));
}

TEST(Bench, TakesTurns) { check_turns("cpu"); }

TEST(Bench, TakesTurnsOnCuda)
{
    const std::string why = why_no_device("cuda");
    if (!why.empty())
        GTEST_SKIP() << why;
    check_turns("cuda");
}

/* The map of the trace, which finds keys that are alike, and its keys: through the command, which reads the file. */
TEST(Bench, TimesTracesKeys)
{
    const Ran ran = run_hattn({"bench", "--shape", "S2_trace5", "--rounds", "1", "--threads", "1", "--json", "-"});
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_NE(ran.out.find("S2_trace5"), std::string::npos);
}

class BenchDevice : public testing::TestWithParam<std::string>
{
};

TEST_P(BenchDevice, ReportsEveryStageInJson)
{
    const std::string why = why_no_device(GetParam());
    if (!why.empty())
        GTEST_SKIP() << why;
    check_report(GetParam());
}

TEST_P(BenchDevice, ReportsStepsInJson)
{
    const std::string why = why_no_device(GetParam());
    if (!why.empty())
        GTEST_SKIP() << why;
    check_steps(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Backends, BenchDevice, testing::Values("cuda", "opencl"),
                         [](const auto &info) { return info.param; });

TEST(Bench, RefusesWhatItDoesNotKnow)
{
    const Ran shape = run_hattn({"bench", "--shape", "nothing"});
    EXPECT_EQ(shape.exit_code, 2);
    EXPECT_NE(shape.err.find("no shape 'nothing'"), std::string::npos) << shape.err;
    const Ran traces = run_hattn({"bench", "--shape", "S1,S2_trace3", "--traces", "nowhere"});
    EXPECT_EQ(traces.exit_code, 2);
    EXPECT_NE(traces.err.find("nowhere/layer3.safetensors"), std::string::npos) << traces.err;
    EXPECT_EQ(traces.out, "") << "told before anything is timed";
    const Ran turns = run_hattn({"bench", "--in-turns", "--steps", "3"});
    EXPECT_EQ(turns.exit_code, 2);
    EXPECT_NE(turns.err.find("--steps"), std::string::npos) << turns.err;
    const Ran threads = run_hattn({"bench", "--threads", "0"});
    EXPECT_EQ(threads.exit_code, 2);
    EXPECT_NE(threads.err.find("--threads"), std::string::npos) << threads.err;
}

} // namespace
