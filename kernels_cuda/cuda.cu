/* SPDX-License-Identifier: Apache-2.0
 * The table of what nvcc makes. In a file of its own: other compilers have theirs.
 */
#include "kernels_cuda/kernels.cuh"

namespace {

using namespace hattn;

DeviceStream stream_of(void *stream) { return static_cast<DeviceStream>(stream); }

const hattn_cuda_scratch scratch = {
    [](void **stream) -> int {
        DeviceStream made = nullptr;
        const DeviceError error = vendor::make_scratch_stream(&made);
        *stream = made;
        return error;
    },
    [](void *stream) { vendor::end_scratch_stream(stream_of(stream)); },
    [](uint64_t size, void *stream, void **address) -> int {
        return vendor::allocate_scratch(size, stream_of(stream), address);
    },
    [](void *address, void *stream) { vendor::release_scratch(address, stream_of(stream)); },
    [](void *to, const void *from, uint64_t size, void *stream) -> int {
        return vendor::copy_and_wait(to, from, size, stream_of(stream));
    },
};

} // namespace

const hattn_cuda_kernels *hattn_cuda_kernels_by_nvcc(void)
{
    static const hattn_cuda_kernels kernels = [] {
        hattn_cuda_kernels made = *hattn::kernels();
        made.scratch = &scratch;
        return made;
    }();
    return &kernels;
}
