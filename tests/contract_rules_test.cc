/* SPDX-License-Identifier: Apache-2.0
 * The judge itself: what it allows is what roundings can do, and twice as much is refused.
 */
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "contract/attention.h"
#include "contract/flips.h"

using namespace contract;

namespace {

/* Some keys with large logits and small errors of them, and one column of values. */
struct Made {
    std::vector<Logit> logits;
    std::vector<double> values;

    explicit Made(unsigned seed)
    {
        std::mt19937_64 engine(seed);
        std::normal_distribution<double> normal;
        for (int j = 0; j < 20; j++) {
            logits.push_back({1000 + 2 * normal(engine), 1e-3 * std::fabs(normal(engine))});
            values.push_back(normal(engine));
        }
    }
    Columns columns() const
    {
        return Attention(logits).columns(1, [this](size_t j) { return &values[j]; });
    }
    /* With logits that are off by `share` of what they may be, each to the side where it moves out most. */
    Made moved(double share, int sign) const
    {
        Made made = *this;
        const double exact = columns().exact(0);
        for (size_t j = 0; j < values.size(); j++)
            made.logits[j].value += sign * share * logits[j].error * (values[j] > exact ? 1 : -1);
        return made;
    }
};

TEST(ContractRules, OutMovesAsFarAsLogitsMayAndNoFarther)
{
    for (unsigned seed = 0; seed < 50; seed++) {
        const Made made(seed);
        const Columns columns = made.columns();
        const double tolerance = columns.tolerance(0, Sums::F32, HATTN_F32);
        for (int sign : {-1, 1}) {
            const double at_most = made.moved(1, sign).columns().exact(0),
                         twice = made.moved(2, sign).columns().exact(0);
            EXPECT_TRUE(within(at_most, columns.exact(0), tolerance, HATTN_F32)) << "seed " << seed;
            EXPECT_FALSE(within(twice, columns.exact(0), tolerance, HATTN_F32)) << "seed " << seed;
        }
    }
}

TEST(ContractRules, LseMovesAsFarAsLogitsMayAndNoFarther)
{
    for (unsigned seed = 0; seed < 50; seed++) {
        Made made(seed);
        for (Logit &logit : made.logits) {
            logit.value -= 1000; /* where the rounding of lse itself is small */
            logit.error += 1e-4;
        }
        const Attention exact(made.logits);
        for (int sign : {-1, 1}) {
            std::vector<Logit> once = made.logits, twice = made.logits;
            for (size_t j = 0; j < once.size(); j++) {
                once[j].value += sign * once[j].error;
                twice[j].value += sign * 2 * twice[j].error;
            }
            EXPECT_TRUE(within(Attention(once).lse(), exact.lse(), exact.lse_tolerance(Sums::F32), HATTN_F32));
            EXPECT_FALSE(within(Attention(twice).lse(), exact.lse(), exact.lse_tolerance(Sums::F32), HATTN_F32));
        }
    }
}

/* (d / 4 + 16) units for the sums, 8 for a soft cap. */
TEST(ContractRules, ErrorsOfLogits)
{
    EXPECT_EQ(48 * 0x1p-24 * 1000, logit_error(128, 1000, 0));
    EXPECT_EQ(48 * 0x1p-24 * 1000 + 8 * 0x1p-24 * 30, logit_error(128, 1000, 30));
    EXPECT_EQ(0, logit_error(128, INFINITY, 0)); /* infinities are not rounded */
}

TEST(ContractRules, WithoutErrorsOnlySumsAreRounded)
{
    const double values[2][2] = {{1, -8}, {3, 0}};
    const Attention attention({{0, 0}, {std::log(3.0), 0}});
    const Columns columns = attention.columns(2, [&](size_t j) { return values[j]; });
    EXPECT_NEAR(std::log(4.0), attention.lse(), 1e-15);
    EXPECT_NEAR(2.5, columns.exact(0), 1e-15);
    EXPECT_NEAR(-2, columns.exact(1), 1e-15);
    EXPECT_EQ(8, columns.largest);
    EXPECT_NEAR(8 * 0x1p-18 + 2.5 * 0x1p-24, columns.tolerance(0, Sums::F32, HATTN_F32), 1e-10);
    EXPECT_NEAR(8 * 0x1p-18 + 2.5 * 0x1p-11, columns.tolerance(0, Sums::F32, HATTN_F16), 1e-7);
    EXPECT_NEAR(8 * 0x1p-9 + 2.5 * 0x1p-11, columns.tolerance(0, Sums::F16, HATTN_F16), 1e-4);
    EXPECT_NEAR(8 * 0x1p-6 + 2.5 * 0x1p-8, columns.tolerance(0, Sums::BF16, HATTN_BF16), 1e-2);
    EXPECT_NEAR(2.5 * 0x1p-24, columns.tolerance(0, Sums::DOUBLE, HATTN_F32), 1e-7);
    EXPECT_EQ(Sums::F32, sums_of("cpu", HATTN_BF16));
    EXPECT_EQ(Sums::BF16, sums_of("cuda", HATTN_BF16));
    EXPECT_EQ(Sums::DOUBLE, sums_of("reference", HATTN_BF16));
}

TEST(ContractRules, WhatIsNoNumber)
{
    const double values[2][2] = {{1, INFINITY}, {3, 0}};
    const auto value = [&](size_t j) { return values[j]; };
    for (double x : {(double)INFINITY, (double)NAN}) {
        const Attention attention({{x, 0}, {0, 0}});
        EXPECT_TRUE(std::isnan(attention.lse()));
        EXPECT_TRUE(std::isnan(attention.columns(2, value).exact(0)));
        EXPECT_EQ(0, attention.columns(2, value).tolerance(0, Sums::F32, HATTN_F32));
    }
    const Attention nothing({{-INFINITY, 0}, {-INFINITY, 0}}), some({{-INFINITY, 0}, {0, 0}});
    EXPECT_EQ(-INFINITY, nothing.lse());
    EXPECT_EQ(0, nothing.columns(2, value).exact(1));
    EXPECT_EQ(0, nothing.columns(2, value).tolerance(1, Sums::F32, HATTN_F32));
    EXPECT_EQ(0, nothing.lse_tolerance(Sums::F32));
    EXPECT_EQ(INFINITY, some.columns(2, value).tolerance(1, Sums::F32, HATTN_F32)); /* V must be finite */
    EXPECT_EQ(3, some.columns(2, value).exact(0));

    EXPECT_TRUE(within(NAN, NAN, 0, HATTN_F32));
    EXPECT_FALSE(within(NAN, 1, 1e30, HATTN_F32));
    EXPECT_FALSE(within(1, NAN, 0, HATTN_F32));
    EXPECT_TRUE(within(-INFINITY, -INFINITY, 0, HATTN_F32));
    EXPECT_FALSE(within(-1e30, -INFINITY, 0, HATTN_F32));
    EXPECT_FALSE(within(INFINITY, 3e38, 1e33, HATTN_F32));
    EXPECT_TRUE(within(INFINITY, 3.4028e38, 1e34, HATTN_F32)); /* the tolerance reaches past the largest number */
    EXPECT_FALSE(within(-INFINITY, 3.4028e38, 1e34, HATTN_F32));
    EXPECT_TRUE(within(INFINITY, 65504, 128, HATTN_F16));
    EXPECT_TRUE(within(7, NAN, INFINITY, HATTN_F32));
}

TEST(ContractRules, Norms)
{
    EXPECT_TRUE(norm_allowed(0x3c00, 0x3c01));
    EXPECT_FALSE(norm_allowed(0x3c00, 0x3c02));
    EXPECT_TRUE(norm_allowed(0x7e00, 0x7e55));
    EXPECT_FALSE(norm_allowed(0x7e00, 0x7c00));
}

TEST(ContractRules, BitsFlipWithinTheirBound)
{
    EXPECT_TRUE(bit_may_flip(-1e-6, 1e-6));
    EXPECT_FALSE(bit_may_flip(1.1e-6, 1e-6));
    EXPECT_FALSE(bit_may_flip(0, 0)); /* nothing was rounded */
    EXPECT_FALSE(bit_may_flip(NAN, 1));
}

TEST(ContractRules, HammingWeightsMoveByUndecidedQueries)
{
    hattn_problem problem = {};
    problem.score_kind = HATTN_SCORE_HAMMING;
    const double z[] = {1e-8, 1}, bound[] = {1e-6, 1e-6};
    std::string why;
    GroupProjection odd(2), even(2);
    for (int h = 0; h < 3; h++)
        odd.add(z, bound);
    for (int h = 0; h < 2; h++)
        even.add(z, bound);
    EXPECT_TRUE(odd.allows(problem, 0, -3, 3, &why));
    EXPECT_FALSE(odd.allows(problem, 0, 2, 3, &why));
    EXPECT_FALSE(odd.allows(problem, 1, 1, 3, &why));
    EXPECT_TRUE(even.allows(problem, 0, 0, 1, &why));
    EXPECT_FALSE(even.allows(problem, 0, -2, 1, &why));
}

/* 4 bits: w = u * 7 / max|u|. */
TEST(ContractRules, WeightsMoveByOneAtTheTieBetweenThem)
{
    hattn_problem problem = {};
    problem.score_kind = HATTN_SCORE_WEIGHTED;
    problem.weight_bits = 4;
    const double z[] = {7, 2.4999999, 0.5, 2}, bound[] = {1e-6, 1e-6, 1e-6, 1e-6};
    std::string why;
    GroupProjection group(4);
    group.add(z, bound);
    EXPECT_TRUE(group.allows(problem, 1, 3, 2, &why));
    EXPECT_FALSE(group.allows(problem, 1, 1, 2, &why)); /* a tie is near, but on the other side */
    EXPECT_TRUE(group.allows(problem, 2, 1, 0, &why));
    EXPECT_FALSE(group.allows(problem, 2, 2, 0, &why));
    EXPECT_FALSE(group.allows(problem, 3, 3, 2, &why));
    /* The error of max|u| is that of the largest u, not the largest error. */
    const double uneven[] = {1e-6, 1e-6, 1e-6, 1};
    GroupProjection other(4);
    other.add(z, uneven);
    EXPECT_FALSE(other.allows(problem, 0, 6, 7, &why));
    EXPECT_FALSE(other.allows(problem, 2, -1, 0, &why));
}

} // namespace
