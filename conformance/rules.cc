/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/rules.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "conformance/tolerance.h"
#include "reference/reference.h"

namespace conformance {
namespace {

const int MAX_BITS = 512, MAX_DIM = 576;

std::string number(const char *what, double value)
{
    char text[64];
    snprintf(text, sizeof(text), "%s %.6g", what, value);
    return text;
}

/* NaN never passes, unless both are. */
bool near(double got, double want, double tolerance, std::string *why)
{
    if (std::isnan(want) || std::isnan(got))
        return std::isnan(want) && std::isnan(got);
    if (std::fabs(got - want) <= tolerance)
        return true;
    *why = number("tolerance", tolerance);
    return false;
}

struct Projection {
    double z[MAX_BITS], bound[MAX_BITS];
    bool may_flip(int r) const { return bound[r] > 0 && std::fabs(z[r]) <= bound[r]; }
};

/* A selection head's group of query heads, summed. */
struct GroupSum {
    double u[MAX_BITS] = {}, error[MAX_BITS] = {};
    int may_flip[MAX_BITS] = {};
    double largest = 0, largest_error = 0;

    GroupSum(const Instance &instance, int row, int s)
    {
        const hattn_problem &shape = instance.shape;
        hattn_map_buffers map = instance.query_map.buffers();
        for (int h = 0; h < shape.num_q_heads; h++) {
            if (instance.selection_head_of_query(h) != s)
                continue;
            double x[MAX_DIM];
            Projection projection;
            load_scaled(instance.q, {row, h}, 1, x);
            hattn_reference_project(&shape, &shape.query_map, &map, x, instance.code_head_of_query(h), projection.z,
                                    projection.bound);
            for (int r = 0; r < shape.code_bits; r++) {
                u[r] += projection.z[r];
                error[r] += projection.bound[r];
                may_flip[r] += projection.may_flip(r);
            }
        }
        for (int r = 0; r < shape.code_bits; r++) {
            if (std::fabs(u[r]) > largest) {
                largest = std::fabs(u[r]);
                largest_error = error[r];
            }
        }
    }
};

/* Magnitudes that the tolerances of one query head's output are relative to. */
struct Scale {
    double value = 0, score = 0;
};

Scale scale_of(const Instance &instance, const std::vector<int> &positions, int row, int h)
{
    Scale scale;
    const hattn_problem &shape = instance.shape;
    int g = instance.kv_head_of_query(h);
    double q[MAX_DIM], x[MAX_DIM];
    load_scaled(instance.q, {row, h}, shape.scale, q);
    for (int j : positions) {
        Index index = instance.cache_index(instance.rows[row].sequence, j, g);
        load_scaled(instance.v_cache, index, instance.kv_scale(instance.v_scale, g), x);
        for (int i = 0; i < shape.head_dim_v; i++)
            scale.value = std::fmax(scale.value, std::fabs(x[i]));
        load_scaled(instance.k_cache, index, instance.kv_scale(instance.k_scale, g), x);
        double dot = 0;
        for (int i = 0; i < shape.head_dim_qk; i++)
            dot += q[i] * x[i];
        scale.score = std::fmax(scale.score, std::fabs(dot));
    }
    return scale;
}

/* scale_of, remembered: a row has many elements. */
std::function<Scale(int row, int h)> make_scales(const Instance &instance, Positions positions)
{
    auto known = std::make_shared<std::map<std::pair<int, int>, Scale>>();
    return [&instance, positions, known](int row, int h) {
        auto found = known->find({row, h});
        if (found == known->end())
            found = known
                        ->emplace(std::make_pair(row, h),
                                  scale_of(instance, positions(row, instance.selection_head_of_query(h)), row, h))
                        .first;
        return found->second;
    };
}

} // namespace

void load_scaled(const Tensor &tensor, Index index, double scale, double *x)
{
    index[tensor.rank - 1] = 0;
    const uint8_t *row = tensor.at(index);
    for (int64_t i = 0; i < tensor.extent[tensor.rank - 1]; i++)
        x[i] = hattn_reference_load(row, tensor.dtype, i) * scale;
}

Rule code_rule(const Instance &instance, KeySource keys, Flips *flips, OnFlip on_flip)
{
    return [&instance, keys, flips, on_flip](const Index &index, const uint8_t *got, const uint8_t *want,
                                             std::string *why) {
        uint32_t a, b;
        memcpy(&a, got, sizeof(a));
        memcpy(&b, want, sizeof(b));
        const hattn_problem &shape = instance.shape;
        int c = (int)index[2];
        double x[MAX_DIM];
        if (!keys(index[0], index[1], instance.kv_head_of_code(c), x))
            return false;
        Projection projection;
        hattn_map_buffers map = instance.key_map.buffers();
        hattn_reference_project(&shape, &shape.key_map, &map, x, c, projection.z, projection.bound);
        for (int i = 0; i < 32; i++) {
            int r = (int)index[3] * 32 + i;
            if (!((a ^ b) >> i & 1))
                continue;
            if (r >= shape.code_bits) {
                *why = "bits past code_bits";
                return false;
            }
            if (!projection.may_flip(r)) {
                *why = "bit " + std::to_string(r) + number(", z", projection.z[r]) +
                       number(", bound", projection.bound[r]);
                return false;
            }
            if (flips)
                flips->bit_flips++;
        }
        if (on_flip)
            on_flip(index);
        return true;
    };
}

Rule norm_rule()
{
    return [](const Index &, const uint8_t *got, const uint8_t *want, std::string *) {
        uint16_t a, b;
        memcpy(&a, got, sizeof(a));
        memcpy(&b, want, sizeof(b));
        const uint16_t infinity = 0x7c00;
        bool a_is_nan = (a & 0x7fff) > infinity, b_is_nan = (b & 0x7fff) > infinity;
        if (a_is_nan || b_is_nan)
            return a_is_nan && b_is_nan;
        return std::abs((int)a - (int)b) <= NORM_ULPS;
    };
}

Rule weight_rule(const Instance &instance, Flips *flips, OnFlip on_flip)
{
    return [&instance, flips, on_flip](const Index &index, const uint8_t *got, const uint8_t *want, std::string *why) {
        const hattn_problem &shape = instance.shape;
        int a = (int8_t)*got, b = (int8_t)*want, r = (int)index[2];
        GroupSum sum(instance, (int)index[0], (int)index[1]);
        bool allowed;
        if (shape.score_kind == HATTN_SCORE_HAMMING) {
            bool odd = shape.num_q_heads / shape.num_selection_heads % 2;
            int step = odd ? 2 : 1;
            allowed = std::abs(a - b) <= step * sum.may_flip[r] && (a - b) % step == 0;
            *why = std::to_string(sum.may_flip[r]) + " queries of the group are undecided";
        } else {
            double qmax = (1 << (shape.weight_bits - 1)) - 1, exact = sum.u[r] * qmax / sum.largest;
            double bound = (sum.error[r] * qmax + std::fabs(b) * sum.largest_error) / sum.largest;
            double tie = (a + b) / 2.0;
            allowed = std::abs(a - b) == 1 && std::fabs(exact - tie) <= bound;
            *why = number("exactly", exact) + number(", bound", bound);
        }
        if (allowed && flips)
            flips->weight_flips++;
        if (allowed && on_flip)
            on_flip(index);
        return allowed;
    };
}

Rule score_rule()
{
    return [](const Index &, const uint8_t *got, const uint8_t *want, std::string *) {
        float a, b;
        memcpy(&a, got, sizeof(a));
        memcpy(&b, want, sizeof(b));
        return std::isnan(a) && std::isnan(b);
    };
}

Positions listed_positions(const Tensor &indices, const Tensor &counts)
{
    return [indices, counts](int row, int s) {
        std::vector<int> positions(counts.value<int32_t>({row, s}));
        for (size_t i = 0; i < positions.size(); i++)
            positions[i] = indices.value<int32_t>({row, s, (int64_t)i});
        return positions;
    };
}

Positions all_positions(const Instance &instance)
{
    return [&instance](int row, int) {
        std::vector<int> positions(instance.rows[row].length);
        for (size_t j = 0; j < positions.size(); j++)
            positions[j] = (int)j;
        return positions;
    };
}

Rule out_rule(const Instance &instance, Positions positions)
{
    auto scales = make_scales(instance, positions);
    int32_t dtype = instance.shape.out.dtype, q_dtype = instance.shape.q.dtype;
    return [scales, dtype, q_dtype](const Index &index, const uint8_t *got, const uint8_t *want, std::string *why) {
        double tolerance = out_tolerance(q_dtype) * scales((int)index[0], (int)index[1]).value;
        return near(hattn_reference_load(got, dtype, 0), hattn_reference_load(want, dtype, 0), tolerance, why);
    };
}

Rule lse_rule(const Instance &instance, Positions positions)
{
    auto scales = make_scales(instance, positions);
    int32_t q_dtype = instance.shape.q.dtype;
    return [scales, q_dtype](const Index &index, const uint8_t *got, const uint8_t *want, std::string *why) {
        double tolerance = lse_tolerance(q_dtype) * std::fmax(1, scales((int)index[0], (int)index[1]).score);
        return near(hattn_reference_load(got, HATTN_F32, 0), hattn_reference_load(want, HATTN_F32, 0), tolerance, why);
    };
}

Rule merged_out_rule(const Instance &instance)
{
    auto known = std::make_shared<std::map<std::pair<int64_t, int64_t>, double>>(); /* a row has many elements */
    return [&instance, known](const Index &index, const uint8_t *got, const uint8_t *want, std::string *why) {
        auto [found, is_new] = known->emplace(std::make_pair(index[0], index[1]), 0);
        double &largest = found->second;
        for (int64_t part = 0; is_new && part < instance.problem.num_parts; part++)
            for (int64_t i = 0; i < instance.shape.head_dim_v; i++)
                if (instance.partial_lse.load({part, index[0], index[1]}) > -INFINITY)
                    largest = std::fmax(largest, std::fabs(instance.partial_out.load({part, index[0], index[1], i})));
        int32_t dtype = instance.shape.out.dtype;
        return near(hattn_reference_load(got, dtype, 0), hattn_reference_load(want, dtype, 0),
                    out_tolerance(dtype) * largest, why);
    };
}

Rule merged_lse_rule(const Instance &instance)
{
    return [&instance](const Index &index, const uint8_t *got, const uint8_t *want, std::string *why) {
        double largest = 1;
        for (int64_t part = 0; part < instance.problem.num_parts; part++) {
            double lse = instance.partial_lse.load({part, index[0], index[1]});
            largest = std::isfinite(lse) ? std::fmax(largest, std::fabs(lse)) : largest;
        }
        return near(hattn_reference_load(got, HATTN_F32, 0), hattn_reference_load(want, HATTN_F32, 0),
                    lse_tolerance(HATTN_F32) * largest, why);
    };
}

} // namespace conformance
