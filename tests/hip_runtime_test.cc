/* SPDX-License-Identifier: Apache-2.0
 * How kernels_hip finds AMD's runtime and loads and launches by it, with the runtime played (fake_hip.h) and kernels that are names.
 */
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "kernels_hip/runtime.h"
#include "tests/fake_hip.h"

/* As what clang writes calls them. */
extern "C" {
struct FatBinary {
    uint32_t magic, version;
    const void *image, *unused;
};
void *hattn_hip_register_file(const FatBinary *binary);
void hattn_hip_register_kernel(void *file, const void *handle, const char *name, const char *same_name,
                               unsigned most_threads, void *thread, void *block, void *block_dim, void *grid_dim,
                               int *warp_size);
}

namespace {

const char images[2] = {};
const FatBinary binaries[2] = {{0, 1, &images[0], nullptr}, {0, 1, &images[1], nullptr}};
const char handles[8] = {}; /* the addresses are what counts */
const char *const names[] = {"a", "b", "c", "d", "e", "f", "g"};

void add(void *file, int i)
{
    hattn_hip_register_kernel(file, &handles[i], names[i], names[i], 0, nullptr, nullptr, nullptr, nullptr, nullptr);
}

/* Before main, as in the library; not in the order of addresses. Kernel i is of file i % 2; the last handle is nobody's. */
const bool registered = [] {
    void *files[2] = {hattn_hip_register_file(&binaries[0]), hattn_hip_register_file(&binaries[1])};
    for (int i = 6; i >= 0; i--)
        add(files[i % 2], i);
    return true;
}();

class HipRuntime : public testing::Test
{
protected:
    void SetUp() override { fake_hip().reset(); }
};

int load(int kernel)
{
    size_t bytes;
    return hattn_hip_static_shared(&handles[kernel], &bytes);
}

int launch(int kernel, void **arguments)
{
    const uint32_t blocks[3] = {5, 6, 7};
    return hattn_hip_launch(&handles[kernel], blocks, 256, 4096, &fake_hip(), arguments);
}

TEST_F(HipRuntime, NoMoreSharedMemoryIsNamedThanKernelsWereCompiledFor)
{
    for (const auto &[has, named] : std::map<int, int>{{32768, 32768}, {65536, 65536}, {163840, 65536}}) {
        fake_hip().block_shared = has;
        hattn_hip_properties found;
        ASSERT_EQ(hattn_hip_get_properties(0, &found), 0);
        EXPECT_EQ(found.block_shared, static_cast<size_t>(named));
        EXPECT_EQ(found.multiprocessor_shared, static_cast<size_t>(has));
        int most = 0;
        ASSERT_EQ(hattn_hip_most_shared(&most), 0);
        EXPECT_EQ(most, named);
    }
}

TEST_F(HipRuntime, DevicesAreDescribed)
{
    int count = 0;
    ASSERT_EQ(hattn_hip_count_devices(&count), 0);
    EXPECT_EQ(count, 2);
    hattn_hip_properties found;
    ASSERT_EQ(hattn_hip_get_properties(1, &found), 0);
    EXPECT_STREQ(found.name, "Played 1");
    EXPECT_STREQ(found.isa, "gfx942");
    EXPECT_TRUE(found.has_kernels);
    EXPECT_EQ(found.num_multiprocessors, 304);
    EXPECT_EQ(found.block_shared, 65536u);
    EXPECT_EQ(found.most_blocks, (INT64_C(1) << 23) - 1);
    const std::string built = "," HATTN_HIP_TARGETS ","; /* all five, if nobody has asked for fewer */
    for (const std::string isa : {"gfx906", "gfx90a", "gfx90", "gfx1030", "gfx103", "gfx1201", "x"}) {
        fake_hip().architecture = isa;
        ASSERT_EQ(hattn_hip_get_properties(0, &found), 0);
        EXPECT_EQ(found.has_kernels, built.find("," + isa + ",") != std::string::npos) << isa;
    }
    EXPECT_EQ(hattn_hip_get_properties(16, &found), HATTN_HIP_TOO_MANY_DEVICES);
    EXPECT_STREQ(hattn_hip_error_text(HATTN_HIP_TOO_MANY_DEVICES), "only the first 16 devices are used");
}

TEST_F(HipRuntime, KernelsAreLoadedOnceForEachDeviceAndLaunchedAsTold)
{
    int x = 1;
    void *arguments[] = {&x};
    for (int device : {0, 1}) {
        SCOPED_TRACE(device);
        fake_hip().reset();
        ASSERT_EQ(hattn_hip_use_device(device), 0);
        EXPECT_EQ(launch(0, arguments), HATTN_HIP_NO_SUCH_KERNEL); /* not loaded onto this one */
        for (int again = 0; again < 2; again++)
            for (int kernel : {0, 1, 2, 6}) {
                size_t bytes = 0;
                ASSERT_EQ(hattn_hip_static_shared(&handles[kernel], &bytes), 0);
                EXPECT_EQ(bytes, 1000u);
            }
        EXPECT_EQ(fake_hip().calls["hipModuleLoadData"], 2);
        EXPECT_EQ(fake_hip().calls["hipModuleGetFunction"], 4);
        for (int kernel : {0, 1, 2, 6}) {
            ASSERT_EQ(launch(kernel, arguments), 0);
            const FakeHip::Launch &seen = fake_hip().launches.back();
            EXPECT_EQ(seen.kernel, names[kernel]);
            EXPECT_EQ(seen.image, &images[kernel % 2]);
            EXPECT_EQ(seen.device, device);
            EXPECT_EQ(std::vector<unsigned>(seen.blocks, seen.blocks + 3), (std::vector<unsigned>{5, 6, 7}));
            EXPECT_EQ(seen.threads, 256u);
            EXPECT_EQ(seen.shared_bytes, 4096u);
            EXPECT_EQ(seen.stream, &fake_hip());
            EXPECT_EQ(seen.arguments, arguments);
        }
        EXPECT_EQ(launch(3, arguments), HATTN_HIP_NO_SUCH_KERNEL);
        EXPECT_EQ(launch(7, arguments), HATTN_HIP_NO_SUCH_KERNEL);
        EXPECT_EQ(load(7), HATTN_HIP_NO_SUCH_KERNEL);
    }
}

TEST_F(HipRuntime, FailuresAreHandedOnAndNothingOfThemIsKept)
{
    int value = 0;
    size_t bytes;
    hattn_hip_properties found;
    void *arguments[] = {&value};
    ASSERT_EQ(load(0), 0);
    const struct {
        const char *function;
        std::function<int()> call;
    } cases[] = {
        {"hipGetDeviceCount", [&] { return hattn_hip_count_devices(&value); }},
        {"hipGetDevice", [&] { return hattn_hip_current_device(&value); }},
        {"hipGetDevice", [&] { return load(0); }},
        {"hipGetDevice", [&] { return launch(0, arguments); }},
        {"hipGetDevice", [&] { return hattn_hip_most_shared(&value); }},
        {"hipSetDevice", [&] { return hattn_hip_use_device(0); }},
        {"hipGetDevicePropertiesR0600", [&] { return hattn_hip_get_properties(0, &found); }},
        {"hipDeviceGetAttribute", [&] { return hattn_hip_get_properties(0, &found); }},
        {"hipDeviceGetAttribute", [&] { return hattn_hip_most_shared(&value); }},
        {"hipMemsetAsync", [&] { return hattn_hip_zero(&value, 4, nullptr); }},
        {"hipModuleGetFunction", [&] { return load(4); }},
        {"hipFuncGetAttribute", [&] { return hattn_hip_static_shared(&handles[4], &bytes); }},
        {"hipModuleLaunchKernel", [&] { return launch(0, arguments); }},
    };
    for (const auto &each : cases) {
        SCOPED_TRACE(each.function);
        fake_hip().reset();
        fake_hip().fails = each.function;
        EXPECT_EQ(each.call(), 719);
        EXPECT_STREQ(hattn_hip_error_text(719), "played failure");
        EXPECT_EQ(hattn_hip_last_error(), 719);
        hattn_hip_forget_last_error();
        EXPECT_EQ(hattn_hip_last_error(), 0);
        fake_hip().fails.clear();
        EXPECT_EQ(each.call(), 0);
    }
    /* A device that has loaded nothing yet. */
    fake_hip().reset();
    fake_hip().current = 5;
    fake_hip().fails = "hipModuleLoadData";
    EXPECT_EQ(load(0), 719);
    EXPECT_EQ(launch(0, arguments), HATTN_HIP_NO_SUCH_KERNEL);
    fake_hip().fails.clear();
    EXPECT_EQ(load(0), 0);
    EXPECT_EQ(launch(0, arguments), 0);
    fake_hip().current = 16;
    EXPECT_EQ(load(0), HATTN_HIP_TOO_MANY_DEVICES);
    EXPECT_EQ(launch(0, arguments), HATTN_HIP_NO_SUCH_KERNEL);
}

TEST_F(HipRuntime, ThreadsLoadAKernelOnce)
{
    fake_hip().current = 9;
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; i++)
        threads.emplace_back([] {
            int x = 0;
            void *arguments[] = {&x};
            for (int kernel = 0; kernel < 7; kernel++) {
                EXPECT_EQ(load(kernel), 0);
                EXPECT_EQ(launch(kernel, arguments), 0);
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(fake_hip().calls["hipModuleLoadData"], 2);
    EXPECT_EQ(fake_hip().calls["hipModuleGetFunction"], 7);
    EXPECT_EQ(fake_hip().launches.size(), 56u);
}

} // namespace
