/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/runtime.h"

namespace simt {
namespace {

std::string &last_error()
{
    static std::string text;
    return text;
}

} // namespace

void keep_error(const std::string &text) { last_error() = text; }

const char *error_text(int error)
{
    switch (error) {
    case SUCCESS: return "no error";
    case WRONG_KERNEL: return last_error().c_str();
    case NO_SUCH_KERNEL: return "no such kernel";
    case INVALID_CONFIGURATION: return "a launch that no device takes";
    default: return "no such device";
    }
}

} // namespace simt
