/* SPDX-License-Identifier: Apache-2.0
 * From vectors to code bits, norms and integer weights.
 */
#include <math.h>

#include "core/dtype.h"
#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scalar.h"

enum {
    OUTPUTS = 64, /* of a tile: a converted piece of one weight row, reused by all vectors of the tile */
    VECTORS = 8   /* of a tile: its accumulators are 2 KiB of L1 */
};

static void project_tile(const hattn_layer *layer, int first_x, int num_x, int first_output, int num_outputs)
{
    float acc[VECTORS][OUTPUTS] = {{0}}, weights[OUTPUTS];
    size_t size = (size_t)hattn_dtype_size(layer->dtype);
    for (int i = 0; i < layer->num_inputs; i++) {
        const char *row = (const char *)layer->weight + (size_t)(i * layer->stride_weight + first_output) * size;
        hattn_load_scalar(row, layer->dtype, num_outputs, 1.0f, weights);
        for (int x = 0; x < num_x; x++) {
            float value = layer->x[(first_x + x) * layer->stride_x + i];
            for (int o = 0; o < num_outputs; o++)
                acc[x][o] += value * weights[o];
        }
    }
    float bias[OUTPUTS] = {0};
    if (layer->bias)
        hattn_load_scalar((const char *)layer->bias + (size_t)first_output * size, layer->dtype, num_outputs, 1.0f,
                          bias);
    for (int x = 0; x < num_x; x++) {
        float *z = layer->z + (first_x + x) * layer->stride_z + first_output;
        for (int o = 0; o < num_outputs; o++) {
            float sum = acc[x][o] + bias[o];
            z[o] = layer->silu ? sum / (1.0f + expf(-sum)) : sum;
        }
    }
}

void hattn_project_scalar(const hattn_layer *layer)
{
    for (int x = 0; x < layer->num_x; x += VECTORS) {
        int num_x = layer->num_x - x < VECTORS ? layer->num_x - x : VECTORS;
        for (int o = 0; o < layer->num_outputs; o += OUTPUTS) {
            int num_outputs = layer->num_outputs - o < OUTPUTS ? layer->num_outputs - o : OUTPUTS;
            project_tile(layer, x, num_x, o, num_outputs);
        }
    }
}

void hattn_pack_scalar(const float *z, int num_bits, uint32_t *code)
{
    for (int w = 0; w * 32 < num_bits; w++) {
        uint32_t word = 0;
        for (int r = w * 32; r < num_bits && r < w * 32 + 32; r++)
            word |= (uint32_t)(z[r] > 0.0f) << r % 32;
        code[w] = word;
    }
}

uint16_t hattn_norm_scalar(const float *x, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return hattn_f16_of_f32(sqrtf(sum));
}

static void hamming_weights(const float *z, int64_t stride_z, int group, int num_bits, int8_t *weights)
{
    for (int r = 0; r < num_bits; r++) {
        int sum = 0;
        for (int g = 0; g < group; g++)
            sum += z[g * stride_z + r] > 0.0f ? 1 : -1;
        weights[r] = (int8_t)(group % 2 ? sum : sum / 2);
    }
}

static float group_sum(const float *z, int64_t stride_z, int group, int r)
{
    float sum = z[r];
    for (int g = 1; g < group; g++)
        sum += z[g * stride_z + r];
    return sum;
}

float hattn_weights_scalar(const float *z, int64_t stride_z, int group, int num_bits, int qmax, int8_t *weights)
{
    if (qmax == 0) {
        hamming_weights(z, stride_z, group, num_bits, weights);
        return 1.0f;
    }
    float max = 0.0f;
    int finite = 1;
    for (int r = 0; r < num_bits; r++) {
        float magnitude = fabsf(group_sum(z, stride_z, group, r));
        finite &= magnitude < INFINITY;
        max = magnitude > max ? magnitude : max;
    }
    if (!finite || max == 0.0f) {
        memset(weights, 0, (size_t)num_bits);
        return 0.0f;
    }
    /* In double the product is exact and cannot overflow, so that a tie is a tie. */
    for (int r = 0; r < num_bits; r++)
        weights[r] = (int8_t)rint((double)group_sum(z, stride_z, group, r) * qmax / max);
    return max;
}

void hattn_split_scalar(const int8_t *weights, int num_bits, hattn_planes *planes)
{
    memset(planes, 0, sizeof *planes);
    planes->num_words = (num_bits + 31) / 32;
    for (int r = 0; r < num_bits; r++) {
        int magnitude = weights[r] < 0 ? -weights[r] : weights[r];
        magnitude = magnitude > 127 ? 127 : magnitude;
        planes->max_score += (uint32_t)magnitude;
        planes->sign[r / 32] |= (uint32_t)(weights[r] < 0) << r % 32;
        for (int p = 0; p < HATTN_MAX_PLANES; p++) {
            if (!(magnitude >> p & 1))
                continue;
            planes->plane[p][r / 32] |= 1u << r % 32;
            planes->num_planes = p >= planes->num_planes ? p + 1 : planes->num_planes;
        }
    }
}
