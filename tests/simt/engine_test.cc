/* SPDX-License-Identifier: Apache-2.0
 * Small kernels, right ones and ones with a mistake that the engine must find: by its own checks, or by wrong results of some seed.
 */
#include <gtest/gtest.h>

#include "tests/simt/simt.cuh"

namespace hattn {
namespace {

using namespace vendor;

constexpr int kThreads = 128, kBlocks = 6;

/* ---- results ---- */

/* Each thread's neighbour in the block, through shared memory. */
template <bool kHasBarrier>
__global__ void neighbour_kernel(uint32_t *out)
{
    __shared__ uint32_t numbers[kThreads];
    numbers[threadIdx.x] = blockIdx.x * kThreads + threadIdx.x;
    if (kHasBarrier)
        __syncthreads();
    out[blockIdx.x * kThreads + threadIdx.x] = numbers[(threadIdx.x + 37) % kThreads];
}

/* The same within a warp. */
template <bool kHasBarrier>
__global__ void warp_neighbour_kernel(uint32_t *out)
{
    extern __shared__ float shared[];
    uint32_t *numbers = reinterpret_cast<uint32_t *>(shared) + threadIdx.x / 32 * 32;
    const unsigned lane = threadIdx.x % 32;
    numbers[lane] = blockIdx.x * kThreads + threadIdx.x;
    if (kHasBarrier)
        warp_barrier();
    out[blockIdx.x * kThreads + threadIdx.x] = numbers[(lane + 5) % 32];
}

/* A copy that is used when it has landed, or before. */
template <bool kWaits>
__global__ void copy_kernel(uint32_t *out)
{
    extern __shared__ float shared[];
    uint32_t *words = reinterpret_cast<uint32_t *>(shared), *own = out + blockIdx.x * kThreads + threadIdx.x;
    copy_async4(words + threadIdx.x, own);
    copy_commit();
    if (kWaits)
        copy_wait(0);
    *own = words[threadIdx.x] + 1;
}

/* Counts blocks, by an atomic or by what may be interrupted. */
template <bool kIsAtomic>
__global__ void count_kernel(uint32_t *out)
{
    if (kIsAtomic) {
        atomic_add(out, 1u);
    } else {
        const uint32_t before = load_l2(out);
        fence();
        *out = before + 1;
    }
}

/* A block tells the others a number and that it is there, in two stores. */
template <bool kHasFence>
__global__ void message_kernel(uint32_t *out)
{
    if (threadIdx.x || blockIdx.x > 1)
        return;
    if (!blockIdx.x) {
        send(out + 1, 7u);
        if (kHasFence)
            fence();
        send(out, 1u);
    } else {
        while (!receive(out))
            ;
        out[2] = receive(out + 1);
    }
}

/* A block's number, by what a function keeps whose arguments have the kernel in their names. */
template <class F>
void tell_all(uint32_t *out, F number)
{
    __shared__ uint32_t told;
    if (!threadIdx.x)
        told = number();
    __syncthreads();
    for (int i = 0; i < 20; i++)
        atomic_add(out, 0u); /* other blocks may go on here */
    out[blockIdx.x * kThreads + threadIdx.x] = told;
}

__global__ void told_kernel(uint32_t *out)
{
    tell_all(out, [] { return blockIdx.x; });
}

int launched(void (*kernel)(uint32_t *), uint32_t *out)
{
    return launch({kBlocks}, kThreads, kThreads * sizeof(float), nullptr, false, kernel, out);
}

class Engine : public testing::TestWithParam<int>
{
protected:
    /* Of all seeds, how many give what is wanted. */
    template <class IsRight>
    static int right(void (*kernel)(uint32_t *), int resident, IsRight is_right)
    {
        int count = 0;
        for (uint64_t seed = 0; seed < kSeeds; seed++) {
            simt::configure({GetParam(), resident, seed});
            std::vector<uint32_t> out(kBlocks * kThreads);
            EXPECT_EQ(launched(kernel, out.data()), kSuccess) << vendor::error_text(simt::WRONG_KERNEL);
            count += is_right(out);
        }
        return count;
    }

