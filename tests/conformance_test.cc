/* SPDX-License-Identifier: Apache-2.0
 * Every problem on every backend and instruction set of this machine, against the reference.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "conformance/checks.h"
#include "conformance/instance.h"
#include "tools/verify_command.h"

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
        text.begin(), text.end(), [](char c) { return !isalnum(static_cast<unsigned char>(c)); }, '_');
    return text;
}

/* All that the reference is the judge of. */
std::vector<Target> judged_targets()
{
    std::vector<Target> targets = all_targets();
    targets.erase(std::remove_if(targets.begin(), targets.end(),
                                 [](const Target &target) { return target.backend == "reference"; }),
                  targets.end());
    return targets;
}

using Param = std::pair<Target, Problem>;

/* A problem's targets come one after the other, so that what the reference makes of it is made once. Two problems take turns, because
 * Bazel deals tests out to two shards in turn. */
std::vector<Param> all_params()
{
    const std::vector<Problem> problems = tested_problems();
    std::vector<Param> params;
    for (size_t i = 0; i < problems.size(); i += 2)
        for (const Target &target : judged_targets())
            for (size_t j = i; j < std::min(i + 2, problems.size()); j++)
                params.push_back({target, problems[j]});
    return params;
}

class Conformance : public testing::TestWithParam<Param>
{
protected:
    static Trial &trial_of(const Problem &problem)
    {
        static std::pair<std::string, std::unique_ptr<Trial>> last;
        if (last.first != problem.name)
            last = {problem.name, std::make_unique<Trial>(problem, 1)};
        return *last.second;
    }
};

TEST_P(Conformance, AgreesWithReference)
{
    const auto &[target, problem] = GetParam();
    Session &session = session_of(target);
    if (!session.skipped.empty())
        GTEST_SKIP() << session.skipped;
    const std::vector<Outcome> outcomes = check_trial(session, trial_of(problem), "", nullptr);
    EXPECT_EQ(outcomes.size(), operation_names().size() - !problem.append - !(problem.tail > 0));
    /* Nothing of the list is refused. */
    for (const Outcome &outcome : outcomes)
        if (outcome.status != Status::PASSED)
            ADD_FAILURE() << outcome.text(verify_command);
}

INSTANTIATE_TEST_SUITE_P(All, Conformance, testing::ValuesIn(all_params()), [](const auto &info) {
    return identifier(info.param.first.text() + "_" + info.param.second.name);
});

/* The backend called reference is reference/ behind the API: of what it does there, a few problems say enough. */
TEST(ConformanceReference, BackendCallsReference)
{
    Session &session = session_of({"reference", ""});
    const std::vector<Problem> problems = tested_problems();
    for (size_t i = 0; i < problems.size(); i += 8)
        for (const Outcome &outcome : check_problem(session, problems[i], 1, "", nullptr))
            EXPECT_EQ(outcome.status, Status::PASSED) << outcome.text(verify_command);
}

TEST(ConformanceInstance, PrefixesAreShared)
{
    int shared = 0;
    for (const Problem &problem : all_problems()) {
        if (problem.tag == Tag::BENCH || !problem.shared_prefix)
            continue;
        const Instance instance(problem, 1);
        for (int b = 1; b < static_cast<int>(problem.lengths.size()); b++) {
            const auto same = [&](int page) {
                return instance.block_table.value<int32_t>({0, page}) == instance.block_table.value<int32_t>({b, page});
            };
            const int pages = (problem.lengths[b] + problem.page_size - 1) / problem.page_size;
            shared += same(0);
            /* New keys are nobody else's. */
            EXPECT_FALSE(problem.append && query_lengths(problem)[b] && same(pages - 1)) << problem.name;
        }
    }
    EXPECT_GE(shared, 10);
}

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

INSTANTIATE_TEST_SUITE_P(All, ConformanceFlips, testing::ValuesIn(judged_targets()),
                         [](const testing::TestParamInfo<Target> &info) { return identifier(info.param.text()); });

} // namespace
} // namespace conformance
