/* SPDX-License-Identifier: Apache-2.0
 * Scores of a run of keys, and their float form with norms.
 */
#include "kernels_cpu/kernels.h"
#include "kernels_cpu/listed.h"
#include "kernels_cpu/scalar.h"

enum { PAIRS = HATTN_MAX_WORDS / 2 };

/* An odd last word becomes the low half of a pair whose high half every plane masks out. */
static void pair_words(const uint32_t *words, int num_words, uint64_t *pairs)
{
    for (int w = 0; w < num_words; w += 2) {
        uint64_t high = w + 1 < num_words ? words[w + 1] : 0;
        pairs[w / 2] = high << 32 | words[w];
    }
}

void hattn_score_scalar(const hattn_planes *planes, const hattn_score_run *runs, int num_runs, int num_runs_ahead,
                        int64_t stride_key, uint16_t *scores)
{
    (void)num_runs_ahead; /* slower than memory: nothing to prefetch */
    uint64_t sign[PAIRS], plane[HATTN_MAX_PLANES][PAIRS];
    int num_pairs = (planes->num_words + 1) / 2;
    pair_words(planes->sign, planes->num_words, sign);
    for (int p = 0; p < planes->num_planes; p++)
        pair_words(planes->plane[p], planes->num_words, plane[p]);
    for (int run = 0; run < num_runs; run++) {
        for (int64_t j = 0; j < runs[run].num_keys; j++) {
            uint64_t code[PAIRS];
            pair_words(runs[run].codes + j * stride_key, planes->num_words, code);
            for (int i = 0; i < num_pairs; i++)
                code[i] ^= sign[i];
            int score = 0;
            for (int p = 0; p < planes->num_planes; p++) {
                int count = 0;
                for (int i = 0; i < num_pairs; i++)
                    count += __builtin_popcountll(code[i] & plane[p][i]);
                score += count << p;
            }
            *scores++ = (uint16_t)score;
        }
    }
}

void hattn_score_listed_scalar(const hattn_planes *planes, int num_heads, const uint32_t *const *codes, int num_codes,
                               uint32_t *room, uint16_t *scores, int64_t stride_scores)
{
    hattn_score_gathered(hattn_score_scalar, planes, num_heads, codes, num_codes, room, scores, stride_scores);
}

void hattn_scale_scalar(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                        int64_t num_keys, float *keys)
{
    for (int64_t j = 0; j < num_keys; j++) {
        int32_t centred = 2 * (int32_t)scores[j] - (int32_t)max_score; /* below 2^24: exact as fp32 */
        keys[j] = (float)centred * hattn_f32_of_f16(norms[j * stride_norm]);
    }
}
