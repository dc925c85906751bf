/* SPDX-License-Identifier: Apache-2.0
 * In the place of cuda_*: the backend is not built.
 */
#include "devices/cuda.h"

namespace devices {

const Memory *cuda_memory() { return nullptr; }
const Memory *cuda_pinned_memory() { return nullptr; }
const Probe *cuda_probe() { return nullptr; }
const Model *cuda_model() { return nullptr; }
const Streams *cuda_streams() { return nullptr; }
std::unique_ptr<Stopwatch> cuda_stopwatch() { return nullptr; }

} // namespace devices
