/* SPDX-License-Identifier: Apache-2.0
 * How far out and lse of an attention may be from what they are in double: docs/numerics.md, "Attention", as numbers.
 */
#ifndef HATTN_CONTRACT_ATTENTION_H
#define HATTN_CONTRACT_ATTENTION_H

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "api/hattn.h"

namespace contract {

/* What a backend sums weights and weighted values in, at worst. */
enum class Sums { DOUBLE /* the reference: out differs by its own rounding alone */, F32, F16, BF16 };

/* By q's dtype alone. */
Sums sums_of(int32_t q_dtype);
/* cpu sums in fp32 whatever q is. */
Sums sums_of(const std::string &backend, int32_t q_dtype);

/* c: sums of weights, and of weighted values with values up to 1, are so near. */
double sum_error(Sums sums);

/* A logit x in fp32, where magnitude is scale * sum |q_i k_i| and capped |x| if it went through a soft cap, else 0. */
double logit_error(int head_dim_qk, double magnitude, double capped);

/* Half a unit in the last place of a value that is about so large: F32, F16 or BF16. */
double rounding(int32_t dtype, double value);

/* Within tolerance of exact; an infinity, if the tolerance reaches past the dtype's largest number. NaN is NaN alone, and nothing
 * is outside of an infinite tolerance. */
bool within(double got, double exact, double tolerance, int32_t dtype);

struct Logit {
    double value, error;
};

/* What hattn_topk says of a selection: shares in its order, the rest. */
struct Tail {
    std::vector<uint32_t> shares;
    int64_t rest = 0;
};

/* ln R of hattn_attend, for problem.tail, as one more logit beside those of the selection; -INFINITY: there is no tail. */
Logit tail_logit(const std::vector<Logit> &logits, const Tail &tail, double factor);

struct Column {
    double exact = 0, slack = 0; /* what errors of logits may make of it; infinite where a value is no number */
};

struct Columns {
    std::vector<Column> column;
    double largest = 0; /* of all |values| */

    double exact(int i) const { return column[i].exact; }
    /* Of an element of out. */
    double tolerance(int i, Sums sums, int32_t dtype) const;
};

/* One head's attention over a selection, or of a merge over its parts. */
class Attention
{
public:
    /* sink: -INFINITY for none. */
    explicit Attention(std::vector<Logit> logits, double sink = -INFINITY);

    double lse() const { return lse_; }
    double lse_tolerance(Sums sums) const;
    /* value(j): the num values of key j, until the next call; other(j): what a backend may take in their place, or null. */
    using Values = std::function<const double *(size_t j)>;
    Columns columns(int num, const Values &value, const Values &other = nullptr) const;
    /* The softmax of key j, and what it may be off by, as factors. */
    struct Weight {
        double exact, least, most;
    };
    Weight weight(size_t j) const;

private:
    std::vector<Logit> logits_;
    double lse_, growth_ = 1, shrinkage_ = 1; /* sum of p_j e^error_j, of p_j e^-error_j */
};

/* Whether the values of a key are read, with problem.min_value_weight, and whether roundings of logits may turn that. */
struct Read {
    bool is_read = true, may_turn = false;
};

/* Of the num keys of a selection; heads: of its query heads, without tails. */
std::vector<Read> reads_of(const std::vector<Attention> &heads, size_t num, double min_value_weight);

} // namespace contract
#endif