    static std::string error_of(void (*kernel)(uint32_t *))
    {
        simt::configure({GetParam(), 0, 1});
        std::vector<uint32_t> out(kBlocks * kThreads);
        const int error = launched(kernel, out.data());
        return error ? vendor::error_text(error) : "";
    }

    static constexpr int kSeeds = 20;
};

TEST_P(Engine, BarriersOfBlocks)
{
    const auto is_right = [](const std::vector<uint32_t> &out) {
        for (uint32_t i = 0; i < out.size(); i++)
            if (out[i] != i / kThreads * kThreads + (i + 37) % kThreads)
                return false;
        return true;
    };
    EXPECT_EQ(right(neighbour_kernel<true>, 0, is_right), kSeeds);
    EXPECT_EQ(right(neighbour_kernel<false>, 0, is_right), 0);
}

TEST_P(Engine, BarriersOfWarps)
{
    const auto is_right = [](const std::vector<uint32_t> &out) {
        for (uint32_t i = 0; i < out.size(); i++)
            if (out[i] != i / 32 * 32 + (i + 5) % 32)
                return false;
        return true;
    };
    EXPECT_EQ(right(warp_neighbour_kernel<true>, 0, is_right), kSeeds);
    EXPECT_EQ(right(warp_neighbour_kernel<false>, 0, is_right), 0);
}

TEST_P(Engine, CopiesLandLate)
{
    const auto is_right = [](const std::vector<uint32_t> &out) {
        for (uint32_t word : out)
            if (word != 1)
                return false;
        return true;
    };
    EXPECT_EQ(right(copy_kernel<true>, 0, is_right), kSeeds);
    EXPECT_EQ(right(copy_kernel<false>, 0, is_right), 0);
}

TEST_P(Engine, BlocksHaveTheirOwnSharedMemory)
{
    const auto is_right = [](const std::vector<uint32_t> &out) {
        for (uint32_t i = 0; i < out.size(); i++)
            if (out[i] != i / kThreads)
                return false;
        return true;
    };
    EXPECT_EQ(right(told_kernel, 3, is_right), kSeeds);
}

TEST_P(Engine, AtomicsAreWhole)
{
    const auto is_right = [](const std::vector<uint32_t> &out) { return out[0] == kBlocks * kThreads; };
    EXPECT_EQ(right(count_kernel<true>, 3, is_right), kSeeds);
    EXPECT_LT(right(count_kernel<false>, 3, is_right), kSeeds / 4);
}

TEST_P(Engine, StoresAreSeenInAnyOrder)
{
    const auto is_right = [](const std::vector<uint32_t> &out) { return out[2] == 7; };
    EXPECT_EQ(right(message_kernel<true>, 3, is_right), kSeeds);
    EXPECT_LT(right(message_kernel<false>, 3, is_right), kSeeds);
}

/* ---- products of matrices ---- */

/* Small integers, of a, b and what c was, other ones for each warp. */
int small(int matrix, int warp, int row, int column) { return (row * 7 + column * 3 + matrix * 5 + warp) % 11 - 5; }

template <class T>
uint32_t pack_pair(int low, int high)
{
    const float x = static_cast<float>(low), y = static_cast<float>(high);
    return std::is_same_v<T, float16> ? pack_float16(x, y) : pack_bfloat16(x, y);
}

/* Of warps that kWarps has a bit for. Row 5 of each a is of NaN, row 12 of the first warp's infinite. */
template <class T, int kWarps>
__global__ void product_kernel(uint32_t *out)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    if (!(kWarps >> warp & 1))
        return;
    uint32_t a[4], b[2];
    float c[4];
    for (int r = 0; r < 4; r++) {
        const int row = g + r % 2 * 8, inner = 2 * t + r / 2 * 8;
        a[r] = pack_pair<T>(small(0, warp, row, inner), small(0, warp, row, inner + 1));
        if (row == 5)
            a[r] = 0xffffffffu;
        if (row == 12 && !warp)
            a[r] = std::is_same_v<T, float16> ? 0x7c007c00u : 0x7f807f80u;
        c[r] = static_cast<float>(small(2, warp, g + r / 2 * 8, 2 * t + r % 2));
    }
    for (int r = 0; r < 2; r++)
        b[r] = pack_pair<T>(small(1, warp, 2 * t + r * 8, g) + 6, small(1, warp, 2 * t + r * 8 + 1, g) + 6);
    mma_16816<T>(c, a[0], a[1], a[2], a[3], b[0], b[1]);
    for (int r = 0; r < 4; r++)
        out[128 * warp + (g + r / 2 * 8) * 8 + 2 * t + r % 2] = bits_of(c[r]);
}

template <class T, int kWarps>
void expect_products()
{
    std::vector<uint32_t> out(kBlocks * kThreads);
    ASSERT_EQ(launch({1}, kThreads, 0, nullptr, false, product_kernel<T, kWarps>, out.data()), kSuccess)
        << vendor::error_text(simt::WRONG_KERNEL);
    for (int warp = 0; warp < kThreads / 32; warp++)
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                int sum = small(2, warp, row, column);
                for (int k = 0; k < 16; k++)
                    sum += small(0, warp, row, k) * (small(1, warp, k, column) + 6);
                const float found = float_of_bits(out[static_cast<size_t>(128 * warp + row * 8 + column)]);
                const std::string where =
                    std::to_string(warp) + ": " + std::to_string(row) + ", " + std::to_string(column);
                if (!(kWarps >> warp & 1))
                    EXPECT_EQ(found, 0) << where;
                else if (row == 5)
                    EXPECT_TRUE(std::isnan(found)) << where;
                else
                    EXPECT_EQ(found, row == 12 && !warp ? INFINITY : static_cast<float>(sum)) << where;
            }
}

