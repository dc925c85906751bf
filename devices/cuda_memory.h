/* SPDX-License-Identifier: Apache-2.0
 * Memory of the current CUDA device.
 */
#ifndef HATTN_DEVICES_CUDA_MEMORY_H
#define HATTN_DEVICES_CUDA_MEMORY_H

#include "devices/memory.h"

namespace devices {

const Memory *cuda_memory();

} // namespace devices
#endif
