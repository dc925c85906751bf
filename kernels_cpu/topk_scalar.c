/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k by counting: a histogram gives the digit of the k-th largest key, the next digit is counted among the
 * keys that share it, and so on; then one pass keeps what is above the key found, and of its equals the first ones.
 */
#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scalar.h"

/* The largest bin such that it and the bins above hold at least `wanted` keys; *above: how many those above hold. */
static uint32_t find_bin(const uint32_t *histogram, uint32_t top, uint32_t wanted, uint32_t *above)
{
    uint32_t count = 0, bin = top;
    while (count + histogram[bin] < wanted)
        count += histogram[bin--];
    *above = count;
    return bin;
}

void hattn_topk_u16_scalar(const uint16_t *scores, int n, int k, uint32_t max_score, int32_t first, int32_t *out,
                           const hattn_topk_scratch *scratch)
{
    uint32_t *histogram = scratch->histogram, wanted = (uint32_t)k, above;
    int low_bits = max_score < HATTN_TOPK_BINS ? 0 : 3; /* 2^16 / 8 bins of the high digit */
    memset(histogram, 0, ((max_score >> low_bits) + 1) * sizeof *histogram);
    for (int j = 0; j < n; j++)
        histogram[scores[j] >> low_bits]++;
    uint32_t threshold = find_bin(histogram, max_score >> low_bits, wanted, &above);
    wanted -= above;
    if (low_bits) {
        uint32_t high = threshold, low_mask = (1u << low_bits) - 1;
        memset(histogram, 0, (low_mask + 1) * sizeof *histogram);
        for (int j = 0; j < n; j++) {
            if ((uint32_t)scores[j] >> low_bits == high)
                histogram[scores[j] & low_mask]++;
        }
        threshold = high << low_bits | find_bin(histogram, low_mask, wanted, &above);
        wanted -= above;
    }
    for (int j = 0, num_out = 0; num_out < k; j++) {
        if (scores[j] < threshold || (scores[j] == threshold && wanted == 0))
            continue;
        wanted -= scores[j] == threshold;
        out[num_out++] = first + j;
    }
}

/* Unsigned keys in the order of the floats: NaN 0, then -inf ... -0 = +0 ... +inf. */
static uint32_t ordered_key(float key)
{
    if (key != key)
        return 0;
    uint32_t bits = hattn_bits_of_f32(key + 0.0f); /* -0 + 0 is +0 */
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

void hattn_topk_f32_scalar(const float *keys, int n, int k, int32_t first, int32_t *out,
                           const hattn_topk_scratch *scratch)
{
    static const int digit_shift[] = {21, 10, 0}, digit_bits[] = {11, 11, 10};
    uint32_t *histogram = scratch->histogram, threshold = 0, known = 0, wanted = (uint32_t)k, above;
    for (int digit = 0; digit < 3; digit++) {
        uint32_t mask = (1u << digit_bits[digit]) - 1;
        memset(histogram, 0, (mask + 1) * sizeof *histogram);
        for (int j = 0; j < n; j++) {
            const uint32_t key = ordered_key(keys[j]);
            if (((key ^ threshold) & known) == 0)
                histogram[key >> digit_shift[digit] & mask]++;
        }
        threshold |= find_bin(histogram, mask, wanted, &above) << digit_shift[digit];
        known |= mask << digit_shift[digit];
        wanted -= above;
    }
    for (int j = 0, num_out = 0; num_out < k; j++) {
        const uint32_t key = ordered_key(keys[j]);
        if (key < threshold || (key == threshold && wanted == 0))
            continue;
        wanted -= key == threshold;
        out[num_out++] = first + j;
    }
}
