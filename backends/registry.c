/* SPDX-License-Identifier: Apache-2.0
 * The backends in the order of preference. The reference is last and always there.
 */
#include "backends/backend.h"

#ifdef HATTN_BUILD_CUDA
#define CUDA &hattn_cuda_backend
#else
#define CUDA NULL
#endif
#ifdef HATTN_BUILD_OPENCL
#define OPENCL &hattn_opencl_backend
#else
#define OPENCL NULL
#endif

const hattn_backend_row hattn_backend_rows[] = {
    {"cuda", CUDA},
    {"hip", NULL},
    {"opencl", OPENCL},
    {"cpu", &hattn_cpu_backend},
    {"reference", &hattn_reference_backend},
};
const int hattn_num_backend_rows = sizeof(hattn_backend_rows) / sizeof(*hattn_backend_rows);
