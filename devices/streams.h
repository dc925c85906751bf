/* SPDX-License-Identifier: Apache-2.0
 * Streams, graphs and pinned memory of a backend's device: what a serving engine uses around the library.
 */
#ifndef HATTN_DEVICES_STREAMS_H
#define HATTN_DEVICES_STREAMS_H

#include <atomic>
#include <memory>
#include <string>

#include "devices/memory.h"

namespace devices {

/* What was captured from a stream. */
class Graph
{
public:
    virtual ~Graph() = default;
    virtual void replay(void *stream) const = 0; /* enqueues */
};

/* Calls throw std::runtime_error with the vendor's text. */
class Streams
{
public:
    virtual ~Streams() = default;
    virtual void *make() const = 0; /* in no order with other streams, the default one included */
    virtual void release(void *stream) const = 0;
    virtual void wait(void *stream) const = 0;
    /* Whatever is enqueued next starts once `open` is true, or after 10 seconds. */
    virtual void hold(void *stream, const std::atomic<bool> *open) const = 0;
    virtual bool has_graphs() const { return true; }
    /* In between, nothing that does more than enqueue on the stream works, in any thread. */
    virtual void begin_capture(void *stream) const = 0;
    virtual std::unique_ptr<Graph> end_capture(void *stream) const = 0;
    virtual int num_devices() const = 0;
    virtual int current_device() const = 0; /* of the calling thread */
    virtual void set_current_device(int index) const = 0;
    /* A call that fails, whose error is then there to be read, as that of an engine's own; and whether it still is, which reads it. Where errors are
     * what calls return, none can be left. */
    virtual void leave_error() const {}
    virtual bool take_error() const { return true; }
};

/* NULL: the backend has none. */
const Streams *streams_of(const std::string &backend);

/* Pinned memory of the host that the device reads in place. NULL: the backend works on host memory. */
const Memory *pinned_memory_of(const std::string &backend);

} // namespace devices
#endif
