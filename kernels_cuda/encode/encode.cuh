/* SPDX-License-Identifier: Apache-2.0
 * Hash maps in shared memory: fp32 sums, a few vectors at a time so that a weight is read once for all of them.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_ENCODE_CUH
#define HATTN_KERNELS_CUDA_ENCODE_ENCODE_CUH

#include <cstring>

#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

constexpr int kVectors = 4;       /* of one block at most: more would cost scoring kernels their registers */
constexpr int kPartFloats = 8192; /* partial sums that fit beside the rest: 32 KiB */

/* Where one key's code (and norm) goes; page < 0: nowhere. */
struct Place {
    int64_t page;
    int32_t slot;
};

/* Of a slot number of hattn_encode_keys, negative ones included. Shifts and 32 bits where they do: a division of 64
 * is ten times as long. */
__device__ inline Place place_of_slot(const hattn_problem &p, int64_t slot)
{
    const uint32_t slots = static_cast<uint32_t>(p.page_size ? p.page_size : p.max_length);
    if (slot < 0)
        return {-1, 0};
    if ((slots & (slots - 1)) == 0)
        return {slot >> count_ones(slots - 1), static_cast<int32_t>(slot & (slots - 1))};
    if (slot <= UINT32_MAX)
        return {static_cast<uint32_t>(slot) / slots, static_cast<int32_t>(static_cast<uint32_t>(slot) % slots)};
    return {slot / slots, static_cast<int32_t>(slot % slots)};
}

/* Shared memory of a block that encodes. */
struct EncodeSpace {
    int num_vectors;  /* 1 or 4 */
    float *x;         /* [num_vectors, head_dim_qk] */
    float *z;         /* [num_vectors, code_bits] */
    float *hidden[2]; /* MLP: [num_vectors, hidden] */
    float *parts;     /* wide layers: [kWarps, num_vectors, outputs] */
};

/* How many vectors a block takes at a time when there are `wanted`. */
__host__ __device__ inline int vectors_of(int wanted) { return wanted == 1 ? 1 : kVectors; }

/* Outputs of a layer that is summed by all warps together, rather than a thread an output. */
__host__ __device__ inline bool fits_parts(int num_vectors, int num_outputs)
{
    return kWarps * num_vectors * num_outputs <= kPartFloats &&
           (num_outputs == 32 || num_outputs == 64 || num_outputs == 128 || num_outputs == 256);
}

/* Carves shared memory, or only counts its floats. */
__host__ __device__ inline EncodeSpace carve_encode_space(const hattn_problem &p, const hattn_map &map, int num_vectors,
                                                          float *shared, size_t *num_floats)
{
    const bool mlp = p.map_kind == HATTN_MAP_MLP;
    const int outputs[3] = {mlp ? map.hidden[0] : 0, mlp ? map.hidden[1] : 0, p.code_bits};
    EncodeSpace space = {num_vectors, nullptr, nullptr, {nullptr, nullptr}, nullptr};
    size_t used = 0, parts = 0;
    auto take = [&](size_t floats) {
        float *start = shared + used;
        used += (floats + 3) / 4 * 4;
        return start;
    };
    space.x = take(static_cast<size_t>(num_vectors) * p.head_dim_qk);
    space.z = take(static_cast<size_t>(num_vectors) * p.code_bits);
    for (int i = 0; i < 2; i++)
        space.hidden[i] = take(static_cast<size_t>(num_vectors) * outputs[i]);
    for (int i = 0; i < 3; i++)
        if (outputs[i] && fits_parts(num_vectors, outputs[i]) &&
            parts < static_cast<size_t>(kWarps) * num_vectors * outputs[i])
            parts = static_cast<size_t>(kWarps) * num_vectors * outputs[i];
    space.parts = take(parts);
    *num_floats = used;
    return space;
}

__host__ inline size_t encode_space_bytes(const hattn_problem &p, const hattn_map &map, int num_vectors)
{
    size_t floats;
    carve_encode_space(p, map, num_vectors, nullptr, &floats);
    return floats * sizeof(float);
}

/* One linear layer in shared memory: z[v][o] = sum over i of x[v][i] * weight[i][o] + bias[o]. */
template <class W>
struct Layer {
    const float *x;
    float *z;
    int num_inputs, num_outputs;
    const W *weight;
    int64_t stride;
    const W *bias; /* or NULL */

