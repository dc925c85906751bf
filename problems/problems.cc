/* SPDX-License-Identifier: Apache-2.0 */
#include "problems/problem_list.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace problems {

const std::vector<Problem> &all_problems()
{
    static const std::vector<Problem> all = [] {
        ProblemList list;
        list.add("plain", [](Problem &) {});
        list.add("plain_append", [](Problem &p) { p.append = true; });
        add_shape_problems(list);
        add_batch_problems(list);
        add_layout_problems(list);
        add_numeric_problems(list);
        add_selection_problems(list);
        add_floor_problems(list);
        add_tail_problems(list);
        add_head_problems(list);
        for (const Problem &problem : bench_problems())
            list.problems.push_back(problem);
        return list.problems;
    }();
    return all;
}

std::vector<Problem> tested_problems()
{
    size_t part = 0, parts = 1, count = 0;
    const char *text = getenv("HATTN_PROBLEMS");
    if (text && (sscanf(text, "%zu/%zu", &part, &parts) != 2 || part >= parts))
        throw std::invalid_argument(std::string("HATTN_PROBLEMS is '") + text + "', not I/N with I below N");
    std::vector<Problem> tested;
    for (const Problem &problem : all_problems())
        if (problem.tag != Tag::BENCH && count++ % parts == part)
            tested.push_back(problem);
    return tested;
}

} // namespace problems
