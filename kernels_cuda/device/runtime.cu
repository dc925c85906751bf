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

/* As much as there is room for; the rest is 0. */
void copy_text(char *to, size_t size, const char *from) { memcpy(to, from, std::min(strlen(from), size - 1)); }

} // namespace

using namespace hattn;

const char *hattn::error_text(int code) { return vendor::error_text(static_cast<DeviceError>(code)); }

int hattn::device_count(int *count)
{
    const bool has_error = LastError::is_there();
    const DeviceError error = vendor::count_devices(count);
    if (error)
        *count = 0;
    LastError::leave(has_error);
    return error;
}

int hattn::get_properties(int index, hattn_cuda_properties *properties)
{
    const bool has_error = LastError::is_there();
    memset(properties, 0, sizeof(*properties));
    const DeviceError error = vendor::with_properties(index, [&](const vendor::Properties &found) {
        copy_text(properties->name, sizeof(properties->name), found.name);
        copy_text(properties->isa, sizeof(properties->isa), found.isa);
        properties->has_kernels = found.has_kernels;
        properties->num_multiprocessors = found.num_multiprocessors;
        properties->block_shared = static_cast<int32_t>(found.block_shared);
        properties->multiprocessor_shared = static_cast<int32_t>(found.multiprocessor_shared);
        properties->reserved_shared = static_cast<int32_t>(found.reserved_shared);
        properties->most_blocks = found.most_blocks;
        properties->is_checked = kIsChecked;
    });
    LastError::leave(has_error);
#ifdef HATTN_SMALL_SHARED /* plans as on GPUs with 99 KiB a block */
    properties->block_shared = std::min(properties->block_shared, 99 * 1024);
    properties->multiprocessor_shared = std::min(properties->multiprocessor_shared, 100 * 1024);
#endif
    return error;
}

int hattn::enter(int index, hattn_cuda_caller *caller)
{
    caller->has_error = LastError::is_there();
    DeviceError error = vendor::current_device(&caller->device);
    if (!error && caller->device != index)
        error = vendor::use_device(index);
    if (error)
        LastError::leave(caller->has_error);
    return error;
}

void hattn::leave(const hattn_cuda_caller *caller)
{
    int current;
    if (vendor::current_device(&current) == kSuccess && current != caller->device)
        vendor::use_device(caller->device);
    LastError::leave(caller->has_error);
}

int hattn::zero(void *address, uint64_t bytes, void *stream)
{
    return vendor::zero(address, bytes, static_cast<DeviceStream>(stream));
}

DeviceError hattn::find_dependent_launch(hattn_cuda_params *params)
{
    bool has = false;
    const DeviceError error = vendor::has_dependent_launch(compiled_kernel, &has);
    params->has_dependent_launch = has;
    return error;
}
