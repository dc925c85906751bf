/* SPDX-License-Identifier: Apache-2.0
 * What the files of the CUDA backend's glue know of each other.
 */
#ifndef HATTN_BACKENDS_CUDA_CUDA_H
#define HATTN_BACKENDS_CUDA_CUDA_H

#include "backends/backend.h"
#include "kernels_cuda/launch.h"

/* Everything that hattn_cuda_load needs and leaves; zeroed before. */
void hattn_cuda_choose(const hattn_cuda_properties *device, const hattn_problem *p, hattn_cuda_params *params);

/* What CUDA's launch limits rule out. */
hattn_status hattn_cuda_check(const hattn_cuda_params *params, hattn_error *error);

#endif
