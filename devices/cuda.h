/* SPDX-License-Identifier: Apache-2.0
 * The current CUDA device, behind the interfaces of this folder.
 */
#ifndef HATTN_DEVICES_CUDA_H
#define HATTN_DEVICES_CUDA_H

#include "devices/memory.h"
#include "devices/model.h"
#include "devices/probe.h"
#include "devices/streams.h"
#include "devices/timing.h"

namespace devices {

const Memory *cuda_memory();
const Probe *cuda_probe();
std::unique_ptr<Stopwatch> cuda_stopwatch();
const Model *cuda_model();
const Streams *cuda_streams();
const Memory *cuda_pinned_memory();

} // namespace devices
#endif
