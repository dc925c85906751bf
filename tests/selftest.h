/* SPDX-License-Identifier: Apache-2.0
 * For tests that break a runner: what it was called with, and what conformance says.
 */
#ifndef HATTN_TESTS_SELFTEST_H
#define HATTN_TESTS_SELFTEST_H

#include <stdexcept>
#include <string>

#include "conformance/checks.h"

namespace conformance {

template <typename T>
T *elements(const hattn_buffer &buffer)
{
    return reinterpret_cast<T *>(static_cast<uint8_t *>(buffer.data) + buffer.byte_offset);
}

inline const Problem &problem_called(const std::string &name)
{
    for (const Problem &problem : all_problems())
        if (problem.name == name)
            return problem;
    throw std::runtime_error("no problem is called " + name);
}

inline Outcome outcome_of(Session &session, Trial &trial, const std::string &op)
{
    for (const Outcome &outcome : check_trial(session, trial, "/" + op, nullptr))
        if (outcome.op == op)
            return outcome;
    throw std::runtime_error("no " + op);
}

inline Outcome outcome_of(Session &session, const std::string &problem, const std::string &op, uint64_t seed)
{
    Trial trial(problem_called(problem), seed);
    return outcome_of(session, trial, op);
}

} // namespace conformance
#endif
