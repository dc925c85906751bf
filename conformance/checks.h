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

/* Outputs made on one backend and checked on another. Keys are "PROBLEM/OP/TENSOR"; elements are packed in index order,
 * those that the operation does not write are 0. */
class Golden
{
public:
    virtual ~Golden() = default;
    virtual void put(const std::string &key, int32_t dtype, const std::vector<int64_t> &extents,
                     const std::vector<uint8_t> &elements) = 0;
    /* False: there is none to compare with. */
    virtual bool get(const std::string &key, std::vector<uint8_t> *elements) = 0;
};

/* The names of the operations, in the order in which they are checked. */
std::vector<std::string> operation_names();

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

/* Checks all operations whose "PROBLEM/OP" contains the filter; golden may be null. */
std::vector<Outcome> check_trial(Session &session, Trial &trial, const std::string &filter, Golden *golden);
std::vector<Outcome> check_problem(Session &session, const Problem &problem, uint64_t seed, const std::string &filter,
                                   Golden *golden);

} // namespace conformance
#endif
