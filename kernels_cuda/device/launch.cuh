/* SPDX-License-Identifier: Apache-2.0
 * Loading and launching kernels, whose an error is that the runtime keeps, and how a kernel follows the one before it.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_LAUNCH_CUH
#define HATTN_KERNELS_CUDA_DEVICE_LAUNCH_CUH

#include <initializer_list>

#include "kernels_cuda/device/vendor.cuh"

namespace hattn {

inline DeviceError first_error(std::initializer_list<DeviceError> errors)
{
    for (const DeviceError error : errors)
        if (error != kSuccess)
            return error;
    return kSuccess;
}

/* The runtime keeps the last error of a thread until somebody reads it. One of the caller's that is still to be read
 * stays: no launch here looks at it. One of ours, which has been returned, is taken away again, unless the caller's
 * lay there. */
class LastError
{
public:
    static bool is_there() { return vendor::last_error() != kSuccess; }

    /* was_there: before our calls. */
    static void leave(bool was_there)
    {
        if (!was_there)
            vendor::forget_last_error();
    }
};

/* Loads a kernel onto the device (the runtime is lazy) and allows it its dynamic shared memory. The limit belongs to
 * the kernel and not to the plan: 48 KiB are allowed anyway, and who needs more raises it as far as it goes, so that
 * no plan takes from another. */
template <class Kernel>
DeviceError prepare(Kernel *kernel, size_t shared_bytes)
{
    size_t fixed;
    const DeviceError error = vendor::static_shared(kernel, &fixed);
    if (error || fixed + shared_bytes <= 48 * 1024)
        return error;
    int most = 0;
    const DeviceError queried = vendor::most_shared(&most);
    if (queried || fixed + shared_bytes > static_cast<size_t>(most))
        return queried ? queried : vendor::kInvalidConfiguration;
    return vendor::allow_dynamic_shared(kernel, most - static_cast<int>(fixed));
}

/* Where a kernel runs. */
struct Launch {
    dim3 grid;
    int threads; /* of a block */
    size_t shared_bytes;
    DeviceStream stream;
    bool is_dependent = false; /* may start while the stream's previous kernel ends; it has a wait_for_previous */
};

/* The only way to launch: its result is this launch's own. */
template <class... Parameters, class... Arguments>
DeviceError launch(const Launch &how, void (*kernel)(Parameters...), const Arguments &...arguments)
{
    return vendor::launch(how.grid, how.threads, how.shared_bytes, how.stream, how.is_dependent, kernel, arguments...);
}

/* ---- the device's side ---- */

/* The next kernel of the stream, if it was launched to, may start before this one has ended ... */
using vendor::allow_dependents;

/* ... and waits here for what it wrote. */
using vendor::wait_for_previous;

/* Both in this order. A decode's first kernel does so before it reads anything that the caller may have changed on
 * the stream; kernels after it can then start early and read that at once, and wait only for what the kernels of the
 * decode write. */
__device__ inline void take_over()
{
    wait_for_previous();
    allow_dependents();
}

} // namespace hattn

#endif
