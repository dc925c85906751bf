/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/neon.h"

#include "kernels_cpu/vote_lanes.h"

uint64_t hattn_vote_neon(const uint16_t *scores, int n, int32_t step, uint32_t *shares, uint32_t *keys)
{
    return vote(scores, n, step, shares, keys);
}
