/* SPDX-License-Identifier: Apache-2.0
 * Single decode steps, each of other queries: what the median of a long recording does not show.
 */
#ifndef HATTN_TOOLS_BENCH_STEPS_H
#define HATTN_TOOLS_BENCH_STEPS_H

#include <cstdint>

#include "tools/bench_report.h"

/* Times `num_steps` decodes one by one into config.step_us, and counts in config.rescored. The workload is prepared. */
void time_steps(Workload &workload, bool is_host, int64_t num_steps, Config &config);

#endif
