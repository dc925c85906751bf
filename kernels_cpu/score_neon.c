/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/neon.h"

/* By instructions for 16 keys of 128 bits, loads apart: counted 66, 130, 194 for 1..3 planes (cnt counts bytes by
 * itself), looked up 166. */
enum { SCORE_MAX_COUNTED = 2 };
#include "kernels_cpu/score_lanes.h"

void hattn_score_neon(const hattn_planes *planes, const uint32_t *codes, int64_t stride_key, int64_t num_keys,
                      uint16_t *scores)
{
    score(planes, codes, stride_key, num_keys, scores);
}

void hattn_scale_neon(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                      int64_t num_keys, float *keys)
{
    scale(scores, max_score, norms, stride_norm, num_keys, keys);
}
