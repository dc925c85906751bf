/* SPDX-License-Identifier: Apache-2.0
 * The numerics contract (docs/numerics.md) as rules: which differences from the reference are roundings.
 */
#ifndef HATTN_CONFORMANCE_RULES_H
#define HATTN_CONFORMANCE_RULES_H

#include "conformance/case.h"
#include "contract/attention.h"
#include "contract/flips.h"

namespace conformance {

/* The key vector of KV head g whose code belongs at (page, slot), as encode sees it; false: none was encoded there. */
using KeySource = std::function<bool(int64_t page, int64_t slot, int g, double *x)>;
/* Called with the index of an allowed difference. */
using OnFlip = std::function<void(const Index &)>;

/* Whose weights: a group's, summed, or each query head's own. */
enum class Heads { SELECTIONS, QUERIES };

/* A code bit may differ where |z| is within the bound of contract::project. Counts into flips, if not null. */
Rule code_rule(const Instance &instance, KeySource keys, Flips *flips, OnFlip on_flip = nullptr);

Rule norm_rule();

/* A weight may differ by the queries whose |z| is within the bound (hamming), or by 1 near a rounding tie (weighted). */
Rule weight_rule(const Instance &instance, Flips *flips, OnFlip on_flip = nullptr, Heads heads = Heads::SELECTIONS);

/* A step may differ as far as roundings of max|u| and of the products move it. */
Rule step_rule(const Instance &instance, OnFlip on_flip = nullptr, Heads heads = Heads::SELECTIONS);

/* Exact, but any NaN is as good as another. */
Rule score_rule();

/* The positions that a row of a selection head attends to. */
using Positions = std::function<std::vector<int>(int row, int s)>;
Positions listed_positions(const Tensor &indices, const Tensor &counts);
Positions all_positions(const Instance &instance);

/* What hattn_topk says of these positions. */
using Tails = std::function<contract::Tail(int row, int s)>;
Tails listed_tails(const Tensor &shares, const Tensor &rests);

/* Which values of the row's positions are read (problem.min_value_weight, with a tail). */
std::vector<contract::Read> value_reads(const Instance &instance, const std::vector<int> &positions, int row, int s);

/* What attention to these positions reads of the cache; has_tail: but for values that are not read. */
void keep_attended(const Instance &instance, const Positions &positions, bool has_tail, int row, PoisonedCache *cache);

/* Rules of out and lse: the backend as near to what they are in double as what it sums in allows, the reference but for its
 * rounding; golden values may be those of any backend. */
/* tails: none, or what each row has. */
void set_attention_rules(const Context &context, Positions positions, Tails tails, Output *out, Output *lse);
void set_merge_rules(const Context &context, Output *out, Output *lse);

/* The group of a selection head, or a query head, projected. */
contract::GroupProjection project_group(const Instance &instance, int row, int head, Heads heads = Heads::SELECTIONS);

/* A key as encode and attend see it. */
void load_scaled(const Tensor &tensor, Index index, double scale, double *x);

} // namespace conformance
#endif
