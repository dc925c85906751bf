/* SPDX-License-Identifier: Apache-2.0
 * What a memory allows, measured the way the kernels use it and in the same rounds: the percentages that hattn bench
 * prints refer to it. Each figure is measured in several ways; the ceiling is the median of the samples of the way where
 * that is largest.
 */
#ifndef HATTN_BENCH_CEILING_H
#define HATTN_BENCH_CEILING_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bench/timer.h"
#include "devices/buffer.h"
#include "devices/probe.h"
#include "devices/timing.h"

struct GatherShape {
    int64_t num_rows;     /* n */
    int64_t num_selected; /* k */
    int64_t row_bytes;    /* a multiple of 64 */
};

class Ceiling
{
public:
    virtual ~Ceiling() = default;

    /* Every way once. */
    void sample();

    double stream_gbps() const;
    double gather_gbps() const;
    double copy_gbps() const; /* bytes copied, each read and written; NaN where it is not measured */

protected:
    Ceiling(size_t num_streams, size_t num_gathers, size_t num_copies);

private:
    virtual double stream(size_t way) = 0;
    virtual double gather(size_t way) = 0;
    virtual double copy(size_t way);

    std::vector<Samples> streams_, gathers_, copies_;
};

/* Row numbers, sorted: k of n in one matrix after the other, at least `min_rows` of them. Every draw is new, so that its
 * rows are cold. */
class Draw
{
public:
    /* Matrices lie one after the other in `size` bytes, at least one of them. */
    Draw(size_t size, const GatherShape &shape);
    std::vector<uint32_t> rows(int64_t min_rows);

private:
    GatherShape shape_;
    int64_t num_matrices_, next_matrix_ = 0;
    uint64_t draws_ = 0;
};

/* Stream: all threads read 1 GiB (or all there is), each its own part, plain and with prefetch 2 and 4 KiB ahead.
 * Gather: all threads read random rows, plain, with prefetch some rows ahead, and in bursts (a whole block of rows
 * prefetched or touched, then read out of the cache). */
class HostCeiling : public Ceiling
{
public:
    /* The memory outlives the ceiling and holds at least one matrix. */
    HostCeiling(const uint8_t *data, size_t size, int num_threads, const GatherShape &gather);

private:
    double stream(size_t way) override;
    double gather(size_t way) override;

    const uint8_t *data_;
    size_t size_;
    int num_threads_;
    GatherShape gather_;
    Draw draw_;
};

/* The probe's kernels: reading 2 GiB (or all there is), gathering 256 MiB of rows, copying 512 MiB. */
class DeviceCeiling : public Ceiling
{
public:
    /* All of them outlive the ceiling. */
    DeviceCeiling(const devices::Memory &memory, devices::Stopwatch &stopwatch, const devices::Probe &probe,
                  const uint8_t *data, size_t size, const GatherShape &gather);
    /* What it allocates. */
    static const size_t MEMORY;

private:
    using Recordings = std::vector<std::unique_ptr<devices::Recording>>;

    double stream(size_t way) override { return double(stream_bytes_) / streams_[way]->replay() * 1e-3; }
    double gather(size_t way) override { return double(gather_bytes_) / gathers_[way]->replay() * 1e-3; }
    double copy(size_t way) override { return double(copy_to_.size()) / copies_[way]->replay() * 1e-3; }

    size_t stream_bytes_, gather_bytes_;
    devices::Buffer rows_, copy_to_;
    Recordings streams_, gathers_, copies_;
};

#endif
