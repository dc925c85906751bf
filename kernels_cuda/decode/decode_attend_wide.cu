/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores, any dims, fp8, up to 16 heads a block.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

static_assert(sizeof(ShareSpace<WideEngine<float16, float16, 2, false>, SelectEarly>) + 64 <= HATTN_WIDE_STATIC,
              "the plan counts on it");

const DecodeKernel decode_attend_wide = {load_decode_attend<WideEngines, false>,
                                         launch_decode_attend<WideEngines, false>};

} // namespace hattn
