/* SPDX-License-Identifier: Apache-2.0
 * How the list is put together: a row is a name and what differs from the Problem that its struct describes.
 */
#ifndef HATTN_PROBLEMS_PROBLEM_LIST_H
#define HATTN_PROBLEMS_PROBLEM_LIST_H

#include "problems/problems.h"

namespace problems {

class ProblemList
{
public:
    template <typename Change>
    void add(const std::string &name, Change change)
    {
        Problem problem;
        problem.name = name;
        change(problem);
        problems.push_back(problem);
    }
    std::vector<Problem> problems;
};

inline std::string with(const std::string &prefix, int n) { return prefix + "_" + std::to_string(n); }

/* What one key, one query and one map look like: heads, codes, dims, dtypes. */
void add_shape_problems(ProblemList &list);
/* How many there are: lengths, budgets, rows. */
void add_batch_problems(ProblemList &list);
/* Where they lie: patterns along the positions, strides, shared pages, the host's memory. */
void add_layout_problems(ProblemList &list);
/* Numbers at the edges: large logits, values, infinities, the lowest weight. */
void add_numeric_problems(ProblemList &list);
/* Selections of more tokens than a part has. */
void add_selection_problems(ProblemList &list);
/* Selections that a floor of probability makes shorter. */
void add_floor_problems(ProblemList &list);
void add_tail_problems(ProblemList &list);
void add_head_problems(ProblemList &list);

} // namespace problems
#endif