    __device__ float start(int o) const { return bias ? to_float(bias[o]) : 0.0f; }
};

/* A thread an output. Ends with a barrier. */
template <int kNum, class W>
__device__ inline void apply_narrow(const Layer<W> &layer)
{
    for (int o = threadIdx.x; o < layer.num_outputs; o += kThreads) {
        float z[kNum];
        for (int v = 0; v < kNum; v++)
            z[v] = layer.start(o);
#pragma unroll 8
        for (int i = 0; i < layer.num_inputs; i++) {
            const float w = to_float(layer.weight[i * layer.stride + o]);
            for (int v = 0; v < kNum; v++)
                z[v] = fmaf(layer.x[v * layer.num_inputs + i], w, z[v]);
        }
        for (int v = 0; v < kNum; v++)
            layer.z[v * layer.num_outputs + o] = z[v];
    }
    __syncthreads();
}

/* 16 bytes of weights a load, every warp a share of the inputs: all loads are in flight at once, which is what counts
 * when a map is read from DRAM by one block. Sums of warps meet in `parts`. Ends with a barrier. */
template <int kNum, class W>
__device__ inline void apply_wide(const Layer<W> &layer, float *parts)
{
    constexpr int kOutputs = 16 / sizeof(W); /* of a load */
    const int columns = layer.num_outputs / kOutputs,
              slices = kThreads / columns; /* at most 32 columns: those of a warp */
    const int column = static_cast<int>(threadIdx.x) % columns, slice = static_cast<int>(threadIdx.x) / columns;
    float z[kNum][kOutputs] = {};
#pragma unroll 8
    for (int i = slice; i < layer.num_inputs; i += slices) {
        const uint4 bits =
            load_constant(reinterpret_cast<const uint4 *>(layer.weight + i * layer.stride + column * kOutputs));
        W w[kOutputs];
        memcpy(w, &bits, sizeof(w));
        for (int v = 0; v < kNum; v++) {
            const float x = layer.x[v * layer.num_inputs + i];
            for (int o = 0; o < kOutputs; o++)
                z[v][o] = fmaf(x, to_float(w[o]), z[v][o]);
        }
    }
    for (int offset = columns; offset < 32; offset <<= 1) /* slices of one warp */
        for (int v = 0; v < kNum; v++)
            for (int o = 0; o < kOutputs; o++)
                z[v][o] += from_partner(z[v][o], offset);
    if (lane_id() < columns)
        for (int v = 0; v < kNum; v++)
            for (int o = 0; o < kOutputs; o++)
                parts[(warp_id() * kNum + v) * layer.num_outputs + column * kOutputs + o] = z[v][o];
    __syncthreads();
    for (int i = threadIdx.x; i < kNum * layer.num_outputs; i += kThreads) {
        float sum = layer.start(i % layer.num_outputs);
        for (int w = 0; w < kWarps; w++)
            sum += parts[w * kNum * layer.num_outputs + i];
        layer.z[i] = sum;
    }
    __syncthreads();
}

template <int kNum, class W>
__device__ inline void apply_layer(const Layer<W> &layer, float *parts)
{
    constexpr int kOutputs = 16 / sizeof(W); /* of a load */
    const bool aligned = layer.stride % kOutputs == 0 && reinterpret_cast<uintptr_t>(layer.weight) % 16 == 0;
    if (aligned && layer.num_outputs <= 32 * kOutputs && fits_parts(kNum, layer.num_outputs))
        apply_wide<kNum>(layer, parts);
    else
        apply_narrow<kNum>(layer);
}

/* The whole map of one code head, from space.x to space.z. All threads, after a barrier; ends with one. */
template <int kNum, class W>
__device__ inline void project(const hattn_problem &p, const hattn_map &map, const hattn_map_buffers &buffers,
                               int64_t code_head, const EncodeSpace &space)
{
    const int last = p.map_kind == HATTN_MAP_MLP ? 2 : 0;
    Layer<W> layer = {space.x, nullptr, p.head_dim_qk, 0, nullptr, 0, nullptr};
    for (int i = 0; i <= last; i++) {
        layer.num_outputs = i == last ? p.code_bits : map.hidden[i];
        layer.z = i == last ? space.z : space.hidden[i];
        layer.weight = static_cast<const W *>(hattn_address(buffers.weight[i])) + code_head * map.weight_stride[i][0];
        layer.stride = map.weight_stride[i][1];
        layer.bias = buffers.bias[i].data
                         ? static_cast<const W *>(hattn_address(buffers.bias[i])) + code_head * map.bias_stride[i]
                         : nullptr;
        apply_layer<kNum>(layer, space.parts);
        if (i < last) {
            for (int o = threadIdx.x; o < kNum * layer.num_outputs; o += kThreads)
                layer.z[o] = layer.z[o] / (1.0f + expf(-layer.z[o])); /* SiLU */
            __syncthreads();
        }
        layer.x = layer.z;
        layer.num_inputs = layer.num_outputs;
    }
}

