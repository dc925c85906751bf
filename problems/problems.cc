/* SPDX-License-Identifier: Apache-2.0 */
#include "problems/problem_list.h"

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

} // namespace problems
