/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/floor_search.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "tools/args.h"
#include "tools/report.h"

namespace {

const double LEAST = 1e-9, MOST = 0.999; /* floors that are tried */

double rows_at(Lane *lane, int num_queries, double min_probability)
{
    lane->set_min_probability(float(min_probability));
    return mean_rows(lane, num_queries);
}

} // namespace

double mean_rows(Lane *lane, int num_queries)
{
    double sum = 0;
    for (int query = 0; query < num_queries; query++)
        for (const int32_t count : lane->select(query, lane->encode_query(query), *lane).counts)
            sum += count;
    return sum / num_queries / lane->problem().num_selection_heads;
}

float find_floor(Lane *lane, int num_queries, double rows)
{
    double low = std::log(LEAST), high = std::log(MOST); /* more rows than wanted, and fewer */
    const double most = rows_at(lane, num_queries, LEAST), least = rows_at(lane, num_queries, MOST);
    if (rows > most || rows < least)
        throw UsageError(format("--mean-rows %g: with --topk %d and --min-k %d floors keep %.1f to %.1f rows a query",
                                rows, lane->problem().k, lane->problem().min_k, least, most));
    for (int i = 0; i < 24; i++) {
        const double middle = (low + high) / 2;
        (rows_at(lane, num_queries, std::exp(middle)) > rows ? low : high) = middle;
    }
    const double above = rows_at(lane, num_queries, std::exp(low)), below = rows_at(lane, num_queries, std::exp(high));
    const float found = float(std::exp(above - rows < rows - below ? low : high));
    lane->set_min_probability(found);
    return found;
}

float find_value_weight(Lane *lane, const TruthSource &source, double values)
{
    const hattn_problem &problem = lane->problem();
    const int num_queries = source.trace().num_queries, heads = problem.num_selection_heads;
    std::vector<double> weights;
    for (int query = 0; query < num_queries; query++) {
        const Truth truth(source, query);
        const StepResult step = lane->select(query, lane->encode_query(query), *lane);
        for (int s = 0; s < heads; s++) {
            const std::vector<double> of_head =
                truth.value_weights(s, heads, &step.indices[size_t(s) * problem.k], step.counts[s]);
            weights.insert(weights.end(), of_head.begin(), of_head.end());
        }
    }
    const size_t wanted = size_t(std::lround(values * num_queries * heads));
    if (wanted >= weights.size())
        throw UsageError(format("--mean-values %g: the selections keep %.1f rows a query", values,
                                double(weights.size()) / num_queries / heads));
    std::nth_element(weights.begin(), weights.begin() + int64_t(wanted), weights.end(), std::greater<>());
    const float found = float(weights[wanted]) * (1 + 0x1p-20f); /* the next one is not read */
    lane->set_min_value_weight(found);
    return found;
}
