/* SPDX-License-Identifier: Apache-2.0 */
#include "contract/flips.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace contract {

bool bit_may_flip(double z, double bound) { return bound > 0 && std::fabs(z) <= bound; }

bool norm_allowed(uint16_t got, uint16_t want)
{
    const uint16_t infinity = 0x7c00;
    const bool got_is_nan = (got & 0x7fff) > infinity, want_is_nan = (want & 0x7fff) > infinity;
    if (got_is_nan || want_is_nan)
        return got_is_nan && want_is_nan;
    return std::abs(got - want) <= 1;
}

GroupProjection::GroupProjection(int num_bits) : u_(num_bits), error_(num_bits), undecided_(num_bits) {}

void GroupProjection::add(const double *z, const double *bound)
{
    heads_++;
    for (size_t r = 0; r < u_.size(); r++) {
        u_[r] += z[r];
        error_[r] += bound[r];
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

/* By one, where the tie between the two is nearer than roundings of u and of max|u| can move it. */
bool GroupProjection::allows_weighted(double qmax, int r, int got, int want, std::string *why) const
{
    const auto smaller = [](double a, double b) { return std::fabs(a) < std::fabs(b); };
    const size_t most = std::max_element(u_.begin(), u_.end(), smaller) - u_.begin();
    const double largest = std::fabs(u_[most]), exact = u_[r] * qmax / largest,
                 bound = (error_[r] * qmax + std::abs(want) * error_[most]) / largest, tie = (got + want) / 2.0;
    char text[80];
    snprintf(text, sizeof(text), "exactly %.6g, bound %.6g", exact, bound);
    *why = text;
    return std::abs(got - want) == 1 && std::fabs(exact - tie) <= bound;
}

} // namespace contract
