/* SPDX-License-Identifier: Apache-2.0
 * Kernels of code objects, launched through the runtime that tests are given.
 */
#ifndef HATTN_TESTS_AMDGPU_UNIT_H
#define HATTN_TESTS_AMDGPU_UNIT_H

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

extern "C" {
int hipMalloc(void **address, size_t size);
int hipFree(void *address);
int hipDeviceSynchronize(void);
int hipDeviceReset(void);
int hipModuleLoadData(void **module, const void *image);
int hipModuleGetFunction(void **function, void *module, const char *name);
int hipModuleLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                          unsigned threads_z, unsigned shared_bytes, void *stream, void **arguments, void **extra);
}

/* Of kernels for unit_test.cc, and of those for products_test.cc. */
extern std::string unit_path, products_path;

enum { COUNT = 1024, THREADS = 256 };

inline bool is_wave64() { return !strncmp(getenv("HATTN_AMDGPU_ARCHITECTURE"), "gfx9", 4); }

/* Random words, and those at which something happens. */
inline std::vector<uint32_t> make_words(unsigned seed)
{
    static const uint32_t edges[] = {0,          1,          2,          0x7f,       0x80,       0xffff,
                                     0x8000,     0x7fffffff, 0x80000000, 0xffffffff, 0x3f800000, 0xbf800000,
                                     0x7f800000, 0xff800000, 0x7fc00000, 0x00800000, 0x007fffff, 0x7f7fffff,
                                     0x3c00bc00, 0x7c000001, 0x477fe000};
    std::mt19937 random(seed);
    std::vector<uint32_t> words(3 * COUNT);
    for (uint32_t &word : words)
        word = random() % 4   ? random()
               : random() % 2 ? edges[random() % std::size(edges)]
                              : 0x3f000000 + random() % 0x1000000;
    return words;
}

/* Of the code object at *kPath. */
template <const std::string *kPath>
class Launches : public testing::Test
{
protected:
    void SetUp() override
    {
        static void *loaded = nullptr;
        if (!loaded) {
            std::ifstream file(*kPath, std::ios::binary);
            const std::string data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
            ASSERT_EQ(hipModuleLoadData(&loaded, data.data()), 0);
        }
        module_ = loaded;
        ASSERT_EQ(hipMalloc(&in_, words_.size() * 4), 0);
        ASSERT_EQ(hipMalloc(&out_, COUNT * 8), 0);
        memcpy(in_, words_.data(), words_.size() * 4);
    }

    void TearDown() override
    {
        hipDeviceReset(); /* a fault would stay */
        hipFree(in_);
        hipFree(out_);
    }

    int run(const std::string &name, unsigned blocks = COUNT / THREADS, unsigned threads = THREADS)
    {
        void *function, *arguments[] = {&in_, &out_};
        EXPECT_EQ(hipModuleGetFunction(&function, module_, name.c_str()), 0) << name;
        EXPECT_EQ(hipModuleLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, nullptr, arguments, nullptr), 0);
        return hipDeviceSynchronize();
    }

    uint64_t *out() const { return static_cast<uint64_t *>(out_); }

    const std::vector<uint32_t> words_ = make_words(7);
    void *module_ = nullptr, *in_ = nullptr, *out_ = nullptr;
};

#endif
