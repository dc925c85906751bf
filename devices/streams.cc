/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/streams.h"

#include "devices/cuda_streams.h"

namespace devices {

const Streams *streams_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_streams();
#endif
    (void)backend;
    return nullptr;
}

const Memory *pinned_memory_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_pinned_memory();
#endif
    (void)backend;
    return nullptr;
}

} // namespace devices
