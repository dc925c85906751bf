/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda_runtime.h>

#include <iterator>
#include <type_traits>

#include "devices/cuda.h"
#include "devices/cuda_check.cuh"

namespace devices {
namespace {

enum { THREADS = 256, PIECE = 16 /* bytes of a load */ };

/* Sums that no data gives go here, so that no load is optimised away. */
__device__ uint32_t read_result;

__device__ inline void keep(uint32_t sum)
{
    if (sum == 0x9e3779b9u)
        read_result = sum;
}

template <int IN_FLIGHT, typename Fn>
__device__ inline void for_each_piece(size_t num_pieces, Fn fn)
{
    const size_t tile = size_t(THREADS) * IN_FLIGHT, whole = num_pieces / tile * tile;
    for (size_t first = blockIdx.x * tile; first < whole; first += gridDim.x * tile)
        fn(first + threadIdx.x, IN_FLIGHT);
    for (size_t i = whole + size_t(blockIdx.x) * THREADS + threadIdx.x; i < num_pieces;
         i += size_t(gridDim.x) * THREADS)
        fn(i, 1);
}

template <int IN_FLIGHT>
__global__ void read_pieces(const uint4 *data, size_t num_pieces)
{
    uint32_t sum = 0;
    for_each_piece<IN_FLIGHT>(num_pieces, [&](size_t first, int count) {
        uint4 piece[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            piece[i] = i < count ? data[first + size_t(i) * THREADS] : uint4{};
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            sum ^= piece[i].x ^ piece[i].y ^ piece[i].z ^ piece[i].w;
    });
    keep(sum);
}

template <int IN_FLIGHT>
__global__ void copy_pieces(uint4 *to, const uint4 *from, size_t num_pieces)
{
    for_each_piece<IN_FLIGHT>(num_pieces, [&](size_t first, int count) {
        uint4 piece[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            piece[i] = i < count ? from[first + size_t(i) * THREADS] : uint4{};
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            if (i < count)
                to[first + size_t(i) * THREADS] = piece[i];
    });
}

/* LANES neighbouring threads read a row; each has IN_FLIGHT rows of the list in flight. */
template <int LANES, int IN_FLIGHT>
__global__ void gather_rows(const uint4 *data, size_t pieces, const uint32_t *rows, int64_t num_rows)
{
    const int64_t team = (int64_t(blockIdx.x) * THREADS + threadIdx.x) / LANES,
                  num_teams = int64_t(gridDim.x) * THREADS / LANES;
    uint32_t sum = 0;
    for (int64_t first = team * IN_FLIGHT; first < num_rows; first += num_teams * IN_FLIGHT) {
        const uint4 *row[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            row[i] = data + rows[first + i < num_rows ? first + i : first] * pieces;
        for (size_t column = threadIdx.x % LANES; column < pieces; column += LANES) {
            uint4 piece[IN_FLIGHT];
#pragma unroll
            for (int i = 0; i < IN_FLIGHT; i++)
                piece[i] = row[i][column];
#pragma unroll
            for (int i = 0; i < IN_FLIGHT; i++)
                sum ^= piece[i].x ^ piece[i].y ^ piece[i].z ^ piece[i].w;
        }
    }
    keep(sum);
}

struct Way {
    int in_flight;               /* 2, 4 or 8 loads of a thread */
    int blocks_a_multiprocessor; /* 0: a block for each tile */
};

/* Which wins differs between cards and sizes: few blocks with many loads, or many blocks. */
const Way READ_WAYS[] = {{4, 4}, {4, 8}, {8, 4}, {8, 8}, {4, 0}, {8, 0}};
const Way GATHER_WAYS[] = {{2, 8}, {4, 4}, {4, 8}, {8, 4}, {8, 8}, {4, 0}};
const Way COPY_WAYS[] = {{4, 8}, {8, 0}}; /* and the runtime's own */

unsigned num_blocks(const Way &way, size_t num_tiles)
{
    const size_t most = way.blocks_a_multiprocessor
                            ? size_t(way.blocks_a_multiprocessor) * size_t(num_multiprocessors())
                            : size_t(1) << 30;
    return unsigned(num_tiles < 1 ? 1 : num_tiles < most ? num_tiles : most);
}

/* fn(std::integral_constant of the way's loads in flight). */
template <typename Fn>
void with_in_flight(const Way &way, Fn fn)
{
    switch (way.in_flight) {
    case 2: return fn(std::integral_constant<int, 2>());
    case 4: return fn(std::integral_constant<int, 4>());
    default: return fn(std::integral_constant<int, 8>());
    }
}

class CudaProbe : public Probe
{
public:
    int num_read_ways() const override { return int(std::size(READ_WAYS)); }
    int num_gather_ways() const override { return int(std::size(GATHER_WAYS)); }
    int num_copy_ways() const override { return int(std::size(COPY_WAYS)) + 1; }

    void read(int index, const void *data, size_t size, void *stream) const override
    {
        const Way &way = READ_WAYS[index];
        const size_t pieces = size / PIECE;
        with_in_flight(way, [&](auto in_flight) {
            const unsigned blocks = num_blocks(way, pieces / (THREADS * in_flight));
            read_pieces<in_flight>
                <<<blocks, THREADS, 0, cudaStream_t(stream)>>>(static_cast<const uint4 *>(data), pieces);
        });
        check(cudaGetLastError());
    }

    void copy(int index, void *to, const void *from, size_t size, void *stream) const override
    {
        if (index == int(std::size(COPY_WAYS)))
            return check(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, cudaStream_t(stream)));
        const Way &way = COPY_WAYS[index];
        const size_t pieces = size / PIECE;
        with_in_flight(way, [&](auto in_flight) {
            const unsigned blocks = num_blocks(way, pieces / (THREADS * in_flight));
            copy_pieces<in_flight><<<blocks, THREADS, 0, cudaStream_t(stream)>>>(
                static_cast<uint4 *>(to), static_cast<const uint4 *>(from), pieces);
        });
        check(cudaGetLastError());
    }

    void gather(int index, const void *data, size_t row_bytes, const uint32_t *rows, int64_t num_rows,
                void *stream) const override
    {
        const Way &way = GATHER_WAYS[index];
        const size_t pieces = row_bytes / PIECE;
        with_in_flight(way, [&](auto in_flight) {
            const auto launch = [&](auto lanes) {
                const unsigned blocks = num_blocks(way, size_t(num_rows) * lanes / (THREADS * in_flight));
                gather_rows<lanes, in_flight><<<blocks, THREADS, 0, cudaStream_t(stream)>>>(
                    static_cast<const uint4 *>(data), pieces, rows, num_rows);
            };
            if (pieces % 32 == 0)
                launch(std::integral_constant<int, 32>());
            else if (pieces % 16 == 0)
                launch(std::integral_constant<int, 16>());
            else if (pieces % 8 == 0)
                launch(std::integral_constant<int, 8>());
            else
                launch(std::integral_constant<int, 4>());
        });
        check(cudaGetLastError());
    }
};

} // namespace

const Probe *cuda_probe()
{
    static const CudaProbe probe;
    return &probe;
}

} // namespace devices
