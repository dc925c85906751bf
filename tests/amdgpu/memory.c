/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/amdgpu/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static MemoryRange *allocations;
static size_t num_allocations;

void *memory_allocate(size_t size)
{
    const size_t rounded = (size + 255) / 256 * 256;
    void *made = aligned_alloc(256, rounded ? rounded : 256);
    MemoryRange *more = made ? realloc(allocations, (num_allocations + 1) * sizeof(*more)) : NULL;
    if (!more) {
        free(made);
        return NULL;
    }
    const uint64_t first = (uint64_t)(uintptr_t)made;
    allocations = more;
    allocations[num_allocations++] = (MemoryRange){first, first + size, 0};
    memset(made, 0xe5, rounded);
    return made;
}

int memory_free(void *address)
{
    for (size_t i = 0; i < num_allocations; i++)
        if (allocations[i].first == (uint64_t)(uintptr_t)address) {
            allocations[i] = allocations[--num_allocations];
            free(address);
            return 1;
        }
    return 0;
}

static int by_first(const void *x, const void *y)
{
    const uint64_t a = ((const MemoryRange *)x)->first, b = ((const MemoryRange *)y)->first;
    return (a > b) - (a < b);
}

void memory_sort(MemoryRange *ranges, size_t count) { qsort(ranges, count, sizeof(*ranges), by_first); }

/* Neighbours that may be used alike become one range. */
static MemoryRange *mapped(size_t more, size_t *count)
{
    FILE *file = fopen("/proc/self/maps", "r");
    MemoryRange *ranges = NULL;
    size_t room = 0;
    char line[512];
    *count = 0;
    while (file && fgets(line, sizeof(line), file)) {
        unsigned long long first, end;
        char rights[5];
        if (sscanf(line, "%llx-%llx %4s", &first, &end, rights) != 3 || rights[0] != 'r')
            continue;
        MemoryRange *last = *count ? &ranges[*count - 1] : NULL;
        if (last && last->end == first && last->is_read_only == (rights[1] != 'w')) {
            last->end = end;
            continue;
        }
        if (*count + more >= room) {
            room = 2 * room + more + 64;
            ranges = realloc(ranges, room * sizeof(*ranges));
            if (!ranges)
                break;
        }
        ranges[(*count)++] = (MemoryRange){first, end, rights[1] != 'w'};
    }
    if (file)
        fclose(file);
    return ranges;
}

int memory_is_mapped(void) { return !num_allocations; }

MemoryRange *memory_ranges(size_t more, size_t *count)
{
    if (memory_is_mapped())
        return mapped(more, count);
    MemoryRange *ranges = malloc((num_allocations + more) * sizeof(*ranges));
    *count = ranges ? num_allocations : 0;
    if (ranges)
        memcpy(ranges, allocations, num_allocations * sizeof(*ranges));
    return ranges;
}
