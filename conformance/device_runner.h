/* SPDX-License-Identifier: Apache-2.0
 * Calls on a device with memory of its own: every tensor of a call is copied there, and back afterwards, so that all checks
 * stay on the host.
 */
#ifndef HATTN_CONFORMANCE_DEVICE_RUNNER_H
#define HATTN_CONFORMANCE_DEVICE_RUNNER_H

#include "conformance/session.h"
#include "devices/memory.h"

namespace conformance {

/* A write to an input, or before the start of a tensor, comes back as HATTN_DEVICE_ERROR; what lies past the end of a tensor
 * is the end of its allocation, which compute-sanitizer watches. */
Runner device_runner(const devices::Memory &memory);

} // namespace conformance
#endif
