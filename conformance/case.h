/* SPDX-License-Identifier: Apache-2.0
 * One operation on one instance: what is run, what it should have written, and how to compare. Inside of the checks.
 */
#ifndef HATTN_CONFORMANCE_CASE_H
#define HATTN_CONFORMANCE_CASE_H

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "conformance/checks.h"
#include "conformance/instance.h"

namespace conformance {

/* What an output holds after the reference has written it. */
struct Expectation {
    std::vector<uint8_t> images[2]; /* of what held FILLS[i] before: case.cc */
    std::vector<uint8_t> written;   /* per byte */
};

/* What the reference made of an instance, for the next session. */
struct Answer {
    std::vector<uint8_t> question; /* Case::question */
    std::vector<Expectation> expectations;
};
using Answers = std::map<std::string, Answer>; /* by operation */

struct Context {
    Session &session;
    const Instance &instance;
    Answers &answers;
    const hattn_plan *plan;
    const Workspace &workspace; /* the plan's own */
    std::string op;
    Golden *golden;

    /* Flips count on random data only. */
    Flips *flips() const { return instance.problem.pattern == Pattern::RANDOM ? &session.flips : nullptr; }
    std::string name() const { return session.target.text() + " " + instance.problem.name + "/" + op; }
};

/* What a rule says of an element. */
struct Verdict {
    std::string why;  /* may add to the message */
    double share = 0; /* of what it may differ by; 1: all of it */
};

/* May an element that differs from what is expected do so? */
using Rule = std::function<bool(const Index &index, const uint8_t *got, const uint8_t *want, Verdict *verdict)>;

/* An output of the case, written by the backend (actual) and by the reference (expected). */
struct Output {
    Output(const Context &context, const std::string &name, Field field);

    Tensor actual, expected;
    Rule rule;        /* none: exact */
    Rule golden_rule; /* against golden values; none: as rule */
    bool optional = false;
    bool given = true;                           /* to the run: without, its buffer is null */
    std::function<void(const Tensor &)> prepare; /* what it holds before a run, beyond the fill */

    void reset(const Tensor &tensor, uint8_t fill) const;
    /* For the arguments of a run (actual) or of the reference (expected), which is given all. */
    hattn_buffer buffer(Tensor Output::*side) const;
};

struct Case {
    std::function<hattn_status(const hattn_exec *, hattn_error *)> run; /* the call, with the outputs that are given */
    std::function<void()> reference;                /* fills all expected tensors; may look at actual ones */
    std::function<std::vector<uint8_t>()> question; /* what it looks at; none: nothing but the instance */
    std::function<void()> before_again;             /* between the comparison and the repetitions */
    std::vector<Output *> outputs;                  /* compared in this order */
};

/* States of values, as outputs that are read first, too. */
void prepare_values(const Instance &instance, Output *sums, Output *lengths);

/* "" or what is wrong. */
std::string check_case(const Context &context, const Case &checked);

/* All bytes of tensor's memory against `want`: elements that are `written` by the rule, everything else exactly. Differences are
 * added to *comparison, if not null. */
std::string compare(const Tensor &tensor, const std::vector<uint8_t> &want, const std::vector<uint8_t> &written,
                    const Rule &rule, Comparison *comparison = nullptr);

/* The operations; each "" or what is wrong. */
std::string check_encode_keys(const Context &context);
std::string check_encode_queries(const Context &context);
std::string check_score(const Context &context);
std::string check_topk(const Context &context);
std::string check_attend_sparse(const Context &context);
std::string check_attend_dense(const Context &context);
std::string check_merge(const Context &context);
std::string check_sum_values(const Context &context);
std::string check_decode(const Context &context);
std::string check_decode_append(const Context &context);

} // namespace conformance
#endif
