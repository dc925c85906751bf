/* SPDX-License-Identifier: Apache-2.0
 * The real numbers of an instance: queries, caches, maps, parts. data_codes.cc has what is counted.
 */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "conformance/instance.h"
#include "reference/reference.h"

namespace conformance {
namespace {

const double NOT_A_NUMBER = std::numeric_limits<double>::quiet_NaN();

/* Draws from 4096 normal values that are already rounded to the dtype: fast enough for caches of gigabytes. */
class Normals
{
public:
    Normals(int32_t dtype, double deviation, Rng *rng)
        : size_(dtype_size(dtype)), rng_(rng), table_(table_of(dtype, deviation))
    {
    }

    void fill(uint8_t *elements, int64_t n)
    {
        switch (size_) {
        case 1: draw<1>(elements, n); break;
        case 2: draw<2>(elements, n); break;
        default: draw<4>(elements, n); break;
        }
    }

private:
    static const int COUNT = 4096, BITS = 12;

    /* Made once: small problems draw fewer values than it has. */
    static const std::vector<uint8_t> &table_of(int32_t dtype, double deviation)
    {
        static auto *const tables = new std::map<std::pair<int32_t, double>, std::vector<uint8_t>>;
        std::vector<uint8_t> &table = (*tables)[{dtype, deviation}];
        if (table.empty()) {
            Rng rng(dtype, "normals");
            Tensor values("normals", dtype, {COUNT}, nullptr, Region::AT_START, 0);
            for (int i = 0; i < COUNT; i++)
                values.store({i}, static_cast<float>(rng.normal() * deviation));
            table.assign(values.memory->data(), values.memory->data() + COUNT * dtype_size(dtype));
        }
        return table;
    }

    template <size_t size>
    void draw(uint8_t *elements, int64_t n)
    {
        uint64_t bits = 0;
        for (int64_t i = 0; i < n; i++) {
            bits = i % 5 ? bits >> BITS : rng_->next();
            memcpy(elements + i * size, table_.data() + bits % COUNT * size, size);
        }
    }

