/* SPDX-License-Identifier: Apache-2.0
 * Large memory for benchmarks: huge pages, filled by all threads with values that attention can work on, and what this
 * machine has of it.
 */
#ifndef HATTN_BENCH_MEMORY_H
#define HATTN_BENCH_MEMORY_H

#include <cstddef>
#include <cstdint>

class Arena
{
public:
    /* Throws std::bad_alloc. Aligned to 2 MiB, advised MADV_HUGEPAGE, zero. */
    explicit Arena(size_t size);
    ~Arena();
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;

    uint8_t *data() const { return data_; }
    size_t size() const { return size_; }

private:
    void *mapping_;
    size_t mapping_size_, size_;
    uint8_t *data_;
};

/* Random values of magnitude 1/8 to 2 and either sign: HATTN_F32, F16, BF16 or F8_E4M3. About 5 GB/s a thread. */
void fill_values(void *data, size_t size, int32_t dtype, uint64_t seed);
/* Random bits. */
void fill_bits(void *data, size_t size, uint64_t seed);

size_t dtype_bytes(int32_t dtype);
/* MemAvailable, and the last level cache that one processor sees (32 MiB where the kernel tells none). */
size_t available_memory();
size_t last_level_cache();

#endif
