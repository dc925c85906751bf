/* SPDX-License-Identifier: Apache-2.0
 * What the numerics contract allows a backend to do on a trace: flips of codes, norms and weights near a rounding's edge
 * are counted as flips, everything else that differs as wrong.
 */
#ifndef HATTN_TOOLS_CONTRACT_H
#define HATTN_TOOLS_CONTRACT_H

#include <cstdint>

#include "contract/flips.h"
#include "tools/lane.h"
#include "tools/truth.h"

struct Verdict {
    int64_t flips = 0; /* bits of codes, norms, weights, steps */
    int64_t wrong = 0; /* those that are no rounding; selections; outputs of a head */
};

/* What a selection head's weights are made of: the query's projections by the reference. */
contract::GroupProjection group_projection(const TruthSource &source, int query, int selection_head,
                                           const Lane &oracle);

/* Both lanes have encoded their keys; oracle is the reference backend's lane of the same map. */
void judge_keys(const TruthSource &source, const Lane &lane, const Lane &oracle, Verdict *verdict);

/* One step of `lane`: its weights and steps against the oracle's (expected), its selection against what the oracle makes of the
 * lane's own weights, steps and codes, its output against exact attention over the lane's own selection. */
void judge_step(const TruthSource &source, const Truth &truth, int query, const Lane &lane, const Lane &oracle,
                const StepResult &step, const EncodedQuery &expected, Verdict *verdict);

/* Dense attention of `lane` against the truth's. */
void judge_dense(const TruthSource &source, const Truth &truth, const Lane &lane, const StepResult &dense,
                 Verdict *verdict);

#endif
