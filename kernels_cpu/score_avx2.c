/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/avx2.h"

/* A plane counted costs 12 instructions a row of 32 bytes, two of them shuffles; tables cost about as much as two
 * planes. 32768 keys of 128 bits in L2, Zen 4: counted 15, 27, 38, 57 us for 1..4 planes, looked up 20 to 21 us (5
 * and 6 planes 26 to 28). */
enum { SCORE_MAX_COUNTED = 1 };
#include "kernels_cpu/listed.h"
#include "kernels_cpu/score_lanes.h"

void hattn_score_avx2(const hattn_planes *planes, const hattn_score_run *runs, int num_runs, int num_runs_ahead,
                      int64_t stride_key, uint16_t *scores)
{
    score_runs(planes, runs, num_runs, num_runs_ahead, stride_key, scores);
}

void hattn_score_listed_avx2(const hattn_planes *planes, int num_heads, const uint32_t *const *codes, int num_codes,
                             uint32_t *room, uint16_t *scores, int64_t stride_scores)
{
    hattn_score_gathered(hattn_score_avx2, planes, num_heads, codes, num_codes, room, scores, stride_scores);
}

void hattn_scale_avx2(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                      int64_t num_keys, float *keys)
{
    scale(scores, max_score, norms, stride_norm, num_keys, keys);
}
