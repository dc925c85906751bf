/* SPDX-License-Identifier: Apache-2.0
 * The checks: every operation of a session's backend on a problem, against reference/ by the numerics contract.
 *
 * Each operation runs with poison around its inputs and 0xAA in its outputs, is compared byte by byte (what it must not
 * write included), and runs again in every manner (threads, teams, workspaces), which must change nothing.
 */
#ifndef HATTN_CONFORMANCE_CHECKS_H
#define HATTN_CONFORMANCE_CHECKS_H

#include <memory>
#include <string>
#include <vector>

#include "conformance/session.h"
#include "problems/problems.h"

namespace conformance {

enum class Status { PASSED, FAILED, REFUSED /* by the plan, in words */, SKIPPED };
const char *status_name(Status status);

struct Outcome {
    Status status;
    Target target;
    std::string op, problem;
    uint64_t seed;
    std::string message;
    /* One line: who, what, the message, and for failures the command that repeats it, which its owner knows. */
    std::string text(std::string (*repeat_command)(const Outcome &)) const;
};

class Instance;

/* An output against its golden values. */
struct Comparison {
    Target target;
    std::string problem, op, tensor;
    int64_t elements = 0, different = 0;
    double share = 0;   /* the largest of those that a difference may have: contract/ */
    bool wrong = false; /* more than that */
};

/* Outputs made on one backend and checked on another. Keys are "PROBLEM/OP/TENSOR"; elements are packed in index order,
 * those that the operation does not write are 0. Beside outputs there is what judges them without this library (docs/golden.md):
 * "margins" of codes and weights, "ties" of selections. */
class Golden
{
public:
    virtual ~Golden() = default;
    /* Before all of a problem. "" or why its values do not belong to these inputs. */
    virtual std::string begin(const Instance &instance) = 0;
    /* Only of operations that agree with the reference. */
    virtual void put(const std::string &key, int32_t dtype, const std::vector<int64_t> &extents,
                     const std::vector<uint8_t> &elements) = 0;
    /* False: there is none to compare with. */
    virtual bool get(const std::string &key, std::vector<uint8_t> *elements) = 0;
    /* What came of it. */
    virtual void compared(const Comparison &comparison) = 0;
};

/* The names of the operations, in the order in which they are checked. */
std::vector<std::string> operation_names();
/* Of those that the problem has. */
std::vector<std::string> operation_names(const Problem &problem);

/* Whether the name contains the filter, or one of the texts of it that commas separate. */
bool is_named(const std::string &name, const std::string &filter);

/* A problem's data, and what the reference has made of it: sessions that check it one after the other share both. */
class Trial
{
public:
    Trial(const Problem &problem, uint64_t seed);
    ~Trial();
    Trial(const Trial &) = delete;
    Trial &operator=(const Trial &) = delete;

    struct State;
    const std::unique_ptr<State> state;
};

/* Checks all operations whose "PROBLEM/OP" is_named by the filter; golden may be null. */
std::vector<Outcome> check_trial(Session &session, Trial &trial, const std::string &filter, Golden *golden);
std::vector<Outcome> check_problem(Session &session, const Problem &problem, uint64_t seed, const std::string &filter,
                                   Golden *golden);

} // namespace conformance
#endif
