/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/absent/absent.h"

const hattn_backend hattn_cuda_backend = HATTN_ABSENT_BACKEND("cuda");
