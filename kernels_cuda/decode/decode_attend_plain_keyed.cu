/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: any dims and dtypes; keyed candidates.
 */
#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {

const DecodeKernel decode_attend_plain_keyed = {load_decode_attend<PlainEngines, true>,
                                                launch_decode_attend<PlainEngines, true>};

} // namespace hattn
