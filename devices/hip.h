/* SPDX-License-Identifier: Apache-2.0
 * The current HIP device, behind the interfaces of this folder; AMD's runtime is opened when one is first asked for.
 */
#ifndef HATTN_DEVICES_HIP_H
#define HATTN_DEVICES_HIP_H

#include "devices/memory.h"
#include "devices/streams.h"
#include "devices/timing.h"

namespace devices {

const Memory *hip_memory();
const Memory *hip_pinned_memory();
const Streams *hip_streams();
std::unique_ptr<Stopwatch> hip_stopwatch();

} // namespace devices
#endif