template <class W>
__device__ inline void project(const hattn_problem &p, const hattn_map &map, const hattn_map_buffers &buffers,
                               int64_t code_head, const EncodeSpace &space)
{
    if (space.num_vectors == 1)
        project<1, W>(p, map, buffers, code_head, space);
    else
        project<kVectors, W>(p, map, buffers, code_head, space);
}

/* A linear map of 16-bit weights, and how far its rows (of one input) are apart. Both in 16 bytes: the plan sees to
 * it that rows are. */
struct MapRows {
    const uint4 *rows;
    uint32_t stride;
};

__host__ __device__ inline MapRows map_rows(const void *map, int64_t stride)
{
    return {static_cast<const uint4 *>(map), static_cast<uint32_t>(stride / 8)};
}

/* Asks for a map. All threads. */
__device__ inline void prefetch_map(const MapRows &map, int num_inputs, int num_outputs)
{
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < static_cast<uint32_t>(num_inputs); i += kThreads)
#pragma unroll 1
        for (int chunk = 0; chunk < num_outputs / 8; chunk += 8) /* a line */
            prefetch_line(map.rows + static_cast<uint64_t>(i) * map.stride + chunk);
}

/* Partial sums of warps in shared memory: rows of outputs, in the order of fragments, padded against bank conflicts. */
__host__ __device__ inline int mma_row(int code_bits) { return (code_bits + 63) / 64 * 64 + 8; }

/* Where bit r lies in such a row. */
__device__ inline uint32_t mma_place(uint32_t r) { return r / 64 * 64 + r / 2 % 4 * 16 + r / 8 % 8 * 2 + r % 2; }

/* How multiply_mma's warps share a map: 64 outputs each, in `shares` parts of the inputs. */
struct MapSplit {
    int blocks, shares;

    __host__ __device__ explicit MapSplit(int code_bits)
        : blocks(code_bits <= 64    ? 1
                 : code_bits <= 128 ? 2
                 : code_bits <= 256 ? 4
                                    : 8),
          shares(kWarps / blocks)
    {
    }
};

/* A linear map times up to 16 vectors of its own 16-bit type, on tensor cores: a warp takes 64 outputs and 16 inputs
 * at a time, as attention does its values: W^T through byte permutes, the vectors as columns. Few instructions, above
 * all before the first load: a block that works for a few microseconds runs each of them once, from a cold
 * instruction cache. sum_parts has the results after a barrier. */
template <class W>
class MapProduct
{
public:
    /* The vectors, at 4 bytes, are those of columns lane / 4 and 8 + lane / 4; NULL: zero. Reads nothing. */
    __device__ MapProduct(const MapRows &map, int num_outputs, const W *first_vector, const W *second_vector)
        : num_outputs_(num_outputs), stride_(map.stride), split_(num_outputs)
    {
        const int t = Fragment().pair, output = first_output(), input = first_input();
        const int used = output < num_outputs ? output : 0; /* others load what is there, for nothing */
        rows_ = map.rows + used / 8 + static_cast<uint64_t>(static_cast<uint32_t>(input + 2 * t)) * map.stride;
        pairs_[0] = first_vector ? reinterpret_cast<const uint32_t *>(first_vector + input) + t : nullptr;
        pairs_[1] = second_vector ? reinterpret_cast<const uint32_t *>(second_vector + input) + t : nullptr;
        compute_now(rows_);
        compute_now(pairs_[0]);
    }

    __device__ void prefetch_vectors(int num_inputs) const
    {
        for (const uint32_t *pairs : pairs_)
            if (pairs && first_input() < num_inputs)
                prefetch_line(pairs);
    }

