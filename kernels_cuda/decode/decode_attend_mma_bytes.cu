/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores, fp8.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_mma_bytes = {load_decode_attend<MmaBytesEngines, false>,
                                              launch_decode_attend<MmaBytesEngines, false>};

} // namespace hattn
