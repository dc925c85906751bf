/* SPDX-License-Identifier: Apache-2.0
 * Time on a backend's device: what is enqueued on a stream is recorded once and replayed between two time stamps of the
 * device, so that neither the host nor the launches count.
 */
#ifndef HATTN_DEVICES_TIMING_H
#define HATTN_DEVICES_TIMING_H

#include <functional>
#include <memory>
#include <string>

namespace devices {

class Recording
{
public:
    virtual ~Recording() = default;
    /* Runs it all, waits, and returns microseconds. Throws std::runtime_error with the vendor's text. */
    virtual double replay() = 0;
};

class Stopwatch
{
public:
    virtual ~Stopwatch() = default;
    /* For hattn_exec; in order with the reads and writes of the device's memory. */
    virtual void *stream() const = 0;
    /* `calls` enqueue on the stream. A device with graphs runs them now, once, and enqueues nothing; all others call them at each replay.
     * What they throw comes out of whichever it is. The stopwatch outlives its recordings. */
    virtual std::unique_ptr<Recording> record(const std::function<void()> &calls) = 0;
};

/* Of the backend's first device; the host's clock for backends without memory of their own. */
std::unique_ptr<Stopwatch> stopwatch_of(const std::string &backend);

} // namespace devices
#endif
