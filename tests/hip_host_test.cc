/* SPDX-License-Identifier: Apache-2.0
 * The HIP backend's host side with AMD's runtime played (fake_hip.h): plans and runs of the whole list load and launch the kernels that were
 * built, with arguments and limits as a device would need them, on the caller's stream and by calls that a capture allows; what any
 * of these calls says in failing becomes a status with its words. Nothing is computed.
 */
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "api/hattn.h"
extern "C" {
#include "core/rows.h"
#include "kernels_cuda/params.h"
}
#include "kernels_hip/runtime.h"
#include "problems/problems.h"
#include "problems/shape.h"
#include "tests/fake_hip.h"

namespace {

alignas(256) char memory[4096]; /* what all buffers are: nothing reads them */
constexpr hattn_buffer kBuffer = {memory, 0};
int stream;

/* A device and a plan of it. */
struct Planned {
    hattn_device *device = nullptr;
    hattn_plan *plan = nullptr;
    hattn_problem problem = {};
    hattn_exec exec = {};
    hattn_error error = {};
    hattn_status status;

    explicit Planned(const hattn_problem &from, int index = 0) : problem(from)
    {
        hattn_device_options options = {};
        options.struct_size = sizeof(options);
        options.backend = "hip";
        options.index = index;
        status = hattn_device_open(&options, &device, &error);
        if (!status)
            status = hattn_plan_create(device, &problem, &plan, &error);
        exec.struct_size = sizeof(exec);
        exec.workspace = kBuffer;
        exec.workspace_size = plan ? hattn_plan_workspace_size(plan) : 0;
        exec.stream = &stream;
    }
    ~Planned()
    {
        hattn_plan_destroy(plan);
        hattn_device_close(device);
    }
    Planned(const Planned &) = delete;
    Planned &operator=(const Planned &) = delete;
};

template <class Args>
Args sized()
{
    Args args = {};
    args.struct_size = sizeof(args);
    return args;
}

hattn_batch batch_of(const hattn_problem &p)
{
    hattn_batch batch = {};
    batch.num_sequences = p.max_sequences;
    batch.q_len = 1;
    batch.num_rows = p.max_sequences;
    batch.seq_len = kBuffer;
    batch.block_table = p.page_size ? kBuffer : hattn_buffer{};
    return batch;
}

hattn_map_buffers map_of(const hattn_problem &p, bool is_of_keys)
{
    hattn_map_buffers map = {};
    const bool is_mlp = p.map_kind == HATTN_MAP_MLP;
    for (int i = 0; i < (is_mlp ? 3 : 1); i++) {
        map.weight[i] = kBuffer;
        if (is_mlp || is_of_keys)
            map.bias[i] = kBuffer;
    }
    return map;
}

hattn_buffer given(bool is_there) { return is_there ? kBuffer : hattn_buffer{}; }

hattn_buffer of_steps(const hattn_problem &p) { return given(hattn_has_shares(&p)); }

hattn_buffer of_tail(const hattn_problem &p) { return given(p.tail > 0); }

hattn_buffer of_candidates(const hattn_problem &p) { return given(p.num_candidates > 0); }

struct Call {
    const char *name;
    std::function<hattn_status(Planned &)> run;
    bool is_of_tails = false;
};

const Call calls[] = {
    {"encode_keys",
     [](Planned &t) {
         auto a = sized<hattn_encode_keys_args>();
         a.num_tokens = 100;
         a.k_new = a.codes = kBuffer;
         a.norms = t.problem.key_norms ? kBuffer : hattn_buffer{};
         a.key_map = map_of(t.problem, true);
         return hattn_encode_keys(t.plan, &a, &t.exec, &t.error);
     }},
    {"encode_queries",
     [](Planned &t) {
         auto a = sized<hattn_encode_queries_args>();
         a.num_rows = t.problem.max_sequences;
         a.q = a.weights = kBuffer;
         a.slopes = a.steps = of_steps(t.problem);
         a.head_slopes = a.head_weights = a.head_steps = of_candidates(t.problem);
         a.query_map = map_of(t.problem, false);
         return hattn_encode_queries(t.plan, &a, &t.exec, &t.error);
     }},
    {"score",
     [](Planned &t) {
         auto a = sized<hattn_score_args>();
         a.batch = batch_of(t.problem);
         a.weights = a.codes = a.scores = kBuffer;
         a.norms = t.problem.key_norms ? kBuffer : hattn_buffer{};
         return hattn_score(t.plan, &a, &t.exec, &t.error);
     }},
    {"topk",
     [](Planned &t) {
         auto a = sized<hattn_topk_args>();
         a.batch = batch_of(t.problem);
         a.scores = a.indices = a.counts = kBuffer;
         a.steps = of_steps(t.problem);
         a.shares = a.rests = of_tail(t.problem);
         a.codes = a.head_weights = a.head_steps = of_candidates(t.problem);
         return hattn_topk(t.plan, &a, &t.exec, &t.error);
     }},
    {"attend",
     [](Planned &t) {
         auto a = sized<hattn_attend_args>();
         a.batch = batch_of(t.problem);
         a.q = a.k_cache = a.v_cache = a.indices = a.counts = a.out = kBuffer;
         a.shares = a.rests = a.value_sums = a.value_lengths = of_tail(t.problem);
         return hattn_attend(t.plan, &a, &t.exec, &t.error);
     }},
    {"merge",
     [](Planned &t) {
         auto a = sized<hattn_merge_args>();
         a.num_parts = 2;
         a.num_rows = 1;
         a.partial_out = a.partial_lse = a.out = kBuffer;
         return hattn_merge(t.plan, &a, &t.exec, &t.error);
     }},
    {"decode",
     [](Planned &t) {
         auto a = sized<hattn_decode_args>();
         a.append = 1;
         a.batch = batch_of(t.problem);
         a.q = a.k_cache = a.v_cache = a.codes = a.out = kBuffer;
         a.norms = t.problem.key_norms ? kBuffer : hattn_buffer{};
         a.slopes = of_steps(t.problem);
         a.head_slopes = of_candidates(t.problem);
         a.value_sums = a.value_lengths = of_tail(t.problem);
         a.key_map = map_of(t.problem, true);
         a.query_map = map_of(t.problem, false);
         return hattn_decode(t.plan, &a, &t.exec, &t.error);
     }},
    {"sum_values",
     [](Planned &t) {
         auto a = sized<hattn_sum_values_args>();
         a.batch = batch_of(t.problem);
         a.v_cache = a.value_sums = a.value_lengths = kBuffer;
         return hattn_sum_values(t.plan, &a, &t.exec, &t.error);
     },
     true},
};

/* What a device takes, and a call's launches have. */
void check_launch(const FakeHip::Launch &launch)
{
    EXPECT_EQ(launch.stream, &stream);
    EXPECT_GE(launch.threads, 1u);
    EXPECT_LE(launch.threads, unsigned{HATTN_HIP_MOST_THREADS});
    EXPECT_LE(launch.shared_bytes + fake_hip().static_shared, 65536u);
    EXPECT_GE(launch.blocks[0] * launch.blocks[1] * launch.blocks[2], 1u);
    EXPECT_LT(static_cast<uint64_t>(launch.blocks[0]) * launch.threads, UINT64_C(1) << 32);
    EXPECT_LE(launch.blocks[1], 65535u);
    EXPECT_LE(launch.blocks[2], 65535u);
    EXPECT_EQ(memcmp(launch.image, "CCOB", 4), 0); /* a compressed bundle */
    ASSERT_NE(launch.arguments[0], nullptr);
}

/* Calls that read what the runtime knows, or enqueue. */
const std::set<std::string> allowed_in_capture = {"hipGetDevice", "hipSetDevice", "hipMemsetAsync",
                                                  "hipModuleLaunchKernel"};

hattn_problem shape_of(const problems::Problem &problem) { return problems::make_shape(problem, 64); }

class HipHost : public testing::Test
{
protected:
    void SetUp() override { fake_hip().reset(); }
};

TEST_F(HipHost, TheWholeListIsPlannedLoadedAndLaunched)
{
    std::map<std::string, int> kernels;
    int num_plans = 0;
    fake_hip().on_launch = check_launch; /* while the arguments are there */
    for (const problems::Problem &problem : problems::all_problems()) {
        SCOPED_TRACE(problem.name);
        Planned t(shape_of(problem));
        ASSERT_EQ(t.status, HATTN_OK) << t.error.text;
        num_plans++;
        ASSERT_EQ(hattn_workspace_init(t.device, kBuffer, t.exec.workspace_size, &stream, &t.error), HATTN_OK);
        ASSERT_FALSE(fake_hip().zeroed.empty());
        EXPECT_EQ(fake_hip().zeroed[0].address, memory);
        EXPECT_EQ(fake_hip().zeroed[0].stream, &stream);
        for (const Call &call : calls) {
            SCOPED_TRACE(call.name);
            if (call.is_of_tails && !(problem.tail > 0))
                continue;
            fake_hip().calls.clear();
            fake_hip().launches.clear();
            ASSERT_EQ(call.run(t), HATTN_OK) << t.error.text;
            ASSERT_FALSE(fake_hip().launches.empty());
            for (const FakeHip::Launch &launch : fake_hip().launches)
                kernels[launch.kernel]++;
            for (const auto &[name, count] : fake_hip().calls)
                EXPECT_TRUE(allowed_in_capture.count(name)) << name;
        }
        fake_hip().zeroed.clear();
    }
    EXPECT_GT(num_plans, 100);
    EXPECT_GT(kernels.size(), 50u);
}

TEST_F(HipHost, ArgumentsArriveWhole)
{
    for (const problems::Problem &problem : problems::bench_problems())
        if (problem.name == "S1") {
            Planned t(shape_of(problem), 1);
            ASSERT_EQ(t.status, HATTN_OK) << t.error.text;
            int num_seen = 0;
            fake_hip().on_launch = [&](const FakeHip::Launch &launch) {
                EXPECT_EQ(launch.device, 1);
                if (launch.kernel.find("decode_attend_kernel") == std::string::npos)
                    return;
                num_seen++;
                const auto &params = *static_cast<const hattn_cuda_params *>(launch.arguments[0]);
                EXPECT_EQ(params.problem.k, t.problem.k);
                EXPECT_EQ(params.problem.head_dim_v, t.problem.head_dim_v);
                EXPECT_EQ(params.workspace_size, t.exec.workspace_size);
                EXPECT_EQ(params.has_dependent_launch, 0);
                const auto &args = *static_cast<const hattn_decode_args *>(launch.arguments[1]);
                EXPECT_EQ(args.append, 1);
                EXPECT_EQ(args.out.data, memory);
                EXPECT_EQ(static_cast<const hattn_buffer *>(launch.arguments[3])->data, memory); /* the workspace */
            };
            EXPECT_EQ(calls[6].run(t), HATTN_OK) << t.error.text;
            EXPECT_EQ(num_seen, 1);
            EXPECT_EQ(fake_hip().current, 0); /* the caller's */
            return;
        }
    FAIL() << "no S1 in the list";
}

TEST_F(HipHost, EveryFailureBecomesAStatusInWords)
{
    const hattn_problem problem = shape_of(problems::bench_problems().front());
    Planned t(problem, 1);
    ASSERT_EQ(t.status, HATTN_OK) << t.error.text;
    auto expect = [&](hattn_status status, const hattn_error &error) {
        EXPECT_EQ(status, HATTN_DEVICE_ERROR);
        EXPECT_STREQ(error.text, "hip: played failure");
        fake_hip().fails.clear();
        EXPECT_EQ(fake_hip().current, 0);
        EXPECT_EQ(fake_hip().last_error, 0);
    };
    for (const char *function : {"hipGetDevice", "hipSetDevice", "hipModuleLaunchKernel"})
        for (const Call &call : calls) {
            if (call.is_of_tails)
                continue;
            SCOPED_TRACE(std::string(function) + " in " + call.name);
            fake_hip().fails = function;
            expect(call.run(t), t.error);
            EXPECT_EQ(call.run(t), HATTN_OK) << t.error.text;
        }
    fake_hip().fails = "hipMemsetAsync";
    expect(hattn_workspace_init(t.device, kBuffer, t.exec.workspace_size, &stream, &t.error), t.error);
    /* A device on which nothing was loaded yet fails to load anything; so it does when a plan is made there. */
    fake_hip().num_devices = 8;
    int index = 2;
    for (const char *function : {"hipGetDevicePropertiesR0600", "hipDeviceGetAttribute", "hipModuleLoadData",
                                 "hipModuleGetFunction", "hipFuncGetAttribute"}) {
        SCOPED_TRACE(function);
        fake_hip().fails = function;
        Planned failing(problem, index++);
        expect(failing.status, failing.error);
        EXPECT_EQ(failing.plan, nullptr);
    }
    /* The caller's own error stays. */
    fake_hip().last_error = 2;
    EXPECT_EQ(calls[2].run(t), HATTN_OK);
    EXPECT_EQ(fake_hip().last_error, 2);
}

TEST_F(HipHost, DevicesWithoutKernelsAreRefused)
{
    fake_hip().architecture = "gfx906";
    Planned t(shape_of(problems::bench_problems().front()));
    EXPECT_EQ(t.status, HATTN_NO_DEVICE);
    EXPECT_STREQ(t.error.text, "hip: Played 0 is gfx906, the kernels need " HATTN_HIP_TARGETS);
}

} // namespace
