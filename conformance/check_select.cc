/* SPDX-License-Identifier: Apache-2.0
 * Score and top-k: exact, everywhere.
 */
#include <algorithm>
#include <cmath>

#include "conformance/rules.h"
#include "reference/reference.h"

namespace conformance {
namespace {

/* [row, selection head, 2]: of the positions that are not forced, how many have the lowest score that was kept, and how many of these were. */
void put_ties(const Context &context, const Positions &kept)
{
    const Instance &instance = context.instance;
    const hattn_problem &shape = instance.shape;
    const int rows = static_cast<int>(instance.rows.size());
    std::vector<uint8_t> bytes;
    for (int row = 0; row < rows; row++)
        for (int s = 0; s < shape.num_selection_heads; s++) {
            const int length = instance.rows[row].length;
            const auto score = [&](int j) {
                const Index index = {row, s, j};
                return shape.key_norms ? instance.scores.value<float>(index) : instance.scores.value<uint16_t>(index);
            };
            const auto is_forced = [&](int j) { return j < shape.num_sink || j >= length - shape.num_recent; };
            float lowest = INFINITY;
            for (int j : kept(row, s))
                if (!is_forced(j) && !std::isnan(score(j)))
                    lowest = std::min(lowest, score(j));
            int32_t ties[2] = {0, 0};
            for (int j = 0; j < length; j++)
                ties[0] += !is_forced(j) && score(j) == lowest;
            for (int j : kept(row, s))
                ties[1] += !is_forced(j) && score(j) == lowest;
            const uint8_t *begin = reinterpret_cast<const uint8_t *>(ties);
            bytes.insert(bytes.end(), begin, begin + sizeof(ties));
        }
    context.golden->put(instance.problem.name + "/" + context.op + "/ties", HATTN_I32,
                        {rows, shape.num_selection_heads, 2}, bytes);
}

} // namespace

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
    Output indices(context, "indices", &hattn_problem::indices), counts(context, "counts", &hattn_problem::counts),
        shares(context, "shares", &hattn_problem::shares), rests(context, "rests", &hattn_problem::rests);
    auto args = [&](Tensor Output::*side) {
        hattn_topk_args made = instance.topk_args();
        made.indices = indices.buffer(side);
        made.counts = counts.buffer(side);
        if (instance.shape.tail > 0) {
            made.shares = shares.buffer(side);
            made.rests = rests.buffer(side);
        }
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
    if (instance.shape.tail > 0)
        checked.outputs.insert(checked.outputs.end(), {&shares, &rests});
    const std::string problem = check_case(context, checked);
    if (context.golden && problem.empty())
        put_ties(context, listed_positions(indices.actual, counts.actual));
    return problem;
}

} // namespace conformance
