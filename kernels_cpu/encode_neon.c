/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/neon.h"

#include "kernels_cpu/encode_f32x8.h"

void hattn_project_neon(const hattn_layer *layer) { project(layer); }

void hattn_pack_neon(const float *z, int num_bits, uint32_t *code) { pack(z, num_bits, code); }

uint16_t hattn_norm_neon(const float *x, int n) { return norm(x, n); }

float hattn_weights_neon(const float *z, int64_t stride_z, int group, int num_bits, int qmax, int8_t *weights)
{
    return make_weights(z, stride_z, group, num_bits, qmax, weights);
}

void hattn_split_neon(const int8_t *weights, int num_bits, hattn_planes *planes) { split(weights, num_bits, planes); }
