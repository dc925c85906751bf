/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: any dims and dtypes.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_plain = {load_decode_attend<PlainEngines, false>,
                                          launch_decode_attend<PlainEngines, false>};

} // namespace hattn
