/* SPDX-License-Identifier: Apache-2.0
 * Random problems out of the whole space of valid ones, on every backend of this machine.
 *   random_test [--problems=N] [--small=N] [--seed=S]
 * N moderate and N small ones of seeds S, S+1, ... Or by HATTN_RANDOM_PROBLEMS, HATTN_RANDOM_SMALL and HATTN_RANDOM_SEED.
 */
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "conformance/checks.h"
#include "tools/verify_command.h"

namespace {

/* As many as take some 20 seconds of one core each. */
uint64_t num_problems = 100, num_small = 1000, first_seed = 1;

struct Option {
    const char *name, *variable;
    uint64_t *value;
};
const Option options[] = {
    {"--problems=", "HATTN_RANDOM_PROBLEMS", &num_problems},
    {"--small=", "HATTN_RANDOM_SMALL", &num_small},
    {"--seed=", "HATTN_RANDOM_SEED", &first_seed},
};

bool parse(const char *text, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 10);
    return *text && !*end;
}

bool parse_arguments(int argc, char **argv)
{
    for (const Option &option : options)
        if (const char *text = getenv(option.variable))
            if (!parse(text, option.value))
                return false;
    for (int i = 1; i < argc; i++) {
        bool known = false;
        for (const Option &option : options) {
            std::string argument = argv[i], name = option.name;
            if (argument.rfind(name, 0) == 0)
                known = parse(argv[i] + name.size(), option.value);
        }
        if (!known)
            return false;
    }
    return true;
}

/* OpenCL's driver compiles kernels for nearly each problem, which takes seconds: one in 25 there. */
bool is_checked(const conformance::Target &target, uint64_t seed)
{
    return target.backend != "opencl" || seed % 25 == 0;
}

void agree_with_reference(problems::Problem (*make)(uint64_t seed), uint64_t number)
{
    using namespace conformance;
    if (!number)
        GTEST_SKIP() << "none asked for";
    std::vector<std::unique_ptr<Session>> sessions;
    for (const Target &target : all_targets()) {
        if (target.backend == "reference") /* the judge */
            continue;
        auto session = std::make_unique<Session>(target);
        if (session->skipped.empty())
            sessions.push_back(std::move(session));
    }
    ASSERT_FALSE(sessions.empty());
    uint64_t counts[4] = {}, num_checked = 0;
    for (uint64_t seed = first_seed; seed < first_seed + number; seed++) {
        const problems::Problem problem = make(seed);
        Trial trial(problem, seed);
        for (const auto &session : sessions) {
            if (!is_checked(session->target, seed))
                continue;
            num_checked++;
            for (const Outcome &outcome : check_trial(*session, trial, "", nullptr)) {
                counts[static_cast<int>(outcome.status)]++;
                if (outcome.status != Status::PASSED) /* refusals too: the problems are all valid */
                    ADD_FAILURE() << outcome.text(verify_command);
            }
        }
    }
    printf("%llu problems from seed %llu: %llu operations passed, %llu failed, %llu refused\n",
           static_cast<unsigned long long>(number), static_cast<unsigned long long>(first_seed),
           static_cast<unsigned long long>(counts[0]), static_cast<unsigned long long>(counts[1]),
           static_cast<unsigned long long>(counts[2]));
    /* All operations but decode_append and sum_values, which not all problems have. */
    EXPECT_GE(counts[static_cast<int>(Status::PASSED)], num_checked * (operation_names().size() - 2));
    for (const auto &session : sessions)
        EXPECT_EQ(session->flips.verdict(), "") << session->target.text();
}

TEST(Random, ProblemsAgreeWithReference) { agree_with_reference(problems::random_problem, num_problems); }

TEST(Random, SmallProblemsAgreeWithReference) { agree_with_reference(problems::small_problem, num_small); }

} // namespace

int main(int argc, char **argv)
{
    testing::InitGoogleTest(&argc, argv);
    if (!parse_arguments(argc, argv)) {
        fprintf(stderr, "usage: random_test [--problems=N] [--small=N] [--seed=S]\n");
        return 2;
    }
    return RUN_ALL_TESTS();
}
