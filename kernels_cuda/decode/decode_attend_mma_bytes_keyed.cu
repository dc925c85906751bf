/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores, fp8; keyed candidates.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_mma_bytes_keyed = {load_decode_attend<MmaBytesEngines, true>,
                                                    launch_decode_attend<MmaBytesEngines, true>};

} // namespace hattn
