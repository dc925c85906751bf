/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend's table.
 */
#include "backends/cuda/cuda.h"

static int device_count(char *why, size_t size) { return hattn_cuda_count(hattn_cuda_kernels_by_nvcc(), why, size); }

static hattn_status open_device(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    return hattn_cuda_open(hattn_cuda_kernels_by_nvcc(), &hattn_cuda_backend, options, device, error);
}

const hattn_backend hattn_cuda_backend = {
    .name = "cuda", .device_count = device_count, .open = open_device, HATTN_CUDA_SLOTS};
