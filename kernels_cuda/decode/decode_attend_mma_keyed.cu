/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores; keyed candidates.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_mma_keyed = {load_decode_attend<MmaEngines, true>,
                                              launch_decode_attend<MmaEngines, true>};

} // namespace hattn
