/* SPDX-License-Identifier: Apache-2.0
 * Kernels that only move a device's memory: what its ceilings are measured with. A way is one of several kernels or launch
 * shapes, of which the best is the ceiling. All of them enqueue.
 */
#ifndef HATTN_DEVICES_PROBE_H
#define HATTN_DEVICES_PROBE_H

#include <cstddef>
#include <cstdint>
#include <string>

namespace devices {

class Probe
{
public:
    virtual ~Probe() = default;
    virtual int num_read_ways() const = 0;
    virtual int num_gather_ways() const = 0;
    virtual int num_copy_ways() const = 0;
    /* Sizes are multiples of 64 bytes. */
    virtual void read(int way, const void *data, size_t size, void *stream) const = 0;
    virtual void copy(int way, void *to, const void *from, size_t size, void *stream) const = 0;
    /* Row rows[i] of `data` is at rows[i] * row_bytes, a multiple of 64. */
    virtual void gather(int way, const void *data, size_t row_bytes, const uint32_t *rows, int64_t num_rows,
                        void *stream) const = 0;
};

/* NULL: the backend works on host memory, or nobody has written kernels for it. */
const Probe *probe_of(const std::string &backend);

} // namespace devices
#endif