    size_t size_;
    Rng *rng_;
    const std::vector<uint8_t> &table_;
};

void fill_row(const Tensor &tensor, Index index, double value)
{
    for (int64_t i = 0; i < tensor.extent[tensor.rank - 1]; i++) {
        index[tensor.rank - 1] = i;
        tensor.store(index, value);
    }
}

/* Subnormal numbers, but for large ones in every other dimension from `large` on; -1: none. Those of queries meet those of keys in
 * other dimensions, so that logits are of either's subnormal numbers. */
void fill_subnormal(const Tensor &tensor, Index index, int large, Rng rng)
{
    const bool f16 = tensor.dtype == HATTN_F16, f8 = tensor.dtype == HATTN_F8_E4M3;
    const double normal = f16 ? 0x1p-14 : f8 ? 0x1p-6 : 0x1p-126, many = f16 ? 0x1p12 : f8 ? 0x1p6 : 0x1p80;
    for (int64_t i = 0; i < tensor.extent[tensor.rank - 1]; i++) {
        index[tensor.rank - 1] = i;
        const double below = static_cast<double>(rng.between(-999, 999)) / 1000 * normal;
        tensor.store(index, i % 2 == large ? many * rng.normal() : below);
    }
}

/* Key number j of n; all of one head draw from the same bases. */
void fill_key(const Tensor &tensor, const Index &index, Pattern pattern, int64_t j, int64_t n, uint64_t base,
              Normals *normals)
{
    int64_t d = tensor.extent[tensor.rank - 1];
    auto from_base = [&](uint64_t which) {
        Rng rng(base + which, "base");
        for (Index i = index; i[tensor.rank - 1] < d; i[tensor.rank - 1]++)
            tensor.store(i, rng.normal());
    };
    switch (pattern) {
    case Pattern::RANDOM:
    case Pattern::LOWEST_WEIGHT:
    case Pattern::SAMPLED_APART: normals->fill(tensor.at(index), d); break;
    case Pattern::ZERO: fill_row(tensor, index, 0); break;
    case Pattern::EQUAL:
    case Pattern::HUGE_VALUES: from_base(0); break;
    case Pattern::ALTERNATING: from_base(j % 2); break;
    case Pattern::CLUSTERED:
        from_base(j / 16);
        normals->fill(tensor.at(index), d / 8);
        break;
    case Pattern::BY_TIME:
        from_base(0);
        for (Index i = index; i[tensor.rank - 1] < d; i[tensor.rank - 1]++)
            tensor.store(i, tensor.load(i) * static_cast<double>(j + 1) / static_cast<double>(n));
        break;
    case Pattern::OVERFLOW: fill_row(tensor, index, j % 3 == 1 ? -1 : 1); break;
    case Pattern::BIASED:
        from_base(0);
        for (auto [i, noise] = std::pair(index, Rng(base + j, "noise")); i[tensor.rank - 1] < d; i[tensor.rank - 1]++)
            tensor.store(i, tensor.load(i) + noise.normal() / 64);
        break;
    case Pattern::NOT_A_NUMBER:
        normals->fill(tensor.at(index), d);
        if (j % 11 == 7)
            tensor.store(index, NOT_A_NUMBER);
        break;
    case Pattern::LAST_IS_NONE:
        normals->fill(tensor.at(index), d);
        if (j == n - 1)
            tensor.store(index, NOT_A_NUMBER);
        break;
    case Pattern::INFINITE:
        normals->fill(tensor.at(index), d);
        if (j % 11 == 7 && (index[2] == 0 || j % 5 == 2)) /* the other heads see one sign */
            tensor.store(index, index[2] ? INFINITY : j % 2 ? INFINITY : -INFINITY);
        break;
    case Pattern::NOTHING:
        normals->fill(tensor.at(index), d);
        tensor.store(index, -INFINITY);
        break;
    case Pattern::SUBNORMAL: fill_subnormal(tensor, index, j % 2 ? -1 : 1, Rng(base + j, "subnormal")); break;
    }
}

/* Value number j of n. */
void fill_value(const Tensor &tensor, Index index, Pattern pattern, int64_t j, int64_t n, Normals *normals)
{
    const double largest = tensor.dtype == HATTN_F16 ? 60000 : tensor.dtype == HATTN_F8_E4M3 ? 448 : 3e38;
    normals->fill(tensor.at(index), tensor.extent[3]);
    if (pattern == Pattern::NOTHING)
        for (int64_t i = j % 3; i < tensor.extent[3]; i += 3)
            tensor.store({index[0], index[1], index[2], i}, i % 2 ? INFINITY : NOT_A_NUMBER);
    if (pattern == Pattern::LAST_IS_NONE && j == n - 1)
        for (int64_t i = 0; i < tensor.extent[3]; i++)
            tensor.store({index[0], index[1], index[2], i}, NOT_A_NUMBER);
    if (pattern == Pattern::SUBNORMAL)
        fill_subnormal(tensor, index, -1, Rng(64 * j + index[2], "subnormal"));
    if (pattern == Pattern::HUGE_VALUES)
        for (int64_t i = 0; i < tensor.extent[3]; i++)
            tensor.store({index[0], index[1], index[2], i}, (i % 2 ? -largest : largest) / (1 + (i + j) % 4 / 2));
}

} // namespace

void Instance::make_caches()
{
    Rng rng(seed, "caches");
    q = make("q", &hattn_problem::q);
    Normals q_normals(q.dtype, 1, &rng);
    for (int row = 0; row < static_cast<int>(rows.size()); row++) {
        for (int h = 0; h < shape.num_q_heads; h++) {
            Index index = {row, h};
            if (problem.pattern == Pattern::ZERO || problem.pattern == Pattern::OVERFLOW)
                fill_row(q, index, problem.pattern == Pattern::ZERO ? 0 : 1);
            else if (problem.pattern == Pattern::SUBNORMAL)
                fill_subnormal(q, index, row % 2 ? -1 : 0, Rng(64 * row + h, "subnormal"));
            else
                q_normals.fill(q.at(index), shape.head_dim_qk);
        }
        if (problem.pattern == Pattern::NOT_A_NUMBER && row == 1)
            q.store({row, 0, 3}, NOT_A_NUMBER);
        if (problem.pattern == Pattern::INFINITE && row == 1)
            q.store({row, 0, 3}, INFINITY);
        for (int h = 0; h < shape.num_q_heads && problem.pattern == Pattern::NOTHING; h++)
            q.store({row, h, 0}, 1);
    }

    k_cache = make("k_cache", &hattn_problem::k_cache);
    v_cache = make("v_cache", &hattn_problem::v_cache);
    if (problem.v_inside_k) {
        v_cache.memory = k_cache.memory;
        v_cache.first = problem.v_offset;
    }
    if (problem.kv_on_host) {
        k_cache.memory->keep_on_host();
        if (!problem.v_on_device)
            v_cache.memory->keep_on_host();
    }
    k_new = make("k_new", &hattn_problem::k_new);
    Normals normals(k_cache.dtype, 1, &rng);
    for (int b = 0; b < static_cast<int>(problem.lengths.size()); b++) {
        for (int j = 0; j < cached_length(b); j++) {
            for (int g = 0; g < shape.num_kv_heads; g++) {
                fill_key(k_cache, cache_index(b, j, g), problem.pattern, j, cached_length(b), seed + 64 * g, &normals);
                if (!problem.v_inside_k)
                    fill_value(v_cache, cache_index(b, j, g), problem.pattern, j, cached_length(b), &normals);
            }
        }
    }
    for (int t = 0; t < problem.num_tokens; t++)
        for (int g = 0; g < shape.num_kv_heads; g++)
            fill_key(k_new, {t, g}, problem.pattern, t, problem.num_tokens, seed + 64 * g, &normals);

    if (problem.kv_scales != Scales::NONE) {
        int64_t n = problem.kv_scales == Scales::ONE ? 1 : shape.num_kv_heads;
        const double odd[] = {-0.5, 0, 64, 1};
        k_scale = make_vector("k_scale", HATTN_F32, n);
        if (!problem.k_scale_alone)
            v_scale = make_vector("v_scale", HATTN_F32, n);
        for (int64_t i = 0; i < n; i++) {
            k_scale.store({i}, problem.odd_scales ? odd[i % 4] : 0.25 + 0.001 * static_cast<double>(rng.below(1000)));
            const double v =
                problem.odd_scales ? odd[(i + 1) % 4] : 0.25 + 0.001 * static_cast<double>(rng.below(3000));
            if (v_scale)
                v_scale.store({i}, v);
        }
    }
    if (problem.sink_logits) {
        sink_logits = make_vector("sink_logits", HATTN_F32, shape.num_q_heads);
        for (int h = 0; h < shape.num_q_heads; h++)
            sink_logits.store({h}, 2 * rng.normal());
    }
}

void Instance::make_maps()
{
    Rng rng(seed, "maps");
    bool mlp = shape.map_kind == HATTN_MAP_MLP;
    auto make_map = [&](const std::string &name, const hattn_map &map, bool bias) {
        Map made;
        int64_t dims[4] = {shape.head_dim_qk, mlp ? map.hidden[0] : shape.code_bits, map.hidden[1], shape.code_bits};
        for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
            std::string suffix = "[" + std::to_string(layer) + "]";
            int64_t in = dims[layer], out = dims[layer + 1], heads = shape.num_code_heads;
            Tensor &weight = made.weight[layer] = Tensor(name + ".weight" + suffix, map.dtype, {heads, in, out},
                                                         map.weight_stride[layer], side(name + suffix), 0xFF);
            /* Projections of subnormal numbers are normal ones, of which a bound is relative. */
            const double size = problem.pattern == Pattern::SUBNORMAL && map.dtype != HATTN_F16 ? 0x1p24 : 1;
            Normals normals(map.dtype, size / std::sqrt(static_cast<double>(in)), &rng);
            for (int c = 0; c < heads; c++) {
                for (int i = 0; i < in; i++) {
                    if (problem.pattern == Pattern::OVERFLOW)
                        fill_row(weight, {c, i}, 1);
                    else
                        normals.fill(weight.at({c, i}), out);
                }
            }
            if (!bias)
                continue;
            Tensor &biases = made.bias[layer] = Tensor(name + ".bias" + suffix, map.dtype, {heads, out},
                                                       &map.bias_stride[layer], side(name + "b" + suffix), 0xFF);
            for (int c = 0; c < heads; c++)
                normals.fill(biases.at({c}), out);
        }
        return made;
    };
    key_map = make_map("key_map", shape.key_map, mlp || problem.key_bias);
    query_map = problem.shared_map ? key_map : make_map("query_map", shape.query_map, mlp);
    if (problem.shared_map && !mlp)
        query_map.bias[0] = Tensor();
}

/* Parts for merge: some are empty, their out then is no number; of the last row all are. */
void Instance::make_parts()
{
    Rng rng(seed, "parts");
    partial_out = make("partial_out", &hattn_problem::partial_out);
    partial_lse = make("partial_lse", &hattn_problem::partial_lse);
    Normals normals(HATTN_F32, 1, &rng);
    partial_lse.for_each([&](const Index &index) {
        bool empty = rng.chance(20) || (index[1] && index[1] + 1 == static_cast<int64_t>(rows.size()));
        partial_lse.store(index, empty ? -INFINITY : rng.chance(10) ? 50 * rng.normal() : 3 * rng.normal());
        if (!empty)
            normals.fill(partial_out.at({index[0], index[1], index[2]}), shape.head_dim_v);
        for (int64_t i = 0; !empty && problem.pattern == Pattern::HUGE_VALUES && i < shape.head_dim_v; i++)
            partial_out.store({index[0], index[1], index[2], i}, i % 2 ? -3e38 : 3e38);
    });
}

} // namespace conformance
