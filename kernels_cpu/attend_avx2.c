/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/avx2.h"

#include "kernels_cpu/attend_f32x8.h"

void hattn_attend_avx2(const hattn_attend_block *block) { attend(block, false); }

void hattn_add_values_avx2(const hattn_attend_block *block) { attend(block, true); }
