/* SPDX-License-Identifier: Apache-2.0 */
#include "contract/flips.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace contract {

bool bit_may_flip(double z, double bound) { return bound > 0 && std::fabs(z) <= bound; }

double bit_margin(double z, double bound)
{
    const double margin = bound > 0 ? std::fabs(z) / bound : INFINITY;
    return std::isnan(margin) ? INFINITY : margin;
}

bool norm_allowed(uint16_t got, uint16_t want)
{
    const uint16_t infinity = 0x7c00;
    const bool got_is_nan = (got & 0x7fff) > infinity, want_is_nan = (want & 0x7fff) > infinity;
    if (got_is_nan || want_is_nan)
        return got_is_nan && want_is_nan;
    return std::abs(got - want) <= 1;
}

GroupProjection::GroupProjection(int num_bits)
    : u_(num_bits), error_(num_bits), nearest_(num_bits, INFINITY), undecided_(num_bits)
{
}

void GroupProjection::add(const double *z, const double *bound)
{
    heads_++;
    for (size_t r = 0; r < u_.size(); r++) {
        u_[r] += z[r];
        error_[r] += bound[r];
        nearest_[r] = std::min(nearest_[r], bit_margin(z[r], bound[r]));
        undecided_[r] += bit_may_flip(z[r], bound[r]);
    }
}

bool GroupProjection::allows(const hattn_problem &problem, int r, int got, int want, std::string *why) const
{
    return problem.score_kind == HATTN_SCORE_HAMMING
               ? allows_hamming(r, got, want, why)
               : allows_weighted((1 << (problem.weight_bits - 1)) - 1, r, got, want, why);
}

/* Each query head whose sign is open moves the weight by one step. */
bool GroupProjection::allows_hamming(int r, int got, int want, std::string *why) const
{
    const int step = heads_ % 2 ? 2 : 1;
    *why = std::to_string(undecided_[r]) + " queries of the group are undecided";
    return std::abs(got - want) <= step * undecided_[r] && (got - want) % step == 0;
}

size_t GroupProjection::largest() const
{
    const auto smaller = [](double a, double b) { return std::fabs(a) < std::fabs(b); };
    return std::max_element(u_.begin(), u_.end(), smaller) - u_.begin();
}

double GroupProjection::weighted_error(double qmax, int r, int weight) const
{
    const size_t most = largest();
    return (error_[r] * qmax + std::abs(weight) * error_[most]) / std::fabs(u_[most]);
}

double GroupProjection::margin(const hattn_problem &problem, int r) const
{
    if (problem.score_kind == HATTN_SCORE_HAMMING)
        return nearest_[r];
    const double qmax = (1 << (problem.weight_bits - 1)) - 1, exact = u_[r] * qmax / std::fabs(u_[largest()]);
    if (!std::isfinite(exact))
        return INFINITY;
    const double tie = std::floor(exact) + 0.5;
    return bit_margin(exact - tie, weighted_error(qmax, r, static_cast<int>(std::rint(exact))));
}

/* Next to a tie that three roundings of fp32, or those of max|u|, can reach. */
double GroupProjection::unit(const hattn_problem &problem) const
{
    if (problem.score_kind == HATTN_SCORE_HAMMING)
        return 1;
    return std::fabs(u_[largest()]) / ((1 << (problem.weight_bits - 1)) - 1);
}

bool GroupProjection::allows_step(const hattn_problem &problem, double slope, int got, int want, std::string *why) const
{
    const double exact = 2048 / std::log(2) * slope * unit(problem);
    double error = 4 * 0x1p-24;
    if (problem.score_kind == HATTN_SCORE_WEIGHTED)
        error += error_[largest()] / std::fabs(u_[largest()]);
    const double bound = exact * error;
    char text[80];
    snprintf(text, sizeof(text), "exactly %.9g, bound %.6g", exact, bound);
    *why = text;
    return std::fabs(got - exact) <= 0.5 + bound && std::fabs(want - exact) <= 0.5 + bound;
}

/* By one, where the tie between the two is nearer than roundings of u and of max|u| can move it. */
bool GroupProjection::allows_weighted(double qmax, int r, int got, int want, std::string *why) const
{
    const double exact = u_[r] * qmax / std::fabs(u_[largest()]), bound = weighted_error(qmax, r, want),
                 tie = (got + want) / 2.0;
    char text[80];
    snprintf(text, sizeof(text), "exactly %.6g, bound %.6g", exact, bound);
    *why = text;
    return std::abs(got - want) == 1 && std::fabs(exact - tie) <= bound;
}

} // namespace contract
