/* SPDX-License-Identifier: Apache-2.0
 * The backends in the order of preference. The reference is last and always there.
 */
#include "backends/backend.h"

const hattn_backend *const hattn_backends[] = {
    &hattn_cuda_backend, &hattn_hip_backend, &hattn_opencl_backend, &hattn_cpu_backend, &hattn_reference_backend,
};
const int hattn_num_backends = sizeof(hattn_backends) / sizeof(*hattn_backends);
