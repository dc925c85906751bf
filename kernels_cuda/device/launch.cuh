/* SPDX-License-Identifier: Apache-2.0
 * Kernels from the host's side: loading, launching, and whose an error is that the runtime keeps.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_LAUNCH_CUH
#define HATTN_KERNELS_CUDA_DEVICE_LAUNCH_CUH

#include <cuda_runtime.h>

#include <initializer_list>

namespace hattn {

inline cudaError_t first_error(std::initializer_list<cudaError_t> errors)
{
    for (const cudaError_t error : errors)
        if (error != cudaSuccess)
            return error;
    return cudaSuccess;
}

/* The runtime keeps the last error of a thread until somebody reads it. An error of the caller's that is still to be read stays: no launch here
 * looks at it. One of ours, which has been returned, is taken away again, unless it would have to be from over the caller's. */
class LastError
{
public:
    static bool is_there() { return cudaPeekAtLastError() != cudaSuccess; }

    /* was_there: before our calls. */
    static void leave(bool was_there)
    {
        if (!was_there)
            static_cast<void>(cudaGetLastError());
    }
};

/* Loads a kernel onto the device (the runtime is lazy) and allows it its dynamic shared memory. The limit belongs to the kernel and not
 * to the plan: 48 KiB are allowed anyway, and who needs more raises it as far as it goes, so that no plan takes from another. */
template <class Kernel>
cudaError_t prepare(Kernel *kernel, size_t shared_bytes)
{
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error || attributes.sharedSizeBytes + shared_bytes <= 48 * 1024)
        return error;
    int device = 0, most = 0;
    const cudaError_t queried = first_error(
        {cudaGetDevice(&device), cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)});
    if (queried || attributes.sharedSizeBytes + shared_bytes > static_cast<size_t>(most))
        return queried ? queried : cudaErrorInvalidConfiguration;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most - static_cast<int>(attributes.sharedSizeBytes));
}

/* Where a kernel runs. */
struct Launch {
    dim3 grid;
    int threads; /* of a block */
    size_t shared_bytes;
    cudaStream_t stream;
    bool is_dependent = false; /* may start while the stream's previous kernel ends; it has a wait_for_previous */
};

/* The only way to launch: its result is this launch's own. */
template <class... Parameters, class... Arguments>
cudaError_t launch(const Launch &how, void (*kernel)(Parameters...), const Arguments &...arguments)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = how.grid;
    config.blockDim = static_cast<unsigned>(how.threads);
    config.dynamicSmemBytes = how.shared_bytes;
    config.stream = how.stream;
    config.attrs = &attribute;
    config.numAttrs = how.is_dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

} // namespace hattn

#endif
