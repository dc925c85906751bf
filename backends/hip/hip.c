/* SPDX-License-Identifier: Apache-2.0
 * The HIP backend's table: the glue of CUDA's over kernels that clang has made.
 */
#include "backends/cuda/cuda.h"
#include "kernels_hip/table.h"

static int device_count(char *why, size_t size) { return hattn_cuda_count(hattn_hip_kernels(), why, size); }

static hattn_status open_device(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    return hattn_cuda_open(hattn_hip_kernels(), &hattn_hip_backend, options, device, error);
}

const hattn_backend hattn_hip_backend = {
    .name = "hip", .device_count = device_count, .open = open_device, HATTN_CUDA_SLOTS};
