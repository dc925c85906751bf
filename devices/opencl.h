/* SPDX-License-Identifier: Apache-2.0
 * The first OpenCL device, behind the interfaces of this folder.
 */
#ifndef HATTN_DEVICES_OPENCL_H
#define HATTN_DEVICES_OPENCL_H

#include "devices/memory.h"
#include "devices/probe.h"
#include "devices/streams.h"
#include "devices/timing.h"

namespace devices {

const Memory *opencl_memory();
const Probe *opencl_probe();
std::unique_ptr<Stopwatch> opencl_stopwatch();
const Streams *opencl_streams();
const Memory *opencl_pinned_memory();

} // namespace devices
#endif
