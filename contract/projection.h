/* SPDX-License-Identifier: Apache-2.0
 * What a hash map makes of a vector, and what roundings of fp32 may make of that: docs/numerics.md, "Where rounding may show".
 */
#ifndef HATTN_CONTRACT_PROJECTION_H
#define HATTN_CONTRACT_PROJECTION_H

#include <cstdint>
#include <vector>

#include "api/hattn.h"

namespace contract {

/* Of every bit: z, and how far an fp32 evaluation may be from it. */
struct Projection {
    std::vector<double> z, bound;
};

/* By the header's formula in long double, from the caller's buffers: codes come from the reference, and who judges them shares
 * neither its sums nor its way to read a map. x: [head_dim_qk]. */
Projection project(const hattn_problem &problem, const hattn_map &map, const hattn_map_buffers &buffers,
                   const double *x, int64_t code_head);

} // namespace contract
#endif
