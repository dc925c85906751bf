/* SPDX-License-Identifier: Apache-2.0
 * In the place of hip.cc: the backend is not built.
 */
#include "devices/hip.h"

namespace devices {

const Memory *hip_memory() { return nullptr; }
const Memory *hip_pinned_memory() { return nullptr; }
const Streams *hip_streams() { return nullptr; }
std::unique_ptr<Stopwatch> hip_stopwatch() { return nullptr; }

} // namespace devices
