/* SPDX-License-Identifier: Apache-2.0
 * Streams of the current CUDA device.
 */
#ifndef HATTN_DEVICES_CUDA_STREAMS_H
#define HATTN_DEVICES_CUDA_STREAMS_H

#include "devices/streams.h"

namespace devices {

const Streams *cuda_streams();
const Memory *cuda_pinned_memory();

} // namespace devices
#endif
