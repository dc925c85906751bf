/* SPDX-License-Identifier: Apache-2.0
 * What is true of a trace, in double: softmax of every query head, dense output, the best possible selections.
 */
#ifndef HATTN_TOOLS_TRUTH_H
#define HATTN_TOOLS_TRUTH_H

#include <cstdint>
#include <vector>

#include "tools/trace.h"

/* A float tensor of any dtype; none loses anything. */
std::vector<float> to_floats(const std::vector<uint8_t> &data, int32_t dtype);
/* [token, head, row_bytes] to [head, token, row_bytes]. */
std::vector<uint8_t> head_major(const std::vector<uint8_t> &data, int64_t tokens, int64_t heads, size_t row_bytes);

/* K and V as floats, head-major, so that one query after the other can be computed. */
class TruthSource
{
public:
    explicit TruthSource(const Trace &trace);

    const Trace &trace() const { return trace_; }
    const float *q(int query, int head) const;
    const float *k(int kv_head, int64_t key) const;
    const float *v(int kv_head, int64_t key) const;

private:
    const Trace &trace_;
    std::vector<float> q_, k_, v_;
};

/* One query. Memory: Hq * length doubles. */
class Truth
{
public:
    Truth(const TruthSource &source, int query);

    int32_t length() const { return length_; }
    const double *dense(int head) const { return &dense_[static_cast<size_t>(head) * num_values_]; }
    /* The k positions of largest softmax, summed over the query heads of selection head s; equal ones by smallest
     * position; ascending. */
    std::vector<int32_t> best(int s, int num_selection_heads, int k) const;
    /* Softmax that a selection keeps, 0..1. */
    double mass(int head, const int32_t *positions, int count) const;
    /* Exact attention of a head over a selection that is not empty; *lse as hattn_attend's. */
    std::vector<double> attend(int head, const int32_t *positions, int count, double *lse) const;
    /* Of the values of a KV head that the query sees. */
    const double *mean_value(int kv_head) const { return &mean_values_[static_cast<size_t>(kv_head) * num_values_]; }
    /* w of hattn_attend of a selection's positions, for selection head s. */
    std::vector<double> value_weights(int s, int num_selection_heads, const int32_t *positions, int count) const;
    double lse(int head) const { return lse_[head]; }
    double logit(int head, int32_t j) const { return logits(head)[j]; }
    /* scale * sum |q_i k_i|: what roundings of the logit are relative to. */
    double magnitude(int head, int32_t j) const;
    /* ||out - dense|| / ||dense|| of a head. */
    double error(int head, const double *out) const;

private:
    const double *logits(int head) const { return &logits_[static_cast<size_t>(head) * length_]; }

    const TruthSource &source_;
    int query_;
    int32_t length_, num_heads_, group_, num_values_;
    std::vector<double> logits_, lse_, dense_, mean_values_;
};

#endif
