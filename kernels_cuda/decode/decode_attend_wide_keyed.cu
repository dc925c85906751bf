/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores, any dims, fp8, up to 16 heads a block; keyed candidates.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_wide_keyed = {load_decode_attend<WideEngines, true>,
                                               launch_decode_attend<WideEngines, true>};

} // namespace hattn
