/* SPDX-License-Identifier: Apache-2.0
 * Memory that a backend works in, for the programs around the library: tests, tools and benchmarks. The library itself
 * never allocates any.
 */
#ifndef HATTN_DEVICES_MEMORY_H
#define HATTN_DEVICES_MEMORY_H

#include <cstddef>
#include <cstdint>
#include <string>

#include "api/hattn.h"

namespace devices {

struct Properties {
    size_t total, available;     /* bytes; available is what may still be allocated */
    size_t cache;                /* bytes of the last level that one processor sees */
    std::string driver, runtime; /* versions; empty on the host */
};

/* All calls wait until they are done, and throw std::runtime_error with the vendor's text (the host: std::bad_alloc). */
class Memory
{
public:
    virtual ~Memory() = default;
    virtual void *allocate(size_t size) const = 0; /* aligned to 256 bytes, any content */
    virtual void release(void *address) const = 0;
    virtual void write(void *to_device, const void *from_host, size_t size) const = 0;
    virtual void read(void *to_host, const void *from_device, size_t size) const = 0;
    /* Random words, random_word(seed, i) & keep | set for word i: the same on every kind of memory. */
    virtual void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const = 0;
    virtual void synchronize() const = 0; /* reports faults of kernels */
    virtual Properties properties() const = 0;

    /* What the library is given for an address of this memory, which here may be in the middle of an allocation. */
    virtual hattn_buffer buffer(void *address, uint64_t byte_offset) const { return {address, byte_offset}; }
    /* For hattn_exec, in order with the calls above; NULL: the device's default. */
    virtual void *stream() const { return nullptr; }
    /* So that the device that is opened with the options works in this memory. */
    virtual void choose(hattn_device_options *options) const { (void)options; }
};

/* NULL: the backend works on host memory. */
const Memory *memory_of(const std::string &backend);
/* Allocations of 64 MiB and more are advised to be huge pages. fill is for all of the processors. */
const Memory &host_memory();

} // namespace devices
#endif
