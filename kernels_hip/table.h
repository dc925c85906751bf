/* SPDX-License-Identifier: Apache-2.0
 * The HIP side as backends/hip sees it.
 */
#ifndef HATTN_KERNELS_HIP_TABLE_H
#define HATTN_KERNELS_HIP_TABLE_H

#include "kernels_cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

const hattn_cuda_kernels *hattn_hip_kernels(void);

#ifdef __cplusplus
}
#endif
#endif
