/* SPDX-License-Identifier: Apache-2.0
 * The numerics contract (docs/numerics.md) as numbers. Set here once; no test has its own.
 */
#ifndef HATTN_CONFORMANCE_TOLERANCE_H
#define HATTN_CONFORMANCE_TOLERANCE_H

#include "api/hattn.h"

#include <cmath>

namespace conformance {

/* c in |out - reference| <= c * max|v| over the row's selection; by q's dtype, for merge by out's. */
inline double out_tolerance(int32_t dtype)
{
    return std::ldexp(1, dtype == HATTN_F32 ? -18 : dtype == HATTN_F16 ? -9 : -6);
}

/* |lse - reference| <= this * max(1, max|scaled score|): 2^-16 for F32 and for merge, in proportion for the others. */
inline double lse_tolerance(int32_t q_dtype) { return std::ldexp(out_tolerance(q_dtype), 2); }

/* Norms are fp16: units in the last place. */
const int NORM_ULPS = 1;

/* On random data a rounding may turn at most these shares, over a whole run. */
const double MAX_BIT_FLIPS = 1e-4, MAX_WEIGHT_FLIPS = 1e-2;

} // namespace conformance
#endif