    /* Of the first 8 * kBlocks columns, kSteps * 16 inputs at a time. meanwhile() is called when the first loads are
     * on their way. */
    template <int kBlocks, int kSteps, class Meanwhile>
    __device__ void multiply(int num_inputs, int num_columns, float *parts, Meanwhile meanwhile) const
    {
        const Fragment at;
        const int step = split_.shares * 16, first = first_input();
        float z[kBlocks][4][4] = {};
#pragma unroll 1
        for (int i = first; any_of_wave(i < num_inputs || i == first); i += kSteps * step) {
            uint4 v[kSteps][4];
            uint32_t x[kSteps][kBlocks][2] = {};
#pragma unroll
            for (int s = 0; s < kSteps; s++)
                if (i + s * step < num_inputs) {
                    const int done = i - first + s * step;
                    const uint4 *row = rows_ + static_cast<uint64_t>(static_cast<uint32_t>(done)) * stride_;
                    v[s][0] = load_row16(row);
                    v[s][1] = load_row16(row + stride_);
                    v[s][2] = load_row16(row + 8 * static_cast<uint64_t>(stride_));
                    v[s][3] = load_row16(row + 9 * static_cast<uint64_t>(stride_));
#pragma unroll
                    for (int b = 0; b < kBlocks; b++)
                        if (pairs_[b]) {
                            x[s][b][0] = pairs_[b][done / 2];
                            x[s][b][1] = pairs_[b][done / 2 + 4];
                        }
                } else if constexpr (kWarpsOfWave > 1) {
                    for (uint4 &row : v[s])
                        row = {};
                }
            if (i == first)
                meanwhile();
#pragma unroll
            for (int s = 0; s < kSteps; s++)
                if (any_of_wave(i + s * step < num_inputs)) {
                    const uint32_t *r0 = &v[s][0].x, *r1 = &v[s][1].x, *r2 = &v[s][2].x, *r3 = &v[s][3].x;
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const uint32_t a0 = low_halves(r0[j], r1[j]), a1 = high_halves(r0[j], r1[j]),
                                       a2 = low_halves(r2[j], r3[j]), a3 = high_halves(r2[j], r3[j]);
#pragma unroll
                        for (int b = 0; b < kBlocks; b++)
                            mma_16816<W>(z[b][j], a0, a1, a2, a3, x[s][b][0], x[s][b][1]);
                    }
                }
        }
        const int output = first_output(), stride_part = mma_row(num_outputs_), share = warp_id() / split_.blocks;
        if (output >= num_outputs_)
            return;
#pragma unroll
        for (int b = 0; b < kBlocks; b++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int column = 8 * b + at.column(c);
                if (column < num_columns) {
                    float *const row = parts + (share * num_columns + column) * stride_part + output -
                                       6 * at.group; /* mma_place(output) */
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        *reinterpret_cast<float2 *>(row + 16 * j) = make_float2(z[b][j][c], z[b][j][c + 2]);
                }
            }
    }

private:
    /* Of this lane's 8, and of this warp's 16. */
    __device__ int first_output() const { return warp_id() % split_.blocks * 64 + Fragment().group * 8; }

    __device__ int first_input() const { return warp_id() / split_.blocks * 16; }

    int num_outputs_;
    uint32_t stride_;
    MapSplit split_;
    const uint4 *rows_;        /* of the lane's first input */
    const uint32_t *pairs_[2]; /* of its first two inputs */
};

/* Bit r's output for a column. */
__device__ inline float sum_parts(const float *parts, int num_columns, int num_outputs, int column, int r)
{
    const int shares = MapSplit(num_outputs).shares, stride_part = mma_row(num_outputs),
              step = num_columns * stride_part;
    const float *part = parts + column * stride_part + mma_place(r);
    float z = 0.0f;
#pragma unroll 1
    for (int first = 0; first < shares; first += 4) {
#pragma unroll
        for (int s = 0; s < 4; s++, part += step)
            z += first + s < shares ? *part : 0.0f;
    }
    return z;
}

/* Floats of shared memory for parts of so many columns. */
__host__ __device__ inline int parts_floats(int num_columns, int num_outputs)
{
    return MapSplit(num_outputs).shares * num_columns * mma_row(num_outputs);
}

} // namespace hattn

#endif
