/* SPDX-License-Identifier: Apache-2.0
 * Score and top-k: exact, everywhere.
 */
#include "conformance/rules.h"
#include "reference/reference.h"

namespace conformance {

std::string check_score(const Context &context)
{
    const Instance &instance = context.instance;
    Output scores(context, "scores", &hattn_problem::scores);
    if (instance.shape.key_norms)
        scores.rule = score_rule();
    auto args = [&](Tensor Output::*side) {
        hattn_score_args made = instance.score_args();
        made.scores = scores.buffer(side);
        return made;
    };

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_score_args a = args(&Output::actual);
        return context.session.runner.score(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_score_args a = args(&Output::expected);
        hattn_reference_score(&instance.shape, &a);
    };
    checked.outputs = {&scores};
    return check_case(context, checked);
}

std::string check_topk(const Context &context)
{
    const Instance &instance = context.instance;
    Output indices(context, "indices", &hattn_problem::indices), counts(context, "counts", &hattn_problem::counts);
    auto args = [&](Tensor Output::*side) {
        hattn_topk_args made = instance.topk_args();
        made.indices = indices.buffer(side);
        made.counts = counts.buffer(side);
        return made;
    };

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_topk_args a = args(&Output::actual);
        return context.session.runner.topk(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_topk_args a = args(&Output::expected);
        hattn_reference_topk(&instance.shape, &a);
    };
    checked.outputs = {&counts, &indices};
    return check_case(context, checked);
}

} // namespace conformance
