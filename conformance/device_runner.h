/* SPDX-License-Identifier: Apache-2.0
 * Runs calls whose tensors lie in host memory on a device that has memory of its own.
 */
#ifndef HATTN_CONFORMANCE_DEVICE_RUNNER_H
#define HATTN_CONFORMANCE_DEVICE_RUNNER_H

#include "conformance/session.h"
#include "devices/memory.h"

namespace conformance {

/* How calls are made on a device. */
struct DeviceCalls {
    const devices::Memory *memory, *pinned;
    /* Makes the call, which takes a stream, and lets it be done with once the device was waited for. */
    std::function<hattn_status(const std::function<hattn_status(void *stream)> &call)> launch =
        [memory = memory](const std::function<hattn_status(void *)> &call) { return call(memory->stream()); };
    /* The device works in the host's memory too: workspaces, which are large, stay where they are. */
    bool leaves_workspaces = false;
};

/* Every call's tensors travel to the device and back. A write to an input, or before the start of a tensor, comes back as
 * HATTN_DEVICE_ERROR; what lies past the end of a tensor is the end of its allocation, which compute-sanitizer watches. */
Runner device_runner(const DeviceCalls &calls);

} // namespace conformance
#endif
