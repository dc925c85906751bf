/* SPDX-License-Identifier: Apache-2.0
 * The runtime that the engine plays: one device, whose memory is the process's, and streams that are done at once.
 */
#ifndef HATTN_TESTS_SIMT_RUNTIME_H
#define HATTN_TESTS_SIMT_RUNTIME_H

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "tests/simt/engine.h"
#include "tests/simt/shared.h"

namespace simt {

enum { SUCCESS = 0, WRONG_KERNEL = 1, NO_SUCH_KERNEL = 98, INVALID_CONFIGURATION = 9, INVALID_DEVICE = 101 };

/* Of WRONG_KERNEL, what the engine found in the last launch that was wrong. */
const char *error_text(int error);
void keep_error(const std::string &text);

/* The shared memory of an A100. */
constexpr size_t kBlockShared = kMostShared, kMultiprocessorShared = 164 << 10, kReservedShared = 1024;

template <class... Parameters>
int launch(Size grid, int threads, size_t shared_bytes, void (*kernel)(Parameters...),
           const std::remove_cv_t<Parameters> &...arguments)
{
    const std::string wrong =
        run(grid, threads, shared_bytes, reinterpret_cast<const void *>(kernel), [&] { kernel(arguments...); });
    if (wrong.empty())
        return SUCCESS;
    keep_error(wrong);
    return WRONG_KERNEL;
}

} // namespace simt

#endif
