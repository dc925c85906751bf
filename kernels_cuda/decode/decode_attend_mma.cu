/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_mma = {load_decode_attend<MmaEngines, false>, launch_decode_attend<MmaEngines, false>};

} // namespace hattn
