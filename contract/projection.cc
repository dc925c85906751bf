/* SPDX-License-Identifier: Apache-2.0 */
#include "contract/projection.h"

#include <cmath>
#include <cstring>

namespace contract {
namespace {

struct Vector {
    std::vector<long double> value, error;
};

/* A number of a map: fp32, fp16 or bf16. */
long double element(int32_t dtype, const hattn_buffer &buffer, int64_t i)
{
    const char *data = static_cast<const char *>(buffer.data) + buffer.byte_offset;
    float f32;
    if (dtype == HATTN_F32) {
        memcpy(&f32, data + 4 * i, 4);
        return f32;
    }
    uint16_t half;
    memcpy(&half, data + 2 * i, 2);
    if (dtype == HATTN_BF16) {
        const uint32_t bits = static_cast<uint32_t>(half) << 16;
        memcpy(&f32, &bits, 4);
        return f32;
    }
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const long double size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                             : exponent     ? std::ldexp(1024.0L + mantissa, exponent - 25)
                                            : std::ldexp(1.0L * mantissa, -24);
    return half >> 15 ? -size : size;
}

/* z = W x + b; the bias is among the 8 roundings that are not the dot product's. */
Vector multiply(const hattn_map &map, const hattn_map_buffers &buffers, int layer, int64_t head, const Vector &x, int n)
{
    Vector z = {std::vector<long double>(n), std::vector<long double>(n)};
    if (buffers.bias[layer].data)
        for (int r = 0; r < n; r++)
            z.value[r] = element(map.dtype, buffers.bias[layer], head * map.bias_stride[layer] + r);
    const long double roundings = static_cast<long double>(x.value.size() + 8) * 0x1p-23L;
    for (size_t i = 0; i < x.value.size(); i++) {
        const int64_t row = head * map.weight_stride[layer][0] + static_cast<int64_t>(i) * map.weight_stride[layer][1];
        for (int r = 0; r < n; r++) {
            const long double w = element(map.dtype, buffers.weight[layer], row + r), product = w * x.value[i];
            z.value[r] += product;
            z.error[r] += roundings * std::fabs(product) + std::fabs(w) * x.error[i];
        }
    }
    return z;
}

/* SiLU, whose slope is 1.0998 at most. */
void activate(Vector *x)
{
    for (long double &value : x->value)
        value /= 1 + std::exp(-value);
    for (long double &error : x->error)
        error *= 1.1L;
}

} // namespace

Projection project(const hattn_problem &problem, const hattn_map &map, const hattn_map_buffers &buffers,
                   const double *x, int64_t code_head)
{
    Vector in = {{x, x + problem.head_dim_qk}, std::vector<long double>(problem.head_dim_qk)};
    const int num_hidden = problem.map_kind == HATTN_MAP_MLP ? 2 : 0;
    for (int layer = 0; layer < num_hidden; layer++) {
        in = multiply(map, buffers, layer, code_head, in, map.hidden[layer]);
        activate(&in);
    }
    const Vector z = multiply(map, buffers, num_hidden, code_head, in, problem.code_bits);
    return {{z.value.begin(), z.value.end()}, {z.error.begin(), z.error.end()}};
}

} // namespace contract
