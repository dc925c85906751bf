/* SPDX-License-Identifier: Apache-2.0
 * Projections through linear and MLP maps, and the bound on what an fp32 evaluation may make of them.
 */
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "contract/projection.h"
#include "tests/reference_world.h"

namespace {

/* Two dimensions to 8 bits, fp32. */
hattn_problem tiny_map()
{
    hattn_problem p = {};
    p.head_dim_qk = 2;
    p.code_bits = 8;
    p.map_kind = HATTN_MAP_LINEAR;
    p.key_map.dtype = HATTN_F32;
    p.key_map.weight_stride[0][1] = 8;
    return p;
}

TEST(ReferenceProject, LinearValueAndBound)
{
    hattn_problem p = tiny_map();
    std::vector<float> weight = {1, 2, 3, 0, 0, 0, 0, 0, 0.5f, -1, 1.5f, 0, 0, 0, 0, 0},
                       bias = {0, 10, 0, 0, 0, 0, 0, 0};
    hattn_map_buffers buffers = {{buffer(weight)}, {buffer(bias)}};
    const double x[] = {1, -2};
    double z[8], bound[8];
    hattn_reference_project(&p, &p.key_map, &buffers, x, 0, z, bound);
    EXPECT_EQ(0, z[0]);
    EXPECT_EQ(14, z[1]);
    EXPECT_EQ(0, z[2]);
    /* (2 + 8) 2^-23 times 1 + 1, 2 + 2, 3 + 3. */
    EXPECT_EQ(20 * 0x1p-23, bound[0]);
    EXPECT_EQ(40 * 0x1p-23, bound[1]);
    EXPECT_EQ(60 * 0x1p-23, bound[2]);
    EXPECT_EQ(0, bound[3]);
}

TEST(ReferenceProject, MlpByHand)
{
    hattn_problem p = tiny_map();
    hattn_map map = {HATTN_F32, {2, 2}, 0, {{0, 2}, {0, 2}, {0, 8}}, {0, 0, 0}};
    p.map_kind = HATTN_MAP_MLP;
    /* x = (1, -2). First layer: 1, 4.5; SiLU: 0.73106, 4.45056. Second: 9.63218, -0.11842; SiLU: 9.63154, -0.05571. */
    std::vector<float> w1 = {1, 2, 0.5f, -1}, b1 = {1, 0.5f}, w2 = {1, -1, 2, 0.25f}, b2 = {0, -0.5f};
    std::vector<float> w3 = {1, 2, -1, 0, 0.5f, 1, -3, 0, 1, -40, 0, -1, 2, 3, 1, 0},
                       b3 = {0, 0.5f, 0, 0.25f, -5, 0, 0, 0};
    hattn_map_buffers buffers = {{buffer(w1), buffer(w2), buffer(w3)}, {buffer(b1), buffer(b2), buffer(b3)}};
    const double x[] = {1, -2};
    const double expected[] = {9.575836640775401,   21.991399926685137, -9.631544418040505,  0.3057077772651032,
                               -0.2956433455099541, 9.464421086245196,  -28.950341031386618, 0};
    const double expected_bound[] = {380.40713994743396, 2932.049111350913, 323.2693812249064,  57.13775872252751,
                                     275.9102080575082,  494.682657392489,  1026.9459023972468, 0};
    double z[8], bound[8], alone[8];
    hattn_reference_project(&p, &map, &buffers, x, 0, z, bound);
    hattn_reference_project(&p, &map, &buffers, x, 0, alone, nullptr);
    for (int r = 0; r < 8; r++) {
        EXPECT_NEAR(expected[r], z[r], 1e-13) << r;
        EXPECT_NEAR(expected_bound[r] * 0x1p-23, bound[r], 1e-16) << r;
        EXPECT_EQ(z[r], alone[r]);
    }
}

/* Codes and bounds come from hattn_reference_project, which is looked at from outside. */
TEST(ReferenceProject, AgreesWithLongDouble)
{
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    for (int32_t dtype : {HATTN_F32, HATTN_F16, HATTN_BF16}) {
        for (bool mlp : {false, true}) {
            for (bool biased : {true, false}) {
                if (mlp && !biased)
                    continue;
                hattn_problem p = {};
                p.head_dim_qk = 72;
                p.code_bits = 40;
                p.map_kind = mlp ? HATTN_MAP_MLP : HATTN_MAP_LINEAR;
                hattn_map map = {dtype, {24, 56}, 0, {}, {}};
                const std::vector<int> dims = mlp ? std::vector<int>{72, 24, 56, 40} : std::vector<int>{72, 40};
                std::vector<std::vector<uint8_t>> memory;
                const auto numbers = [&](int64_t n) {
                    memory.emplace_back(n * hattn_dtype_size(dtype));
                    for (int64_t i = 0; i < n; i++) /* some of them subnormal as fp16 */
                        hattn_reference_store(memory.back().data(), dtype, i, normal(random) * (i % 5 ? 0.2 : 1e-5));
                    return hattn_buffer{memory.back().data(), 0};
                };
                hattn_map_buffers buffers = {};
                for (size_t layer = 0; layer + 1 < dims.size(); layer++) {
                    map.weight_stride[layer][1] = dims[layer + 1] + 5;
                    map.weight_stride[layer][0] = dims[layer] * map.weight_stride[layer][1] + 3;
                    map.bias_stride[layer] = dims[layer + 1] + 1;
                    buffers.weight[layer] = numbers(3 * map.weight_stride[layer][0]);
                    buffers.bias[layer] = biased ? numbers(3 * map.bias_stride[layer]) : hattn_buffer{};
                }
                for (int head = 0; head < 3; head++) {
                    std::vector<double> x(72), z(40), bound(40);
                    for (double &value : x)
                        value = normal(random);
                    hattn_reference_project(&p, &map, &buffers, x.data(), head, z.data(), bound.data());
                    const contract::Projection exact = contract::project(p, map, buffers, x.data(), head);
                    for (int r = 0; r < 40; r++) {
                        /* Sums of some hundred terms in double, 2^-29 of fp32's: a thousandth of what may flip a bit. */
                        ASSERT_LE(std::fabs(z[r] - exact.z[r]), exact.bound[r] / 1000)
                            << "dtype " << dtype << (mlp ? " mlp" : "") << " head " << head << " bit " << r;
                        ASSERT_LE(std::fabs(bound[r] - exact.bound[r]), exact.bound[r] * 1e-9) << r;
                    }
                }
            }
        }
    }
}

float silu(float x) { return x / (1 + std::exp(-x)); }

/* The bound is one: an fp32 evaluation in either order stays within it; and it is not idle: within a factor of 2000. */
TEST(ReferenceProject, BoundHolds)
{
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (bool mlp : {false, true}) {
        const int d = 96, hidden[] = {64, 48}, bits = 64;
        hattn_problem p = {};
        p.head_dim_qk = d;
        p.code_bits = bits;
        p.map_kind = mlp ? HATTN_MAP_MLP : HATTN_MAP_LINEAR;
        std::vector<int> dims = mlp ? std::vector<int>{d, hidden[0], hidden[1], bits} : std::vector<int>{d, bits};
        hattn_map map = {HATTN_F32, {hidden[0], hidden[1]}, 0, {}, {}};
        std::vector<std::vector<float>> weight(3), bias(3);
        hattn_map_buffers buffers = {};
        for (size_t l = 0; l + 1 < dims.size(); l++) {
            map.weight_stride[l][1] = dims[l + 1] + 3;
            for (int i = 0; i < dims[l] * (dims[l + 1] + 3); i++)
                weight[l].push_back(normal(random) / std::sqrt(static_cast<float>(dims[l])));
            for (int i = 0; i < dims[l + 1]; i++)
                bias[l].push_back(normal(random));
            buffers.weight[l] = buffer(weight[l]);
            buffers.bias[l] = buffer(bias[l]);
        }
        double worst = 0;
        for (int round = 0; round < 200; round++) {
            std::vector<float> x(d);
            for (float &e : x)
                e = normal(random);
            std::vector<double> wide(x.begin(), x.end()), z(bits), bound(bits);
            hattn_reference_project(&p, &map, &buffers, wide.data(), 0, z.data(), bound.data());
            for (bool backwards : {false, true}) {
                std::vector<float> in = x;
                for (size_t l = 0; l + 1 < dims.size(); l++) {
                    std::vector<float> next = bias[l];
                    for (int i = 0; i < dims[l]; i++) {
                        int from = backwards ? dims[l] - 1 - i : i;
                        for (int r = 0; r < dims[l + 1]; r++)
                            next[r] += in[from] * weight[l][from * map.weight_stride[l][1] + r];
                    }
                    if (l + 2 < dims.size())
                        for (float &e : next)
                            e = silu(e);
                    in = next;
                }
                for (int r = 0; r < bits; r++) {
                    ASSERT_TRUE(std::fabs(in[r] - z[r]) <= bound[r]) << in[r] << " " << z[r] << " " << bound[r];
                    worst = std::max(worst, std::fabs(in[r] - z[r]) / bound[r]);
                }
            }
        }
        EXPECT_GT(worst, 1.0 / 2000);
    }
}

} // namespace
