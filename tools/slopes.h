/* SPDX-License-Identifier: Apache-2.0
 * The slope of a selection head (hattn_encode_queries): the one whose estimate of its queries' attention has the least cross
 * entropy against what that attention is.
 */
#ifndef HATTN_TOOLS_SLOPES_H
#define HATTN_TOOLS_SLOPES_H

#include <vector>

/* The keys of a query that have one score. */
struct ScoreLevel {
    double x = 0;     /* unit * sum w_r (2 code_r - 1) */
    double count = 0; /* keys */
    double mass = 0;  /* the group's mean attention on them; 1 in sum over a query */
};
using ScoreLevels = std::vector<ScoreLevel>;

struct FittedSlope {
    double slope = 0;
    double uniform = 0, fitted = 0; /* cross entropy in nats, mean over queries: of a slope of 0 and of this one */
};

/* Of queries that each have keys. The cross entropy is convex, and a slope that is not positive is 0; the largest is one of
 * which no step could tell a larger one. */
FittedSlope fit_slope(const std::vector<ScoreLevels> &queries);

#endif
