/* SPDX-License-Identifier: Apache-2.0
 * The runtime for the C side.
 */
#include <algorithm>
#include <cstring>

#include "kernels_cuda/device/exchange.cuh"
#include "kernels_cuda/kernels.cuh"

namespace {

/* Its attributes tell what all kernels were compiled for. */
__global__ void compiled_kernel() {}

} // namespace

using namespace hattn;

const char *hattn_cuda_error_text(int code) { return cudaGetErrorString(static_cast<DeviceError>(code)); }

int hattn_cuda_device_count(int *count)
{
    const bool has_error = LastError::is_there();
    const DeviceError error = cudaGetDeviceCount(count);
    if (error)
        *count = 0;
    LastError::leave(has_error);
    return error;
}

int hattn_cuda_get_properties(int index, hattn_cuda_properties *properties)
{
    const bool has_error = LastError::is_there();
    cudaDeviceProp found;
    const DeviceError error = cudaGetDeviceProperties(&found, index);
    LastError::leave(has_error);
    if (error)
        return error;
    memset(properties, 0, sizeof(*properties));
    memcpy(properties->name, found.name, sizeof(properties->name) - 1);
    properties->major = found.major;
    properties->minor = found.minor;
    properties->num_multiprocessors = found.multiProcessorCount;
    properties->block_shared = static_cast<int32_t>(found.sharedMemPerBlockOptin);
    properties->multiprocessor_shared = static_cast<int32_t>(found.sharedMemPerMultiprocessor);
    properties->reserved_shared = static_cast<int32_t>(found.reservedSharedMemPerBlock);
    properties->is_checked = kIsChecked;
#ifdef HATTN_SMALL_SHARED /* plans as on GPUs with 99 KiB a block */
    properties->block_shared = std::min(properties->block_shared, 99 * 1024);
    properties->multiprocessor_shared = std::min(properties->multiprocessor_shared, 100 * 1024);
#endif
    return kSuccess;
}

int hattn_cuda_enter(int index, hattn_cuda_caller *caller)
{
    caller->has_error = LastError::is_there();
    DeviceError error = cudaGetDevice(&caller->device);
    if (!error && caller->device != index)
        error = cudaSetDevice(index);
    if (error)
        LastError::leave(caller->has_error);
    return error;
}

void hattn_cuda_leave(const hattn_cuda_caller *caller)
{
    int current;
    if (cudaGetDevice(&current) == kSuccess && current != caller->device)
        cudaSetDevice(caller->device);
    LastError::leave(caller->has_error);
}

int hattn_cuda_zero(void *address, uint64_t bytes, void *stream)
{
    return cudaMemsetAsync(address, 0, bytes, static_cast<DeviceStream>(stream));
}

/* Machine code for sm_90 and later waits for the kernel before it where it must; what is compiled from older PTX does
 * not. */
DeviceError hattn::find_dependent_launch(hattn_cuda_params *params)
{
    cudaFuncAttributes attributes;
    const DeviceError error = cudaFuncGetAttributes(&attributes, compiled_kernel);
#ifdef HATTN_PORTABLE
    params->has_dependent_launch = 0;
#else
    params->has_dependent_launch = !error && attributes.ptxVersion >= 90;
#endif
    return error;
}
