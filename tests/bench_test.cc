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
#include "core/sized.h"
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
TEST(Bench, StagesReplayedAloneStayCold)
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

TEST(Bench, StagesRunOverFewLayersToo)
{
    problems::Problem problem = problems::bench_problems()[0];
    problem.lengths = {4096};
    Workload workload(problem, host_memory(), Turns::ALONE, size_t(60) << 20);
    EXPECT_NE(workload.layers().find("short of memory"), std::string::npos) << workload.layers();
    hattn_device *device = nullptr;
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = "cpu";
    options.max_threads = 1;
    ASSERT_EQ(hattn_device_open(&options, &device, nullptr), HATTN_OK);
    hattn_plan *plan = nullptr;
    ASSERT_EQ(hattn_plan_create(device, &workload.shape(), &plan, nullptr), HATTN_OK);
    hattn_exec exec = sized<hattn_exec>();
    exec.num_threads = 1;
    exec.workspace_size = hattn_plan_workspace_size(plan);
    const Buffer workspace(host_memory(), exec.workspace_size);
    exec.workspace = workspace.at();
    ASSERT_EQ(hattn_workspace_init(device, exec.workspace, exec.workspace_size, nullptr, nullptr), HATTN_OK);
    hattn_error error = {};
    EXPECT_EQ(workload.prepare(plan, &exec, &error), HATTN_OK) << error.text;
    for (int step = 0; step < 3; step++) {
        workload.next_layer();
        for (int stage = 0; stage < NUM_STAGES; stage++)
            EXPECT_EQ(workload.run(Stage(stage), plan, &exec, &error), HATTN_OK) << STAGE_NAMES[stage] << error.text;
    }
    hattn_plan_destroy(plan);
    hattn_device_close(device);
}

/* The floor of design.md: n codes, k rows of K and V, maps and queries besides. */
TEST(Bench, CountsTheBytesOfEveryBenchmarkShape)
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

INSTANTIATE_TEST_SUITE_P(Backends, BenchDevice, testing::Values("cuda", "opencl"),
                         [](const auto &info) { return info.param; });

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