/* Each warp's number of turns, in which it counts, and of its wave's. */
__global__ void turns_kernel(uint32_t *out)
{
    const uint32_t warp = threadIdx.x / 32;
    uint32_t own = 0, all = 0;
    for (; any_of_wave(all < (warp * 5 + blockIdx.x) % 4); all++)
        own += all < (warp * 5 + blockIdx.x) % 4;
    out[blockIdx.x * kThreads + threadIdx.x] = own * 16 + all;
}

TEST_P(Engine, WavesStayTogether)
{
    const auto is_right = [](const std::vector<uint32_t> &out) {
        for (uint32_t i = 0; i < out.size(); i++) {
            const auto turns = [&](uint32_t warp) { return (warp * 5 + i / kThreads) % 4; };
            const uint32_t warp = i % kThreads / 32, other = GetParam() == 64 ? warp ^ 1 : warp;
            if (out[i] != turns(warp) * 16 + std::max(turns(warp), turns(other)))
                return false;
        }
        return true;
    };
    EXPECT_EQ(right(turns_kernel, 0, is_right), kSeeds);
}

/* Of whole waves; of waves of 64 one half of which has returned AMD's are an error. */
TEST_P(Engine, ProductsOfMatrices)
{
    using simt::Matrices;
    for (Matrices matrices : {Matrices::CUDA, Matrices::MFMA, Matrices::WMMA_GFX11, Matrices::WMMA_GFX12}) {
        if (matrices != Matrices::CUDA && (matrices == Matrices::MFMA) != (GetParam() == 64))
            continue;
        SCOPED_TRACE(static_cast<int>(matrices));
        simt::configure({GetParam(), 0, 1, matrices});
        expect_products<float16, 15>();
        expect_products<bfloat16, 15>();
        if (matrices == Matrices::MFMA) {
            std::vector<uint32_t> out(kBlocks * kThreads);
            const int error = launched(product_kernel<float16, 5>, out.data());
            EXPECT_NE(std::string(vendor::error_text(error)).find("mfma_4x4x4 without the other"), std::string::npos)
                << vendor::error_text(error);
            continue;
        }
        expect_products<float16, 5>();
        expect_products<bfloat16, 10>();
    }
}

