/* SPDX-License-Identifier: Apache-2.0
 * The emulator against results that are known: unit.cu, whose code object is the first argument; the second is that
 * of products.cu.
 */
#include <cmath>
#include <functional>
#include <regex>

#include "tests/amdgpu/unit.h"
#include "tests/amdgpu/unit_ops.h"

std::string unit_path, products_path;

namespace {

using Unit = Launches<&unit_path>;

#define UNIT(name, expression)                                                                  \
    TEST_F(Unit, name)                                                                          \
    {                                                                                           \
        ASSERT_EQ(run("unit_" #name), 0);                                                       \
        for (int i = 0; i < COUNT; i++) {                                                       \
            const uint32_t x = words_[3 * i], y = words_[3 * i + 1], z = words_[3 * i + 2];     \
            static_cast<void>(x), static_cast<void>(y), static_cast<void>(z);                   \
            ASSERT_EQ(out()[i], uint64_t(expression)) << std::hex << x << ' ' << y << ' ' << z; \
        }                                                                                       \
    }
UNITS(UNIT)

TEST_F(Unit, Loops)
{
    ASSERT_EQ(run("collatz"), 0);
    for (int i = 0; i < COUNT; i++) {
        uint64_t x = (words_[3 * i] & 0xffff) | 1, steps = 0;
        for (; x != 1; steps++)
            x = x % 2 ? 3 * x + 1 : x / 2;
        ASSERT_EQ(out()[i], steps) << i;
    }
}

TEST_F(Unit, ScratchAndCalls)
{
    ASSERT_EQ(run("scratch_and_calls"), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t k = (words_[3 * i + 1] - i % THREADS) & 15;
        ASSERT_EQ(out()[i], words_[3 * i] * k) << i;
    }
}

TEST_F(Unit, Histogram)
{
    std::vector<uint64_t> expected(64);
    for (int i = 0; i < COUNT; i++)
        expected[words_[3 * i] & 63]++;
    memset(out_, 0, 64 * 8);
    ASSERT_EQ(run("histogram"), 0);
    EXPECT_EQ(std::vector<uint64_t>(out(), out() + 64), expected);
}

TEST_F(Unit, Constants)
{
    static const uint64_t table[] = {1, 2, 3, 5, 8, 0, 0, 0};
    ASSERT_EQ(run("constants", 1), 0);
    for (int i = 0; i < THREADS; i++)
        ASSERT_EQ(out()[i], table[words_[3 * i] & 7]) << i;
}

/* The order of waves is not always the same: a missing barrier shows. */
TEST_F(Unit, RacesShow)
{
    bool is_right = true, is_wrong = false;
    for (int i = 0; i < 20; i++) {
        ASSERT_EQ(run("racing", 1), 0);
        for (int t = 0; t < THREADS; t++)
            (out()[t] == 0 ? is_wrong : is_right) = true;
    }
    EXPECT_TRUE(is_right && is_wrong);
}

TEST_F(Unit, SharedMemoryStartsWithGarbage)
{
    ASSERT_EQ(run("uncleared", 1), 0);
    EXPECT_LT(std::count(out(), out() + THREADS, 0u), 8);
}

TEST_F(Unit, BlocksWaitForThoseBefore)
{
    uint64_t sum = 0;
    memset(out_, 0xff, COUNT * 8);
    ASSERT_EQ(run("chain", 100, 64), 0);
    for (int i = 0; i < 100; i++)
        ASSERT_EQ(out()[i], sum += words_[3 * i] % 1000) << i;
}

TEST_F(Unit, DppReadsBeforeItWrites)
{
    ASSERT_EQ(run("row_sums"), 0);
    uint32_t sum = 0;
    for (int i = 0; i < COUNT; i++) {
        sum = (i % 16 ? sum : 0) + words_[3 * i];
        ASSERT_EQ(out()[i], sum) << i;
    }
}

TEST_F(Unit, Dpp)
{
    ASSERT_EQ(run("quads"), 0);
    for (int i = 0; i < COUNT; i++) {
        const uint32_t mirrored = i / 4 % 2 ? 7 : words_[3 * (i ^ 15)];
        ASSERT_EQ(out()[i], uint64_t(words_[3 * (i ^ 1)]) << 32 | mirrored) << i;
    }
}

TEST_F(Unit, Permutations)
{
    ASSERT_EQ(run("permuted"), 0);
    for (int i = 0; i < COUNT; i++)
        ASSERT_EQ(out()[i], uint64_t(words_[3 * (i ^ 21)]) << 32 | words_[3 * (i ^ 3)]) << i;
}

TEST_F(Unit, Ballots)
{
    const int lanes = is_wave64() ? 64 : 32;
    ASSERT_EQ(run("balloted"), 0);
    for (int i = 0; i < COUNT; i++) {
        const int first = i / lanes * lanes;
        uint64_t mask = 0;
        for (int l = 0; l < lanes; l++)
            mask |= uint64_t(words_[3 * (first + l)] & 1) << l;
        ASSERT_EQ(out()[i], mask + (uint64_t(words_[3 * first]) << 32) + words_[3 * (first + 5)]) << i;
    }
}

int small(uint32_t x) { return int(x % 17) - 8; }

void check_matrix(const std::vector<uint32_t> &words, const uint64_t *out, int size, int inner, int start)
{
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) {
            int sum = start;
            for (int k = 0; k < inner; k++)
                sum += small(words[i * inner + k]) * small(words[256 + k * size + j]);
            ASSERT_EQ(out[i * size + j], UNIT_U(float(sum))) << i << ' ' << j;
        }
}

TEST_F(Unit, Matrix16)
{
    ASSERT_EQ(run("matrix16", 1, is_wave64() ? 64 : 32), 0);
    check_matrix(words_, out(), 16, 16, 1);
}

TEST_F(Unit, Matrix32)
{
    if (!is_wave64())
        GTEST_SKIP() << "only waves of 64 have it";
    ASSERT_EQ(run("matrix32", 1, 64), 0);
    check_matrix(words_, out(), 32, 8, 0);
}

TEST_F(Unit, NearlyRight)
{
    ASSERT_EQ(run("nearly"), 0);
    for (int i = 0; i < COUNT; i++) {
        const float x = float(words_[3 * i] % 100000) * 0.0001f;
        ASSERT_NEAR(UNIT_F(uint32_t(out()[i] >> 32)) / std::exp2(double(x)), 1, 1e-6) << x;
        ASSERT_NEAR(UNIT_F(uint32_t(out()[i])), std::sqrt(double(x)), 1e-6 * std::sqrt(x)) << x;
    }
}

/* 719 is the runtime's code; the text names kernel, opcode and lane. */
void expect_fault(const std::string &text, const std::function<int()> &launch)
{
    testing::internal::CaptureStderr();
    EXPECT_EQ(launch(), 719);
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(std::regex_search(said, std::regex(text))) << said;
}

TEST_F(Unit, ReadsBeyondMemory)
{
    expect_fault("beyond.*LOAD.*lane (63|31): a read of 4 bytes .* outside", [&] { return run("beyond", 1); });
}

TEST_F(Unit, WritesToCode)
{
    expect_fault("to_constants.*STORE.*lane 0: a write to the code object", [&] { return run("to_constants", 1, 1); });
}

TEST_F(Unit, UnknownOpcodes)
{
    expect_fault("unknown.*V_COS_F32", [&] { return run("unknown", 1, 1); });
}

} // namespace

int main(int argc, char **argv)
{
    testing::InitGoogleTest(&argc, argv);
    if (argc != 3)
        return 2;
    unit_path = argv[1];
    products_path = argv[2];
    return RUN_ALL_TESTS();
}
