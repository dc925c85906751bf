/* SPDX-License-Identifier: Apache-2.0
 * Memory of a backend's device, for the programs around the library: tests, tools and benchmarks. The library itself never
 * allocates any.
 */
#ifndef HATTN_DEVICES_MEMORY_H
#define HATTN_DEVICES_MEMORY_H

#include <cstddef>
#include <string>

namespace devices {

/* All calls wait until they are done, and throw std::runtime_error with the vendor's text. */
class Memory
{
public:
    virtual ~Memory() = default;
    virtual void *allocate(size_t size) const = 0; /* aligned to 256 bytes */
    virtual void release(void *address) const = 0;
    virtual void write(void *to_device, const void *from_host, size_t size) const = 0;
    virtual void read(void *to_host, const void *from_device, size_t size) const = 0;
    virtual void synchronize() const = 0; /* reports faults of kernels */
};

/* NULL: the backend works on host memory. */
const Memory *memory_of(const std::string &backend);

} // namespace devices
#endif
