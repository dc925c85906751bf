/* SPDX-License-Identifier: Apache-2.0
 * Floors of probability (api/hattn.h, hattn_topk) in the integers that all backends but the reference share. Inline, because
 * kernels on devices use it too; these bring the table of factors to where they can read it.
 */
#ifndef HATTN_CORE_FLOOR_H
#define HATTN_CORE_FLOOR_H

#include <stdint.h>

#include "core/dtype.h"

enum {
    HATTN_FLOOR_FACTORS = 64,
    HATTN_FLOOR_STRIDE = 61, /* of the positions that stand for all of low score: a prime, and no text's period */
    HATTN_FLOOR_MAX_STEP = 32768
};

/* 2^(30 - i/64), rounded down. */
/* clang-format off */
#define HATTN_FLOOR_TABLE {                                                                                    \
    1073741824, 1062175491, 1050733750, 1039415260, 1028218693, 1017142735, 1006186086, 995347463, 984625593, \
    974019220, 963527097, 953147996, 942880699, 932724000, 922676709, 912737648, 902905650, 893179562,         \
    883558244, 874040566, 864625413, 855311679, 846098273, 836984114, 827968132, 819049270, 810226482,         \
    801498733, 792864999, 784324268, 775875537, 767517816, 759250124, 751071492, 742980960, 734977579,         \
    727060410, 719228525, 711481005, 703816941, 696235434, 688735595, 681316544, 673977411, 666717336,         \
    659535465, 652430958, 645402980, 638450708, 631573325, 624770026, 618040011, 611382492, 604796688,         \
    598281826, 591837142, 585461880, 579155293, 572916640, 566745189, 560640217, 554601008, 548626854,         \
    542717052}
/* clang-format on */

/* What one score is worth, in 1/1024 of a factor of 2. unit: of hattn_encode_queries. NaN gives 0. */
HATTN_HOST_DEVICE static inline int32_t hattn_floor_step(float slope, float unit)
{
    const float step = slope * unit * 2954.639443740597f; /* 2048 / ln 2 */
    if (!(step > 0.0f))
        return 0;
    const float most = step < (float)HATTN_FLOOR_MAX_STEP ? step : (float)HATTN_FLOOR_MAX_STEP;
    return (int32_t)(most + 12582912.0f - 12582912.0f); /* to nearest even: below 2^22 */
}

/* The probability of a score so far below the largest one, in 2^-30 of that one's. distance below 2^16. */
HATTN_HOST_DEVICE static inline uint32_t hattn_floor_share(uint32_t distance, int32_t step, const uint32_t *factors)
{
    const uint32_t e = distance * (uint32_t)step, octaves = e >> 10;
    return octaves > 30 ? 0 : factors[e >> 4 & 63] >> octaves;
}

/* tau of a problem. */
HATTN_HOST_DEVICE static inline uint64_t hattn_floor_tau(float min_probability)
{
    const double all_bits = 4503599627370496.0; /* 2^52: to nearest even */
    return (uint64_t)((double)min_probability * 4294967296.0 + all_bits - all_bits);
}

/* The least share that reaches tau of a sum below 2^62; above all shares where none does. */
HATTN_HOST_DEVICE static inline uint64_t hattn_floor_least_share(uint64_t tau, uint64_t sum)
{
    const uint64_t low = tau * (sum & 0xffffffff), high = tau * (sum >> 32) + (low >> 32);
    return high + ((low & 0xffffffff) != 0);
}

/* ---- Scores per query head (hattn_topk, "With candidates") ---- */

enum { HATTN_MOST_HEADS = 64 }; /* of a selection */

/* Of Z, which is at least 2^30. */
HATTN_HOST_DEVICE static inline uint64_t hattn_head_inverse(uint64_t sum) { return ((uint64_t)1 << 62) / sum; }

/* The same without a division of 64 bits, for devices: a quotient by a float 1 / Z, which may be off by 2^-20 of it, then one of what is left, off by 1. */
HATTN_HOST_DEVICE static inline uint64_t hattn_head_inverse_near(uint64_t sum, float inverse)
{
    const uint64_t one = (uint64_t)1 << 62;
    uint64_t quotient = (uint64_t)(0x1p62f * inverse);
    quotient += (uint64_t)(int64_t)((float)(int64_t)(one - quotient * sum) * inverse);
    const int64_t rest = (int64_t)(one - quotient * sum);
    return quotient - (rest < 0) + (rest >= (int64_t)sum);
}

/* In 2^-24, at most 1. */
HATTN_HOST_DEVICE static inline uint32_t hattn_head_probability(uint32_t share, uint64_t inverse)
{
    return (uint32_t)(share * inverse >> 38);
}

/* The least sum of probabilities of `group` heads that reaches tau. */
HATTN_HOST_DEVICE static inline uint64_t hattn_head_floor(uint64_t tau, int32_t group)
{
    return (tau * (uint32_t)group + 255) >> 8;
}

/* f, of what is no candidate, and of candidates that are not kept. */
HATTN_HOST_DEVICE static inline uint64_t hattn_head_factor(uint64_t outside, uint64_t inside)
{
    const uint64_t most = 19 << 8;
    if (inside == 0)
        return 0;
    return (outside << 8) / inside < most ? (outside << 8) / inside : most;
}

HATTN_HOST_DEVICE static inline int64_t hattn_head_rest(uint64_t rest, uint64_t factor)
{
    return (int64_t)(rest + (rest * factor >> 8));
}

#endif
