/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "devices/memory.h"
#include "devices/random_word.h"

namespace devices {
namespace {

const size_t ALIGNMENT = 256, HUGE_PAGE = size_t(2) << 20;
/* What is smaller stays in pages as malloc gives them: a serving engine's scratch lies there too. */
const size_t MIN_HUGE = size_t(64) << 20;

/* Of MemTotal and the like, in bytes; 0: not there. */
size_t memory_info(const char *name)
{
    uint64_t kib = 0;
    const std::string form = std::string(name) + ": %" SCNu64;
    if (std::FILE *info = std::fopen("/proc/meminfo", "r")) {
        char line[128];
        while (std::fgets(line, sizeof(line), info) && std::sscanf(line, form.c_str(), &kib) != 1)
            continue;
        std::fclose(info);
    }
    return size_t(kib) << 10;
}

/* From the kernel: the C library counts the last level of all sockets' parts on some AMD processors. */
size_t last_level_cache()
{
    size_t largest = 0;
    for (int index = 0; index < 8; index++) {
        std::string path = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size";
        std::FILE *file = std::fopen(path.c_str(), "r");
        if (!file)
            break;
        size_t kib = 0;
        if (std::fscanf(file, "%zuK", &kib) == 1)
            largest = std::max(largest, kib << 10);
        std::fclose(file);
    }
    return largest ? largest : size_t(32) << 20; /* where the kernel tells none */
}

class HostMemory : public Memory
{
public:
    void *allocate(size_t size) const override
    {
        const size_t alignment = size < MIN_HUGE ? ALIGNMENT : HUGE_PAGE;
        const size_t rounded = std::max(alignment, (size + alignment - 1) / alignment * alignment);
        void *address = rounded < size ? nullptr : std::aligned_alloc(alignment, rounded);
        if (!address)
            throw std::bad_alloc();
        /* Advice only: where it is refused the pages are small, and so the ceilings measured on them lower. */
        if (alignment == HUGE_PAGE)
            madvise(address, rounded, MADV_HUGEPAGE);
        return address;
    }

    void release(void *address) const override { std::free(address); }

    void write(void *to_device, const void *from_host, size_t size) const override
    {
        if (size)
            std::memcpy(to_device, from_host, size);
    }

    void read(void *to_host, const void *from_device, size_t size) const override
    {
        if (size)
            std::memcpy(to_host, from_device, size);
    }

    void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const override
    {
        uint8_t *bytes = static_cast<uint8_t *>(data);
        int64_t num_words = int64_t(size / 8);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < num_words; i++) {
            uint64_t word = (random_word(seed, uint64_t(i)) & keep) | set;
            std::memcpy(bytes + i * 8, &word, 8);
        }
        uint64_t word = (random_word(seed, uint64_t(num_words)) & keep) | set;
        if (size % 8)
            std::memcpy(bytes + num_words * 8, &word, size % 8);
    }

    void synchronize() const override {}

    Properties properties() const override
    {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        size_t total = memory_info("MemTotal"), available = memory_info("MemAvailable");
        total = total ? total : size_t(sysconf(_SC_PHYS_PAGES)) * page;
        available = available ? available : size_t(sysconf(_SC_AVPHYS_PAGES)) * page;
        return {total, available, last_level_cache(), "", ""};
    }
};

} // namespace

const Memory &host_memory()
{
    static const HostMemory memory;
    return memory;
}

} // namespace devices
