/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend's devices and calls: the right device is current in each call and the caller's again after it, failures of the
 * runtime are told, and what does not compute is not opened.
 */
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "tests/fake_cuda.h"

namespace {

using CudaCalls = CudaTest;

TEST_F(CudaCalls, CallsRunOnThePlansDeviceAndLeaveTheCallersCurrent)
{
    const hattn_backend &cuda = hattn_cuda_backend;
    hattn_device_options options = {};
    options.index = 1;
    hattn_device *device = nullptr;
    hattn_error error = {};
    ASSERT_EQ(cuda.open(&options, &device, &error), HATTN_OK) << error.text;
    device->backend = &cuda;
    const hattn_problem problem = shape_of(HATTN_F16, HATTN_F16, 128);
    hattn_plan *plan = nullptr;
    ASSERT_EQ(cuda.plan(device, &problem, &plan, &error), HATTN_OK) << error.text;
    EXPECT_EQ(fake_cuda.launched_on, 1);
    EXPECT_EQ(fake_cuda.current, 0);
    plan->device = device;
    hattn_exec exec = {};
    ASSERT_EQ(cuda.workspace_init(device, {}, plan->workspace_size, nullptr, &error), HATTN_OK);
    EXPECT_EQ(fake_cuda.zeroed, sizeof(hattn_cuda_control) + sizeof(uint64_t));
    const std::function<hattn_status()> calls[] = {
        [&] {
            hattn_encode_keys_args a = {};
            return cuda.encode_keys(plan, &a, &exec, &error);
        },
        [&] {
            hattn_encode_queries_args a = {};
            return cuda.encode_queries(plan, &a, &exec, &error);
        },
        [&] {
            hattn_score_args a = {};
            return cuda.score(plan, &a, &exec, &error);
        },
        [&] {
            hattn_topk_args a = {};
            return cuda.topk(plan, &a, &exec, &error);
        },
        [&] {
            hattn_attend_args a = {};
            return cuda.attend(plan, &a, &exec, &error);
        },
        [&] {
            hattn_merge_args a = {};
            return cuda.merge(plan, &a, &exec, &error);
        },
        [&] {
            hattn_decode_args a = {};
            return cuda.decode(plan, &a, &exec, &error);
        },
        [&] {
            hattn_decode_args a = {};
            return cuda.append(plan, &a, &exec, &error);
        },
    };
    for (int code : {0, 7}) {
        fake_cuda.launch_code = code;
        for (const auto &call : calls) {
            const int launches = fake_cuda.launches;
            fake_cuda.launched_on = -1;
            EXPECT_EQ(call(), code ? HATTN_DEVICE_ERROR : HATTN_OK);
            EXPECT_EQ(fake_cuda.launches, launches + 1);
            EXPECT_EQ(fake_cuda.launched_on, 1);
            EXPECT_EQ(fake_cuda.current, 0);
            EXPECT_TRUE(!code || std::strstr(error.text, "out of luck")) << error.text;
        }
    }
    cuda.plan_destroy(plan);
    plan = nullptr;
    EXPECT_EQ(cuda.plan(device, &problem, &plan, &error), HATTN_DEVICE_ERROR); /* kernels that do not load */
    EXPECT_EQ(plan, nullptr);
    EXPECT_EQ(fake_cuda.current, 0);
    cuda.close(device);
}

TEST_F(CudaCalls, OpensWithAKnownAnswer)
{
    unsetenv("HATTN_SELFTEST");
    hattn_device_options options = {};
    options.index = 1;
    hattn_device *device = nullptr;
    hattn_error error = {};
    fake_cuda.computes = true;
    ASSERT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_OK) << error.text;
    EXPECT_EQ(fake_cuda.launched_on, 1);
    EXPECT_EQ(fake_cuda.current, 0);
    hattn_cuda_backend.close(device);
    for (const char *operation : {"encode_keys", "encode_queries", "score", "attend", "merge", "decode"}) {
        fake_cuda.wrong = operation;
        device = nullptr;
        EXPECT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_DEVICE_ERROR) << operation;
        EXPECT_NE(std::strstr(error.text, (std::string("the known answer of ") + operation).c_str()), nullptr)
            << error.text;
        EXPECT_EQ(device, nullptr);
    }
    fake_cuda.launch_code = 7;
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_DEVICE_ERROR);
    EXPECT_NE(std::strstr(error.text, "out of luck"), nullptr) << error.text;
    fake_cuda.launch_code = 0;
    fake_cuda.allocate_code = 7;
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_DEVICE_ERROR);
    fake_cuda.allocate_code = 801; /* no pools: nothing is asked, not even what is wrong */
    ASSERT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_OK) << error.text;
    hattn_cuda_backend.close(device);
    fake_cuda.allocate_code = 0;
    EXPECT_EQ(fake_cuda.streams, 0);
    EXPECT_EQ(fake_cuda.allocations, 0);
    EXPECT_EQ(fake_cuda.current, 0);
    setenv("HATTN_SELFTEST", "0", 1);
    const int launches = fake_cuda.launches;
    ASSERT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_OK) << error.text;
    EXPECT_EQ(fake_cuda.launches, launches);
    hattn_cuda_backend.close(device);
}

TEST_F(CudaCalls, OldDevicesAndForeignOptionsAreRefused)
{
    hattn_device_options options = {};
    hattn_device *device = nullptr;
    fake_cuda.properties.has_kernels = 0;
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, nullptr), HATTN_NO_DEVICE);
    fake_cuda.properties.has_kernels = 1;
    options.isa = "avx2";
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, nullptr), HATTN_INVALID_ARGUMENT);
    char why[64] = "";
    fake_cuda.count = 0;
    EXPECT_EQ(hattn_cuda_backend.device_count(why, sizeof(why)), 0);
    EXPECT_STREQ(why, "the driver reports no device");
}

} // namespace
