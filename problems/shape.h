/* SPDX-License-Identifier: Apache-2.0
 * What a plan is made from.
 */
#ifndef HATTN_PROBLEMS_SHAPE_H
#define HATTN_PROBLEMS_SHAPE_H

#include "problems/problems.h"

namespace problems {

/* The hattn_problem of a problem whose pools have num_pages pages, complete. */
hattn_problem make_shape(const Problem &problem, int num_pages);

/* Its HATTN_BROADCAST strides as the zeros that they stand for. */
hattn_problem resolved(hattn_problem shape);

/* Query tokens of each sequence. */
std::vector<int> query_lengths(const Problem &problem);
int longest_length(const Problem &problem);

} // namespace problems
#endif
