/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/slopes.h"

#include <algorithm>
#include <cmath>

namespace {

const double MOST_OCTAVES = 32; /* of the largest step, 32768 of 1024 each */

struct Point {
    double entropy = 0, first = 0, second = 0; /* and its derivatives by the slope */
};

/* Cross entropy: ln(sum of e^(slope x)) - slope * (mean x by the true attention). */
Point at(const std::vector<ScoreLevels> &queries, double slope)
{
    Point sum;
    for (const ScoreLevels &levels : queries) {
        double largest = levels[0].x, total = 0, mean = 0, square = 0, truth = 0;
        for (const ScoreLevel &level : levels)
            largest = std::max(largest, level.x);
        for (const ScoreLevel &level : levels) {
            const double share = level.count * std::exp(slope * (level.x - largest)), below = level.x - largest;
            total += share;
            mean += share * below;
            square += share * below * below;
            truth += level.mass * below;
        }
        mean /= total;
        sum.entropy += std::log(total) - slope * truth;
        sum.first += mean - truth;
        sum.second += square / total - mean * mean;
    }
    const double each = 1.0 / double(queries.size());
    return {sum.entropy * each, sum.first * each, sum.second * each};
}

/* From here on a difference of the least distance of x is the largest step, in every query. */
double largest_slope(const std::vector<ScoreLevels> &queries)
{
    double least = INFINITY;
    for (const ScoreLevels &levels : queries)
        for (size_t i = 1; i < levels.size(); i++)
            least = std::min(least, std::fabs(levels[i].x - levels[i - 1].x));
    return std::isfinite(least) && least > 0 ? MOST_OCTAVES * std::log(2.0) / least : 0;
}

} // namespace

FittedSlope fit_slope(const std::vector<ScoreLevels> &queries)
{
    double low = 0, high = largest_slope(queries), slope = 0;
    Point point = at(queries, slope);
    FittedSlope result = {0, point.entropy, point.entropy};
    if (point.first >= 0)
        return result;
    /* Newton's steps; where one leaves what is known to hold the slope, half of that. */
    for (int i = 0; i < 200 && high - low > 1e-12 * high; i++) {
        const double next = slope - point.first / point.second;
        slope = next > low && next < high ? next : (low + high) / 2;
        point = at(queries, slope);
        (point.first < 0 ? low : high) = slope;
        if (std::fabs(point.first) <= 1e-13 * point.second * slope)
            break;
    }
    result.slope = slope;
    result.fitted = point.entropy;
    return result;
}