/* ---- what is an error ---- */

__global__ void apart_kernel(uint32_t *out)
{
    if (threadIdx.x % 32 < 7)
        *out = ballot(true);
    else
        *out = ballot(false);
}

__global__ void returned_kernel(uint32_t *out)
{
    if (threadIdx.x == 70)
        return;
    *out = warp_or(1);
}

__global__ void barrier_kernel(uint32_t *out)
{
    if (threadIdx.x == 70)
        __syncthreads();
    *out = warp_or(1);
}

__global__ void two_barriers_kernel(uint32_t *)
{
    if (threadIdx.x < 16)
        __syncthreads();
    else
        __syncthreads();
}

__global__ void waiting_kernel(uint32_t *out)
{
    while (!receive(out))
        pause();
}

__global__ void behind_kernel(uint32_t *)
{
    extern __shared__ float shared[];
    shared[threadIdx.x + 1] = 0;
}

__global__ void unaligned_kernel(uint32_t *out) { load_row16(out + 1); }

TEST_P(Engine, MistakesAreNamed)
{
    const struct {
        void (*kernel)(uint32_t *);
        const char *said;
    } mistakes[] = {
        {apart_kernel, "lanes of a warp meet at different places"},
        {returned_kernel, "lane 6 of a warp has returned while others are at warp_or"},
        {barrier_kernel, "lane 6 of a warp waits for its block"},
        {two_barriers_kernel, "lanes of a wave wait for their block at different places"},
        {waiting_kernel, "waits for what nobody writes"},
        {behind_kernel, "wrote behind the dynamic shared memory"},
        {unaligned_kernel, "an address that is no multiple of the size"},
    };
    for (const auto &mistake : mistakes) {
        const std::string error = error_of(mistake.kernel);
        EXPECT_NE(error.find(mistake.said), std::string::npos) << mistake.said << ": " << error;
        if (mistake.kernel != behind_kernel) {
            EXPECT_NE(error.find("engine_test.cc:"), std::string::npos) << error;
        }
    }
    /* What was left by them is no harm to the next. */
    EXPECT_EQ(right(count_kernel<true>, 0, [](const auto &out) { return out[0] == kBlocks * kThreads; }), kSeeds);
}

TEST_P(Engine, NumbersAreThoseOfTheirTypes)
{
    EXPECT_EQ(to_float(float16{0x0001}), 0x1p-24f);
    EXPECT_EQ(to_float(float16{0xfbff}), -65504.0f);
    EXPECT_EQ(to_float(float16{0x7c00}), INFINITY);
    EXPECT_TRUE(std::isnan(to_float(float16{0x7e00})));
    for (uint32_t bits = 0; bits < 65536; bits++)
        if ((bits & 0x7fff) <= 0x7c00) {
            EXPECT_EQ(to_float16(to_float(float16{static_cast<uint16_t>(bits)})).bits, bits);
        }
    EXPECT_EQ(to_float16(65519.99f).bits, 0x7bff);
    EXPECT_EQ(to_float16(65520.0f).bits, 0x7c00);
    EXPECT_EQ(to_float16(0x1p-25f).bits, 0);
    EXPECT_EQ(to_float16(0x1.8p-24f).bits, 2);
    EXPECT_EQ(to_float16(0x1.004p0f).bits, 0x3c01);
    EXPECT_EQ(to_float16(0x1.002p0f).bits, 0x3c00);
    EXPECT_EQ(to_bfloat16(0x1.01p0f).bits, 0x3f80);
    EXPECT_EQ(to_bfloat16(0x1.03p0f).bits, 0x3f82);
}

INSTANTIATE_TEST_SUITE_P(Waves, Engine, testing::Values(32, 64),
                         [](const auto &info) { return "wave" + std::to_string(info.param); });

} // namespace
} // namespace hattn
