/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/floor_search.h"

#include <cmath>

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
