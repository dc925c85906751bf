/* SPDX-License-Identifier: Apache-2.0
 * Which bits of codes, norms and weights may differ from the reference's: docs/numerics.md, "Where rounding may show".
 */
#ifndef HATTN_CONTRACT_FLIPS_H
#define HATTN_CONTRACT_FLIPS_H

#include <cstdint>
#include <string>
#include <vector>

#include "api/hattn.h"

namespace contract {

/* On random data a rounding may turn at most these shares, over a whole run. */
const double MAX_BIT_FLIPS = 1e-4, MAX_WEIGHT_FLIPS = 1e-2;

/* A code bit; z and bound as project() gives them. */
bool bit_may_flip(double z, double bound);
/* How far it is from turning, as a share of what roundings can do: up to 1 it may; infinite where they do nothing. */
double bit_margin(double z, double bound);

/* fp16 norms: the same, or a unit in the last place apart. */
bool norm_allowed(uint16_t got, uint16_t want);

/* What a selection head's weights are made of: the projections of its query heads. */
class GroupProjection
{
public:
    explicit GroupProjection(int num_bits);
    /* One query head: [num_bits], as project() gives them. */
    void add(const double *z, const double *bound);
    /* May weight r be `got` where the reference has `want`, another value? `why` says what was too near to call, or was not. */
    bool allows(const hattn_problem &problem, int r, int got, int want, std::string *why) const;
    /* May the step of a floor be `got` where the reference has `want`, another value? */
    bool allows_step(const hattn_problem &problem, double slope, int got, int want, std::string *why) const;
    /* What a weight of 1 is worth in the group's summed projection: hattn_encode_queries. */
    double unit(const hattn_problem &problem) const;
    /* How far weight r is from another value, likewise: of its nearest query, or of its nearest tie. */
    double margin(const hattn_problem &problem, int r) const;

private:
    bool allows_hamming(int r, int got, int want, std::string *why) const;
    size_t largest() const;
    /* What roundings can do to weight r, in steps, where it is about `weight`. */
    double weighted_error(double qmax, int r, int weight) const;
    bool allows_weighted(double qmax, int r, int got, int want, std::string *why) const;

    int heads_ = 0;
    std::vector<double> u_, error_;
    std::vector<double> nearest_; /* margin of the head whose bit is nearest to flipping */
    std::vector<int> undecided_;  /* heads whose bit may flip */
};

} // namespace contract
#endif
