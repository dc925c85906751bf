/* SPDX-License-Identifier: Apache-2.0
 * The keys of a trace as hattn bench takes them.
 */
#ifndef HATTN_TOOLS_BENCH_TRACE_H
#define HATTN_TOOLS_BENCH_TRACE_H

#include <string>

#include "bench/key_codes.h"

/* Of the trace's linear map "hata128", encoded on the host. Throws UsageError for a file that is none, has no such map, or is
 * not of fp16. */
TraceKeys load_trace_keys(const std::string &path);

#endif
