/* SPDX-License-Identifier: Apache-2.0
 * The floor of probability with which a trace's selections keep so many rows on average, and the least weight with which so many values are read.
 */
#ifndef HATTN_TOOLS_FLOOR_SEARCH_H
#define HATTN_TOOLS_FLOOR_SEARCH_H

#include "tools/lane.h"
#include "tools/truth.h"

/* Rows that the lane's selections keep, over all queries and selection heads. */
double mean_rows(Lane *lane, int num_queries);

/* Leaves the lane, which has a floor and its keys, with one whose mean_rows are nearest to `rows`, and returns it. Throws UsageError
 * where none comes near: more than the budgets allow, or less than min_k and the largest floor do. */
float find_floor(Lane *lane, int num_queries, double rows);

/* Leaves the lane, which has a tail and its keys, with the min_value_weight that reads `values` rows of V a query and selection head on average, and
 * returns it. Throws UsageError where it keeps fewer. */
float find_value_weight(Lane *lane, const TruthSource &source, double values);

#endif
