/* SPDX-License-Identifier: Apache-2.0
 * Every problem on every backend and instruction set of this machine, against the reference.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "conformance/checks.h"

namespace conformance {
namespace {

/* Devices stay open over all problems, so that one workspace sees many plans. */
Session &session_of(const Target &target)
{
    static std::map<std::string, std::unique_ptr<Session>> sessions;
    std::unique_ptr<Session> &session = sessions[target.text()];
    if (!session)
        session = std::make_unique<Session>(target);
    return *session;
}

std::string identifier(std::string text)
{
    std::replace_if(
        text.begin(), text.end(), [](char c) { return !isalnum((unsigned char)c); }, '_');
    return text;
}

std::vector<Problem> tested_problems()
{
    std::vector<Problem> tested;
    for (const Problem &problem : all_problems())
        if (problem.tag != Tag::BENCH)
            tested.push_back(problem);
    return tested;
}

class Conformance : public testing::TestWithParam<std::tuple<Target, Problem>>
{
};

TEST_P(Conformance, AgreesWithReference)
{
    const auto &[target, problem] = GetParam();
    Session &session = session_of(target);
    if (!session.skipped.empty())
        GTEST_SKIP() << session.skipped;
    int passed = 0;
    std::string refused;
    for (const Outcome &outcome : check_problem(session, problem, 1, "", nullptr)) {
        passed += outcome.status == Status::PASSED;
        if (outcome.status == Status::FAILED)
            ADD_FAILURE() << outcome.text();
        if (outcome.status == Status::REFUSED)
            refused = outcome.text();
    }
    if (!refused.empty() && !passed && !HasFailure())
        GTEST_SKIP() << refused;
}

INSTANTIATE_TEST_SUITE_P(All, Conformance,
                         testing::Combine(testing::ValuesIn(all_targets()), testing::ValuesIn(tested_problems())),
                         [](const testing::TestParamInfo<Conformance::ParamType> &info) {
                             return identifier(std::get<0>(info.param).text() + "_" + std::get<1>(info.param).name);
                         });

/* After the problems, as tests run in the order of their definition. */
class ConformanceFlips : public testing::TestWithParam<Target>
{
};

TEST_P(ConformanceFlips, AreRare)
{
    Session &session = session_of(GetParam());
    if (!session.skipped.empty())
        GTEST_SKIP() << session.skipped;
    EXPECT_EQ(session.flips.verdict(), "") << session.target.text();
}

INSTANTIATE_TEST_SUITE_P(All, ConformanceFlips, testing::ValuesIn(all_targets()),
                         [](const testing::TestParamInfo<Target> &info) { return identifier(info.param.text()); });

/* The list must name every feature once; this is what breaks when it shrinks. */
TEST(ProblemList, NamesAreUnique)
{
    std::map<std::string, int> count;
    for (const Problem &problem : all_problems())
        EXPECT_EQ(count[problem.name]++, 0) << problem.name;
}

} // namespace
} // namespace conformance
