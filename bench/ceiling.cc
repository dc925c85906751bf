/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/ceiling.h"

#include <algorithm>
#include <cmath>
#include <random>

Ceiling::Ceiling(size_t num_streams, size_t num_gathers, size_t num_copies)
    : streams_(num_streams), gathers_(num_gathers), copies_(num_copies)
{
}

double Ceiling::copy(size_t) { return std::nan(""); }

void Ceiling::sample()
{
    for (size_t i = 0; i < streams_.size(); i++)
        streams_[i].add(stream(i));
    for (size_t i = 0; i < gathers_.size(); i++)
        gathers_[i].add(gather(i));
    for (size_t i = 0; i < copies_.size(); i++)
        copies_[i].add(copy(i));
}

static double best_median(const std::vector<Samples> &variants)
{
    double best = 0;
    for (const Samples &samples : variants)
        best = std::max(best, samples.median());
    return best;
}

double Ceiling::stream_gbps() const { return best_median(streams_); }

double Ceiling::gather_gbps() const { return best_median(gathers_); }

double Ceiling::copy_gbps() const { return copies_.empty() ? std::nan("") : best_median(copies_); }

/* Adds k sorted numbers from first..first + n - 1. */
static void add_sample(const GatherShape &shape, uint32_t first, uint64_t seed, std::vector<uint32_t> *rows)
{
    std::mt19937_64 random(seed);
    std::vector<bool> taken(static_cast<size_t>(shape.num_rows));
    for (int64_t left = shape.num_selected; left > 0;) {
        size_t row = size_t(random() % uint64_t(shape.num_rows));
        left -= !taken[row];
        taken[row] = true;
    }
    for (int64_t row = 0; row < shape.num_rows; row++)
        if (taken[size_t(row)])
            rows->push_back(first + uint32_t(row));
}

Draw::Draw(size_t size, const GatherShape &shape)
    : shape_(shape), num_matrices_(int64_t(size / size_t(shape.num_rows * shape.row_bytes)))
{
    shape_.num_selected = std::min(shape.num_selected, shape.num_rows);
}

std::vector<uint32_t> Draw::rows(int64_t min_rows)
{
    std::vector<uint32_t> rows;
    while (int64_t(rows.size()) < min_rows) {
        add_sample(shape_, uint32_t(next_matrix_ * shape_.num_rows), ++draws_, &rows);
        next_matrix_ = (next_matrix_ + 1) % num_matrices_;
    }
    return rows;
}

static const size_t MAX_STREAM = size_t(2) << 30, GATHER = size_t(256) << 20, COPY = size_t(512) << 20; /* bytes */
/* A row number of 4 bytes for 64 bytes of row and more; k of the last matrix may be too many. */
const size_t DeviceCeiling::MEMORY = COPY + GATHER / 8;

DeviceCeiling::DeviceCeiling(const devices::Memory &memory, devices::Stopwatch &stopwatch, const devices::Probe &probe,
                             const uint8_t *data, size_t size, const GatherShape &gather)
    : Ceiling(size_t(probe.num_read_ways()), size_t(probe.num_gather_ways()), size_t(probe.num_copy_ways())),
      stream_bytes_(std::min(size / 64 * 64, MAX_STREAM)), copy_to_(memory, std::min(size / 64 * 64, COPY))
{
    const std::vector<uint32_t> rows = Draw(size, gather).rows(int64_t(GATHER) / gather.row_bytes);
    const size_t row_bytes = size_t(gather.row_bytes);
    rows_ = devices::buffer_of(memory, rows);
    gather_bytes_ = rows.size() * row_bytes + rows_.size();
    void *stream = stopwatch.stream();
    const auto record = [&](Recordings &recordings, int num_ways, auto enqueue) {
        for (int way = 0; way < num_ways; way++)
            recordings.push_back(stopwatch.record([enqueue, way] { enqueue(way); }));
    };
    const uint32_t *list = reinterpret_cast<uint32_t *>(rows_.data());
    uint8_t *copy_to = copy_to_.data();
    const size_t streamed = stream_bytes_, copied = copy_to_.size(), num_rows = rows.size();
    record(streams_, probe.num_read_ways(),
           [&probe, data, streamed, stream](int way) { probe.read(way, data, streamed, stream); });
    record(gathers_, probe.num_gather_ways(), [&probe, data, row_bytes, list, num_rows, stream](int way) {
        probe.gather(way, data, row_bytes, list, int64_t(num_rows), stream);
    });
    record(copies_, probe.num_copy_ways(),
           [&probe, copy_to, data, copied, stream](int way) { probe.copy(way, copy_to, data, copied, stream); });
}
