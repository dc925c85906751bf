/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/checks.h"

#include <algorithm>

#include "conformance/case.h"

namespace conformance {
namespace {

const struct {
    const char *name;
    std::string (*check)(const Context &);
} operations[] = {
    {"encode_keys", check_encode_keys},
    {"encode_queries", check_encode_queries},
    {"score", check_score},
    {"topk", check_topk},
    {"attend_sparse", check_attend_sparse},
    {"attend_dense", check_attend_dense},
    {"merge", check_merge},
    {"sum_values", check_sum_values},
    {"decode", check_decode},
    {"decode_append", check_decode_append},
};

bool has_operation(const Problem &problem, const std::string &op)
{
    return (problem.append || op != "decode_append") && (problem.tail > 0 || op != "sum_values");
}

bool wanted(const Problem &problem, const std::string &op, const std::string &filter)
{
    return has_operation(problem, op) && is_named(problem.name + "/" + op, filter);
}

/* The plan, or what the outcome of every operation is instead. */
struct PlanOwner {
    hattn_plan *plan = nullptr;
    Status status = Status::PASSED;
    std::string message;

    PlanOwner(const Session &session, const Instance &instance)
    {
        if (!session.skipped.empty()) {
            status = Status::SKIPPED;
            message = session.skipped;
            return;
        }
        hattn_error error = {};
        hattn_status result = hattn_plan_create(session.device, &instance.given, &plan, &error);
        if (!result)
            return;
        message = error.text;
        status = result == HATTN_UNSUPPORTED && !message.empty() ? Status::REFUSED : Status::FAILED;
        if (status == Status::FAILED)
            message = std::string("hattn_plan_create: ") + hattn_status_string(result) + ": " + message;
    }
    ~PlanOwner() { hattn_plan_destroy(plan); }
    PlanOwner(const PlanOwner &) = delete;
    PlanOwner &operator=(const PlanOwner &) = delete;
};

} // namespace

const char *status_name(Status status)
{
    const char *const names[] = {"passed", "failed", "refused", "skipped"};
    return names[static_cast<int>(status)];
}

std::string Outcome::text(std::string (*repeat_command)(const Outcome &)) const
{
    std::string line = op + " " + status_name(status) + ": " + target.text() + ", problem " + problem + ", seed " +
                       std::to_string(seed);
    if (!message.empty())
        line += ": " + message;
    return status == Status::FAILED ? line + "; repeat with: " + repeat_command(*this) : line;
}

std::vector<std::string> operation_names()
{
    std::vector<std::string> names;
    for (const auto &operation : operations)
        names.push_back(operation.name);
    return names;
}

std::vector<std::string> operation_names(const Problem &problem)
{
    std::vector<std::string> names;
    for (const auto &operation : operations)
        if (has_operation(problem, operation.name))
            names.push_back(operation.name);
    return names;
}

bool is_named(const std::string &name, const std::string &filter)
{
    for (size_t begin = 0, end; begin <= filter.size(); begin = end + 1) {
        end = std::min(filter.find(',', begin), filter.size());
        if (name.find(filter.substr(begin, end - begin)) != std::string::npos)
            return true;
    }
    return false;
}

struct Trial::State {
    const Problem problem;
    const uint64_t seed;
    std::unique_ptr<Instance> instance; /* made when it is first needed */
    Answers answers;
};

Trial::Trial(const Problem &problem, uint64_t seed) : state(new State{problem, seed, nullptr, {}}) {}

Trial::~Trial() = default;

std::vector<Outcome> check_trial(Session &session, Trial &trial, const std::string &filter, Golden *golden)
{
    Trial::State &state = *trial.state;
    std::vector<Outcome> outcomes;
    std::vector<std::string (*)(const Context &)> checks;
    for (const auto &operation : operations) {
        if (!wanted(state.problem, operation.name, filter))
            continue;
        outcomes.push_back({Status::PASSED, session.target, operation.name, state.problem.name, state.seed, ""});
        checks.push_back(operation.check);
    }
    if (outcomes.empty())
        return outcomes;

    if (!state.instance)
        state.instance = std::make_unique<Instance>(state.problem, state.seed);
    const Instance &instance = *state.instance;
    PlanOwner owner(session, instance);
    const std::string foreign = golden && owner.plan ? golden->begin(instance) : "";
    if (owner.plan) {
        Workspace workspace(session, hattn_plan_workspace_size(owner.plan));
        for (size_t i = 0; i < outcomes.size(); i++) {
            outcomes[i].message =
                foreign.empty()
                    ? checks[i]({session, instance, state.answers, owner.plan, workspace, outcomes[i].op, golden})
                    : "against golden values: " + foreign;
            outcomes[i].status = outcomes[i].message.empty() ? Status::PASSED : Status::FAILED;
        }
    } else {
        for (Outcome &outcome : outcomes) {
            outcome.status = owner.status;
            outcome.message = owner.message;
        }
    }
    return outcomes;
}

std::vector<Outcome> check_problem(Session &session, const Problem &problem, uint64_t seed, const std::string &filter,
                                   Golden *golden)
{
    Trial trial(problem, seed);
    return check_trial(session, trial, filter, golden);
}

} // namespace conformance
