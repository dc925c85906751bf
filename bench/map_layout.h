/* SPDX-License-Identifier: Apache-2.0
 * Where the weights and biases of a hash map lie: one layer after the other, aligned.
 */
#ifndef HATTN_BENCH_MAP_LAYOUT_H
#define HATTN_BENCH_MAP_LAYOUT_H

#include "api/hattn.h"
#include "bench/fill.h"
#include "core/dtype.h"

const size_t ALIGNMENT = 256;

inline size_t round_up(size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

inline size_t map_layers(const hattn_problem &shape) { return shape.map_kind == HATTN_MAP_MLP ? 3 : 1; }

/* Inputs of layer i of a map, and with i = the number of layers its outputs. */
inline size_t map_width(const hattn_problem &shape, const hattn_map &map, size_t i)
{
    return size_t(i == 0 ? shape.head_dim_qk : i == map_layers(shape) ? shape.code_bits : map.hidden[i - 1]);
}

/* Weights and biases, aligned: calls fn(layer, offset of weights, offset of biases) for each layer, returns the end. */
template <typename Fn>
size_t walk_map(const hattn_problem &shape, const hattn_map &map, Fn fn)
{
    size_t heads = size_t(shape.num_code_heads), element = size_t(hattn_dtype_size(map.dtype)), used = 0;
    for (size_t i = 0; i < map_layers(shape); i++) {
        size_t weight = used;
        used += round_up(heads * map_width(shape, map, i) * map_width(shape, map, i + 1) * element);
        size_t bias = used;
        used += round_up(heads * map_width(shape, map, i + 1) * element);
        fn(i, weight, bias);
    }
    return used;
}

/* What a call reads of a map. */
inline double map_bytes(const hattn_problem &shape, const hattn_map &map, bool biases)
{
    double elements = 0;
    for (size_t i = 0; i < map_layers(shape); i++)
        elements += double((map_width(shape, map, i) + biases) * map_width(shape, map, i + 1));
    return elements * shape.num_code_heads * double(size_t(hattn_dtype_size(map.dtype)));
}

#endif
