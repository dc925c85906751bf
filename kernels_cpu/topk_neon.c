/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/neon.h"

#include "kernels_cpu/topk_lanes.h"

void hattn_topk_u16_neon(const uint16_t *scores, int n, int k, uint32_t max_score, int32_t first, int32_t *out,
                         const hattn_topk_scratch *scratch)
{
    (void)max_score; /* bisection starts from the largest key that it finds */
    const topk_keys keys = {scores, NULL, n};
    topk(&keys, k, first, out, scratch);
}

void hattn_topk_f32_neon(const float *floats, int n, int k, int32_t first, int32_t *out,
                         const hattn_topk_scratch *scratch)
{
    const topk_keys keys = {NULL, floats, n};
    topk(&keys, k, first, out, scratch);
}
