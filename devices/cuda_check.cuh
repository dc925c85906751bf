/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HATTN_DEVICES_CUDA_CHECK_CUH
#define HATTN_DEVICES_CUDA_CHECK_CUH

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace devices {

inline void check(cudaError_t error)
{
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("cuda: ") + cudaGetErrorString(error));
}

/* Of the current device. */
inline int num_multiprocessors()
{
    int device, count;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return count;
}

} // namespace devices
#endif
