/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/truth.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/dtype.h"
#include "reference/reference.h"

std::vector<float> to_floats(const std::vector<uint8_t> &data, int32_t dtype)
{
    std::vector<float> floats(data.size() / size_t(hattn_dtype_size(dtype)));
    for (size_t i = 0; i < floats.size(); i++)
        floats[i] = static_cast<float>(hattn_reference_load(data.data(), dtype, static_cast<int64_t>(i)));
    return floats;
}

std::vector<uint8_t> head_major(const std::vector<uint8_t> &data, int64_t tokens, int64_t heads, size_t row_bytes)
{
    std::vector<uint8_t> result(data.size());
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++)
            std::copy_n(&data[(t * heads + h) * row_bytes], row_bytes, &result[(h * tokens + t) * row_bytes]);
    return result;
}

static std::vector<float> cache_floats(const Trace &trace, const std::vector<uint8_t> &data, int32_t dim)
{
    const size_t row_bytes = dim * size_t(hattn_dtype_size(trace.kv_dtype));
    return to_floats(head_major(data, trace.num_keys, trace.num_kv_heads, row_bytes), trace.kv_dtype);
}

TruthSource::TruthSource(const Trace &trace)
    : trace_(trace), q_(to_floats(trace.q, trace.q_dtype)), k_(cache_floats(trace, trace.k, trace.head_dim_qk)),
      v_(cache_floats(trace, trace.v, trace.head_dim_v))
{
}

const float *TruthSource::q(int query, int head) const
{
    return &q_[(static_cast<size_t>(query) * trace_.num_q_heads + head) * trace_.head_dim_qk];
}

const float *TruthSource::k(int kv_head, int64_t key) const
{
    return &k_[(static_cast<size_t>(kv_head) * trace_.num_keys + key) * trace_.head_dim_qk];
}

const float *TruthSource::v(int kv_head, int64_t key) const
{
    return &v_[(static_cast<size_t>(kv_head) * trace_.num_keys + key) * trace_.head_dim_v];
}

Truth::Truth(const TruthSource &source, int query)
    : source_(source), query_(query), length_(source.trace().q_pos[query] + 1), num_heads_(source.trace().num_q_heads),
      group_(source.trace().num_q_heads / source.trace().num_kv_heads), num_values_(source.trace().head_dim_v)
{
    const Trace &trace = source.trace();
    logits_.resize(static_cast<size_t>(num_heads_) * length_);
    std::vector<int32_t> all(length_);
    std::iota(all.begin(), all.end(), 0);
    for (int h = 0; h < num_heads_; h++) {
        const float *q = source.q(query, h);
        for (int32_t j = 0; j < length_; j++) {
            const float *k = source.k(h / group_, j);
            double dot = 0;
            for (int i = 0; i < trace.head_dim_qk; i++)
                dot += static_cast<double>(q[i]) * k[i];
            logits_[static_cast<size_t>(h) * length_ + j] = dot * trace.scale;
        }
        lse_.push_back(0);
        const std::vector<double> out = attend(h, all.data(), length_, &lse_.back());
        dense_.insert(dense_.end(), out.begin(), out.end());
    }
    for (int g = 0; g < trace.num_kv_heads; g++)
        for (int x = 0; x < num_values_; x++) {
            double sum = 0;
            for (int32_t j = 0; j < length_; j++)
                sum += source.v(g, j)[x];
            mean_values_.push_back(sum / length_);
        }
}

std::vector<int32_t> Truth::best(int s, int num_selection_heads, int k) const
{
    const int heads = num_heads_ / num_selection_heads;
    std::vector<double> sum(length_);
    for (int h = s * heads; h < (s + 1) * heads; h++)
        for (int32_t j = 0; j < length_; j++)
            sum[j] += std::exp(logits(h)[j] - lse(h));
    std::vector<int32_t> order(length_);
    std::iota(order.begin(), order.end(), 0);
    const auto better = [&sum](int32_t a, int32_t b) { return sum[a] != sum[b] ? sum[a] > sum[b] : a < b; };
    const auto end = order.begin() + std::min(k, length_);
    std::partial_sort(order.begin(), end, order.end(), better);
    order.erase(end, order.end());
    std::sort(order.begin(), order.end());
    return order;
}

double Truth::mass(int head, const int32_t *positions, int count) const
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += std::exp(logits(head)[positions[i]] - lse(head));
    return sum;
}

std::vector<double> Truth::attend(int head, const int32_t *positions, int count, double *lse) const
{
    double largest = -INFINITY, sum = 0;
    for (int i = 0; i < count; i++)
        largest = std::max(largest, logits(head)[positions[i]]);
    std::vector<double> out(num_values_);
    for (int i = 0; i < count; i++) {
        const double share = std::exp(logits(head)[positions[i]] - largest);
        const float *v = source_.v(head / group_, positions[i]);
        sum += share;
        for (int x = 0; x < num_values_; x++)
            out[x] += share * v[x];
    }
    for (double &value : out)
        value /= sum;
    *lse = largest + std::log(sum);
    return out;
}

std::vector<double> Truth::value_weights(int s, int num_selection_heads, const int32_t *positions, int count) const
{
    const int heads = num_heads_ / num_selection_heads;
    std::vector<double> weights(count);
    for (int h = s * heads; h < (s + 1) * heads; h++) {
        double lse = 0;
        attend(h, positions, count, &lse);
        for (int i = 0; i < count; i++)
            weights[i] += std::exp(logits(h)[positions[i]] - lse) / heads;
    }
    return weights;
}

double Truth::magnitude(int head, int32_t j) const
{
    const float *q = source_.q(query_, head), *k = source_.k(head / group_, j);
    double sum = 0;
    for (int i = 0; i < source_.trace().head_dim_qk; i++)
        sum += std::fabs(static_cast<double>(q[i]) * k[i]);
    return std::fabs(sum * source_.trace().scale);
}

double Truth::error(int head, const double *out) const
{
    double difference = 0, norm = 0;
    for (int x = 0; x < num_values_; x++) {
        difference += (out[x] - dense(head)[x]) * (out[x] - dense(head)[x]);
        norm += dense(head)[x] * dense(head)[x];
    }
    return norm > 0 ? std::sqrt(difference / norm) : 0;
}
