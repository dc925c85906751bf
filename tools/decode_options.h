/* SPDX-License-Identifier: Apache-2.0
 * What hattn decode is asked for, and what that is for a map of the trace.
 */
#ifndef HATTN_TOOLS_DECODE_OPTIONS_H
#define HATTN_TOOLS_DECODE_OPTIONS_H

#include <cstdint>
#include <string>
#include <vector>

#include "tools/args.h"
#include "tools/lane.h"
#include "tools/trace.h"

struct DecodeOptions {
    std::string trace, backend = "all", isa, score, maps, select, json;
    int64_t topk = 512, bits = 0, sink = 0, recent = 0, threads = 0;
    bool norms = false, per_head = false;
    int64_t candidates = 0; /* with per_head */
    double floor = 0, tail = 0, vskip = 0;
    int64_t min_k = 64, mean_rows = 0,
            mean_values = 0; /* with mean_rows the floor is to be found, with mean_values vskip */

    bool has_floor() const { return floor > 0 || mean_rows > 0; }
    bool needs_slopes() const { return has_floor() || tail > 0 || per_head; }
};

/* False: --help was printed. Throws UsageError, as all of them do. */
bool parse_decode_options(Args &args, DecodeOptions *options);
/* More tokens than there are keys are no selection; the default gives way to a short trace. */
void bound_topk(bool given, const Trace &trace, DecodeOptions *options);
/* By their names, all where none is given. */
std::vector<const TraceMap *> choose_maps(const Trace &trace, const std::string &names);
LaneSettings settings_for(const DecodeOptions &options, const Trace &trace, const TraceMap &map);

#endif
