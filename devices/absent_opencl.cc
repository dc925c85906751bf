/* SPDX-License-Identifier: Apache-2.0
 * In the place of opencl_*: the backend is not built.
 */
#include "devices/opencl.h"

namespace devices {

const Memory *opencl_memory() { return nullptr; }
const Memory *opencl_pinned_memory() { return nullptr; }
const Probe *opencl_probe() { return nullptr; }
const Streams *opencl_streams() { return nullptr; }
std::unique_ptr<Stopwatch> opencl_stopwatch() { return nullptr; }

} // namespace devices
