/* SPDX-License-Identifier: Apache-2.0
 * Numbers that need more keys than the conformance problems have: all of them one row of memory, by strides of zero.
 */
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "contract/attention.h"
#include "tests/api_job.h"

namespace {

class Numerics : public testing::TestWithParam<const char *>
{
protected:
    void SetUp() override
    {
        hattn_device_options options = {};
        options.struct_size = sizeof(options);
        options.backend = "cpu";
        options.isa = GetParam();
        options.max_threads = 1;
        if (hattn_device_open(&options, &device_, nullptr))
            GTEST_SKIP() << "this machine lacks the ISA";
    }
    void TearDown() override { hattn_device_close(device_); }

    /* Dense attention of one query to `length` keys that are all k, with values that are all v. Returns the lse. */
    float attend(int32_t length, std::vector<float> q, std::vector<float> k, std::vector<float> v,
                 std::vector<float> *out)
    {
        hattn_problem p = sized<hattn_problem>();
        p.num_q_heads = p.num_kv_heads = p.max_sequences = p.max_rows = 1;
        p.head_dim_qk = static_cast<int32_t>(k.size());
        p.head_dim_v = static_cast<int32_t>(v.size());
        p.code_bits = 32;
        p.max_length = length;
        p.k = 1;
        p.scale = 1;
        p.q.dtype = p.k_cache.dtype = HATTN_F32;
        for (hattn_tensor *cache : {&p.k_cache, &p.v_cache})
            cache->stride[0] = cache->stride[1] = cache->stride[2] = HATTN_BROADCAST;
        hattn_error error = fresh_error();
        hattn_plan *made = nullptr;
        EXPECT_EQ(HATTN_OK, hattn_plan_create(device_, &p, &made, &error)) << error.text;
        const Plan plan(made);
        hattn_exec exec = {};
        exec.struct_size = sizeof(exec);
        exec.workspace_size = hattn_plan_workspace_size(plan.get());
        std::vector<uint8_t> memory(exec.workspace_size + 256);
        exec.workspace.data = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(memory.data()) + 255) / 256 * 256);
        EXPECT_EQ(HATTN_OK, hattn_workspace_init(device_, exec.workspace, exec.workspace_size, nullptr, nullptr));
        hattn_attend_args args = {};
        args.struct_size = sizeof(args);
        args.batch.num_sequences = args.batch.num_rows = args.batch.q_len = 1;
        args.batch.seq_len.data = &length;
        float lse = NAN;
        out->assign(v.size(), NAN);
        args.q.data = q.data(), args.k_cache.data = k.data(), args.v_cache.data = v.data();
        args.out.data = out->data(), args.lse.data = &lse;
        EXPECT_EQ(HATTN_OK, hattn_attend(plan.get(), &args, &exec, &error)) << error.text;
        return lse;
    }

    /* Equal keys: out is v, lse a logit and ln of their number. */
    void check(int32_t length, float logit, float largest)
    {
        std::mt19937 engine(7);
        std::uniform_real_distribution<float> uniform(-1, 1);
        std::vector<float> q(32), k(32), v(64), out;
        q[0] = 1;
        k[0] = logit;
        for (float &value : v)
            value = largest * uniform(engine);
        const float lse = attend(length, q, k, v, &out);
        const contract::Attention exact({{logit + std::log(static_cast<double>(length)), 0}});
        EXPECT_NEAR(lse, exact.lse(), exact.lse_tolerance(contract::Sums::F32)) << length;
        for (size_t i = 0; i < v.size(); i++)
            EXPECT_LE(std::fabs(static_cast<double>(out[i]) - v[i]), contract::sum_error(contract::Sums::F32) * largest)
                << length << " keys, column " << i << " got " << out[i] << " want " << v[i];
    }

    hattn_device *device_ = nullptr;
};

/* More than 16 parts of the largest size: roundings of one sign add up inside of a part. */
TEST_P(Numerics, EqualKeysByTheHundredThousands)
{
    for (int32_t length : {262144, 600000})
        check(length, 0.3f, 1);
}

TEST_P(Numerics, MeansOfHugeValuesAreFinite)
{
    for (int32_t length : {2, 100, 300000})
        for (float logit : {0.0f, 1000.0f})
            check(length, logit, 3.4e38f * (1 - 0x1p-16f));
}

INSTANTIATE_TEST_SUITE_P(Isas, Numerics, testing::Values("scalar", "avx2", "avx512", "neon"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
