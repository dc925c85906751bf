/* SPDX-License-Identifier: Apache-2.0
 * What this machine's memory allows, measured the way the kernels use it and in the same rounds: the percentages that
 * hattn bench prints refer to it.
 *
 * Stream: all threads read 1 GiB (or all there is), each its own part, plain and with prefetch 2 and 4 KiB ahead.
 * Gather: all threads read sorted random rows, k of n, from one matrix after the other: plain, with prefetch some rows
 * ahead, and in bursts (a whole block of rows prefetched or touched, then read out of the cache).
 * A ceiling is the median of its samples, of the way where that is largest.
 */
#ifndef HATTN_BENCH_CEILING_H
#define HATTN_BENCH_CEILING_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bench/timer.h"

struct GatherShape {
    int64_t num_rows;     /* n */
    int64_t num_selected; /* k */
    int64_t row_bytes;    /* a multiple of 64 */
};

class Ceiling
{
public:
    /* The memory outlives the ceiling and holds at least one matrix. */
    Ceiling(const uint8_t *data, size_t size, int num_threads, const GatherShape &gather);

    /* Every way once. */
    void sample();

    double stream_gbps() const;
    double gather_gbps() const;

private:
    double stream(size_t prefetch_bytes) const;
    double gather(size_t way);

    const uint8_t *data_;
    size_t size_;
    int num_threads_;
    GatherShape gather_;
    uint64_t draws_ = 0; /* selections made: every one is new, so that its rows are cold */
    int64_t next_matrix_ = 0;
    std::vector<Samples> streams_, gathers_;
};

#endif
