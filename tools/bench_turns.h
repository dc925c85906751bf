/* SPDX-License-Identifier: Apache-2.0
 * Decodes of several shapes that take turns: on machines that others share only ratios out of the same rounds hold.
 */
#ifndef HATTN_TOOLS_BENCH_TURNS_H
#define HATTN_TOOLS_BENCH_TURNS_H

#include <cstdint>
#include <vector>

#include "tools/bench_report.h"

/* A shape with its data and what it is timed with; decodes are recorded. */
struct Subject {
    problems::Problem problem;
    std::unique_ptr<Workload> workload;
    std::vector<Config> configs; /* the same ones of all subjects, in order */
};

/* Times each subject's decode once a round, into config.us[DECODE], and its ratio to the decode of its problem's baseline
 * in the same round, if that is a subject, into config.to_baseline. Each round begins with another subject. */
void take_turns(std::vector<Subject> &subjects, int64_t rounds);

#endif
