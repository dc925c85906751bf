/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "api/hattn.h"

static const size_t HUGE_PAGE = size_t(2) << 20;

Arena::Arena(size_t size) : mapping_size_(size + 2 * HUGE_PAGE), size_(size)
{
    mapping_ = mmap(nullptr, mapping_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED)
        throw std::bad_alloc();
    uintptr_t start = (reinterpret_cast<uintptr_t>(mapping_) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    data_ = reinterpret_cast<uint8_t *>(start);
    /* Advice only: where it is refused the pages are small, and so the ceilings measured on them lower. */
    madvise(data_, (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
}

Arena::~Arena()
{
    munmap(mapping_, mapping_size_);
}

/* splitmix64: every word from its own counter, so that the threads' pieces need no order. */
static uint64_t random_word(uint64_t counter)
{
    uint64_t z = counter * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void fill_words(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed)
{
    uint8_t *bytes = static_cast<uint8_t *>(data);
    int64_t num_words = int64_t(size / 8);
    uint64_t first = random_word(seed);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < num_words; i++) {
        uint64_t word = (random_word(first + uint64_t(i)) & keep) | set;
        std::memcpy(bytes + i * 8, &word, 8);
    }
    uint64_t word = (random_word(first + uint64_t(num_words)) & keep) | set;
    std::memcpy(bytes + num_words * 8, &word, size % 8);
}

void fill_values(void *data, size_t size, int32_t dtype, uint64_t seed)
{
    /* keep: sign, the two low bits of the exponent, the mantissa; set: the exponent of 1/8. */
    switch (dtype) {
    case HATTN_F32: return fill_words(data, size, 0x81ffffff81ffffffu, 0x3e0000003e000000u, seed);
    case HATTN_F16: return fill_words(data, size, 0x8fff8fff8fff8fffu, 0x3000300030003000u, seed);
    case HATTN_BF16: return fill_words(data, size, 0x81ff81ff81ff81ffu, 0x3e003e003e003e00u, seed);
    case HATTN_F8_E4M3: return fill_words(data, size, 0x9f9f9f9f9f9f9f9fu, 0x2020202020202020u, seed);
    }
}

void fill_bits(void *data, size_t size, uint64_t seed)
{
    fill_words(data, size, ~uint64_t(0), 0, seed);
}

size_t dtype_bytes(int32_t dtype)
{
    switch (dtype) {
    case HATTN_F16:
    case HATTN_BF16:
    case HATTN_U16: return 2;
    case HATTN_F8_E4M3:
    case HATTN_I8: return 1;
    case HATTN_I64: return 8;
    default: return 4;
    }
}

size_t available_memory()
{
    uint64_t kib = 0;
    if (std::FILE *info = std::fopen("/proc/meminfo", "r")) {
        char line[128];
        while (std::fgets(line, sizeof(line), info) && std::sscanf(line, "MemAvailable: %" SCNu64, &kib) != 1)
            continue;
        std::fclose(info);
    }
    if (kib)
        return size_t(kib) << 10;
    return size_t(sysconf(_SC_AVPHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE));
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
    return largest ? largest : size_t(32) << 20;
}
