/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/ceiling.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <iterator>

enum { LINE = 64 };

/* Bytes. */
static const size_t MAX_STREAM = size_t(1) << 30;
/* Milliseconds of work: starting threads is no part of the ceiling. */
static const int64_t MIN_GATHER = int64_t(32) << 20;
static const size_t STREAM_PREFETCH[] = {0, 2048, 4096};

/* How a thread brings its rows in. Measured best: on Zen 4 the prefetched blocks, up to twice the plain reads (more
 * requests may be in flight to L2 than to L1); on a Granite Rapids guest the touched block (prefetch gains little). */
struct GatherWay {
    enum How { PLAIN, PREFETCH_AHEAD, PREFETCH_BLOCK, TOUCH_BLOCK } how;
    int64_t num_rows; /* ahead, or of a block */
};
static const GatherWay GATHER_WAYS[] = {
    {GatherWay::PLAIN, 64},           {GatherWay::PREFETCH_AHEAD, 32}, {GatherWay::PREFETCH_BLOCK, 64},
    {GatherWay::PREFETCH_BLOCK, 128}, {GatherWay::TOUCH_BLOCK, 64},
};

/* The sums go here, so that no read is optimised away. */
static volatile uint64_t read_result;

/* Reads `size` bytes, a multiple of 64, and prefetches `ahead` bytes past where it is; 0: no prefetch. */
typedef uint64_t ReadLines(const uint8_t *data, size_t size, size_t ahead);

/* A cache line, as one register where the instruction set has such wide ones. */
typedef uint64_t Line __attribute__((vector_size(LINE)));

__attribute__((always_inline)) static inline void add_line(Line &sum, const uint8_t *data)
{
    Line line;
    std::memcpy(&line, data, LINE);
    sum ^= line;
}

__attribute__((always_inline)) static inline uint64_t read_lines_body(const uint8_t *data, size_t size, size_t ahead)
{
    Line a = {}, b = {}, c = {}, d = {}; /* by name: an array of four would live on the stack */
    size_t i = 0;
    for (; i + 4 * LINE <= size; i += 4 * LINE) {
        const uint8_t *lines = data + i;
        if (ahead) {
            __builtin_prefetch(lines + ahead, 0, 2);
            __builtin_prefetch(lines + ahead + LINE, 0, 2);
            __builtin_prefetch(lines + ahead + 2 * LINE, 0, 2);
            __builtin_prefetch(lines + ahead + 3 * LINE, 0, 2);
        }
        add_line(a, lines);
        add_line(b, lines + LINE);
        add_line(c, lines + 2 * LINE);
        add_line(d, lines + 3 * LINE);
    }
    for (; i < size; i += LINE)
        add_line(a, data + i);
    a ^= b ^ c ^ d;
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

static uint64_t read_lines_portable(const uint8_t *data, size_t size, size_t ahead)
{
    return read_lines_body(data, size, ahead);
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_lines_avx512(const uint8_t *data, size_t size, size_t ahead)
{
    return read_lines_body(data, size, ahead);
}
#endif

static ReadLines *choose_read_lines()
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return read_lines_avx512;
#endif
    return read_lines_portable;
}

static uint64_t touch_row(const uint8_t *row, size_t size)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i += LINE)
        sum += row[i];
    return sum;
}

/* Into L2: into L1 it is no faster than plain reads. */
static void prefetch_row(const uint8_t *row, size_t size)
{
    for (size_t i = 0; i < size; i += LINE)
        __builtin_prefetch(row + i, 0, 2);
}

/* One thread's part of the rows. */
static uint64_t gather_rows(const uint8_t *const *rows, int64_t num_rows, size_t row_bytes, const GatherWay &way)
{
    static ReadLines *const read_lines = choose_read_lines();
    uint64_t sum = 0;
    for (int64_t first = 0; first < num_rows; first += way.num_rows) {
        int64_t end = std::min(first + way.num_rows, num_rows);
        for (int64_t i = first; i < end && way.how == GatherWay::PREFETCH_BLOCK; i++)
            prefetch_row(rows[i], row_bytes);
        for (int64_t i = first; i < end && way.how == GatherWay::TOUCH_BLOCK; i++)
            sum ^= touch_row(rows[i], row_bytes);
        for (int64_t i = first; i < end; i++) {
            if (way.how == GatherWay::PREFETCH_AHEAD)
                prefetch_row(rows[std::min(i + way.num_rows, num_rows - 1)], row_bytes);
            sum ^= read_lines(rows[i], row_bytes, 0);
        }
    }
    return sum;
}

HostCeiling::HostCeiling(const uint8_t *data, size_t size, int num_threads, const GatherShape &gather)
    : Ceiling(std::size(STREAM_PREFETCH), std::size(GATHER_WAYS), 0), data_(data), size_(size / LINE * LINE),
      num_threads_(num_threads), gather_(gather), draw_(size_, gather)
{
}

double HostCeiling::stream(size_t way)
{
    static ReadLines *const read_lines = choose_read_lines();
    size_t part = std::min(size_, MAX_STREAM) / size_t(num_threads_) / LINE * LINE;
    uint64_t sum = 0;
    double start = now_us();
#pragma omp parallel num_threads(num_threads_) reduction(^ : sum)
    sum ^= read_lines(data_ + size_t(omp_get_thread_num()) * part, part, STREAM_PREFETCH[way]);
    double us = now_us() - start;
    read_result = sum;
    return double(part) * num_threads_ / us * 1e-3;
}

double HostCeiling::gather(size_t way)
{
    const size_t row_bytes = size_t(gather_.row_bytes);
    std::vector<const uint8_t *> rows;
    for (uint32_t row : draw_.rows(MIN_GATHER / gather_.row_bytes))
        rows.push_back(data_ + size_t(row) * row_bytes);
    const int64_t num_rows = int64_t(rows.size());
    uint64_t sum = 0;
    double start = now_us();
#pragma omp parallel num_threads(num_threads_) reduction(^ : sum)
    {
        int64_t rank = omp_get_thread_num();
        int64_t first = num_rows * rank / num_threads_, end = num_rows * (rank + 1) / num_threads_;
        sum ^= gather_rows(rows.data() + first, end - first, row_bytes, GATHER_WAYS[way]);
    }
    double us = now_us() - start;
    read_result = sum;
    return double(num_rows) * double(row_bytes) / us * 1e-3;
}
