/* SPDX-License-Identifier: Apache-2.0
 * Listed codes side by side, then each head's scores of them all.
 */
#ifndef HATTN_KERNELS_CPU_LISTED_H
#define HATTN_KERNELS_CPU_LISTED_H

#include <string.h>

#include "kernels_cpu/kernels.h"

static inline void hattn_score_gathered(hattn_score_fn *score, const hattn_planes *planes, int num_heads,
                                        const uint32_t *const *codes, int num_codes, uint32_t *room, uint16_t *scores,
                                        int64_t stride_scores)
{
    const int num_words = planes->num_words;
    if (num_words == 4) /* the usual ones: a load and a store */
        for (int i = 0; i < num_codes; i++)
            memcpy(room + 4 * (int64_t)i, codes[i], 16);
    else
        for (int i = 0; i < num_codes; i++)
            memcpy(room + (int64_t)i * num_words, codes[i], (size_t)num_words * sizeof(*room));
    const hattn_score_run run = {room, num_codes};
    for (int h = 0; h < num_heads; h++)
        score(planes + h, &run, 1, 0, num_words, scores + h * stride_scores);
}

#endif
