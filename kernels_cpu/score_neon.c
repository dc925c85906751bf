/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/neon.h"

/* By instructions for 16 keys of 128 bits, loads apart: counted 66, 130, 194 for 1..3 planes (cnt counts bytes by
 * itself), looked up 166. */
enum { SCORE_MAX_COUNTED = 2 };
#include "kernels_cpu/listed.h"
#include "kernels_cpu/score_lanes.h"

void hattn_score_neon(const hattn_planes *planes, const hattn_score_run *runs, int num_runs, int num_runs_ahead,
                      int64_t stride_key, uint16_t *scores)
{
    score_runs(planes, runs, num_runs, num_runs_ahead, stride_key, scores);
}

void hattn_score_listed_neon(const hattn_planes *planes, int num_heads, const uint32_t *const *codes, int num_codes,
                             uint32_t *room, uint16_t *scores, int64_t stride_scores)
{
    hattn_score_gathered(hattn_score_neon, planes, num_heads, codes, num_codes, room, scores, stride_scores);
}

void hattn_scale_neon(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                      int64_t num_keys, float *keys)
{
    scale(scores, max_score, norms, stride_norm, num_keys, keys);
}
