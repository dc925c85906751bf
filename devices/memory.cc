/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/memory.h"

#include "devices/cuda_memory.h"

namespace devices {

const Memory *memory_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_memory();
#endif
    (void)backend;
    return nullptr;
}

} // namespace devices
