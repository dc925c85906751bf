/* SPDX-License-Identifier: Apache-2.0 */
#include "contract/attention.h"

#include <algorithm>

namespace contract {
namespace {

const double UNIT = 0x1p-24; /* of fp32's rounding */

/* Smaller values are as good as zero: weights times values lose bits where fp32 numbers become subnormal. */
const double FLOOR = 0x1p-100;

/* e^error would overflow; nothing is left to hold anybody to long before. */
const double LARGEST_ERROR = 100;

} // namespace

Sums sums_of(int32_t q_dtype)
{
    return q_dtype == HATTN_F32 ? Sums::F32 : q_dtype == HATTN_F16 ? Sums::F16 : Sums::BF16;
}

Sums sums_of(const std::string &backend, int32_t q_dtype)
{
    return backend == "reference" ? Sums::DOUBLE : backend == "cpu" ? Sums::F32 : sums_of(q_dtype);
}

double sum_error(Sums sums)
{
    switch (sums) {
    case Sums::DOUBLE: return 0x1p-30; /* what a thousand roundings of large logits may come to */
    case Sums::F32: return 0x1p-18;
    case Sums::F16: return 0x1p-9;
    default: return 0x1p-6;
    }
}

double logit_error(int head_dim_qk, double magnitude, double capped)
{
    return std::isfinite(magnitude) ? (head_dim_qk / 4.0 + 16) * UNIT * magnitude + 8 * UNIT * capped : 0;
}

double rounding(int32_t dtype, double value)
{
    const int bits = dtype == HATTN_F16 ? 11 : dtype == HATTN_BF16 ? 8 : 24;
    const double smallest = std::ldexp(1, dtype == HATTN_F16 ? -25 : dtype == HATTN_BF16 ? -134 : -150);
    return std::max(std::ldexp(std::fabs(value), -bits), smallest);
}

static double largest_number(int32_t dtype)
{
    return dtype == HATTN_F16 ? 65504 : dtype == HATTN_BF16 ? 0x1.fep127 : 0x1.fffffep127;
}

bool within(double got, double exact, double tolerance, int32_t dtype)
{
    if (got == exact || tolerance == INFINITY)
        return true;
    if (std::isnan(exact))
        return std::isnan(got);
    if (std::isinf(got) && std::fabs(exact) + tolerance >= largest_number(dtype))
        return (got > 0) == (exact > 0);
    return std::fabs(got - exact) <= tolerance;
}

Logit tail_logit(const std::vector<Logit> &logits, const Tail &tail, double factor)
{
    const uint32_t anchor = 1u << 31;
    double largest = -INFINITY, near = 0, all = 0, near_shares = 0, all_shares = 0, error = 0;
    for (const Logit &logit : logits)
        largest = std::max(largest, logit.value);
    for (size_t i = 0; i < logits.size(); i++) {
        const double share = tail.shares[i] & ~anchor, e = std::exp(logits[i].value - largest);
        if (share == 0)
            continue;
        all += e, all_shares += share;
        error = std::max(error, logits[i].error);
        if (tail.shares[i] & anchor)
            near += e, near_shares += share;
    }
    if (near_shares == 0 || tail.rest <= 0 || largest == -INFINITY)
        return {-INFINITY, 0};
    const double rest = static_cast<double>(tail.rest);
    const double mass = std::min(factor * near * rest / near_shares, all * rest / all_shares);
    return {largest + std::log(mass), error + 2 * sum_error(Sums::F32)};
}

double Columns::tolerance(int i, Sums sums, int32_t dtype) const
{
    if (largest == 0 || std::isnan(column[i].exact)) /* zeros, nothing at all, or nothing to hold to */
        return column[i].slack;
    const double sum = sum_error(sums) * largest + (sums == Sums::DOUBLE ? 0 : column[i].slack + FLOOR);
    return sum + rounding(dtype, std::fabs(column[i].exact) + sum);
}

Attention::Attention(std::vector<Logit> logits, double sink) : logits_(std::move(logits))
{
    double largest = sink, sum = 0, grown = 0, shrunk = 0;
    for (Logit &logit : logits_) {
        logit.error = std::min(logit.error, LARGEST_ERROR);
        if (!(logit.value <= largest)) /* NaN stays */
            largest = std::isnan(largest) ? largest : logit.value;
    }
    lse_ = largest;
    if (!std::isfinite(largest)) {
        if (largest != -INFINITY) /* the largest is infinite, or some logit is no number */
            lse_ = NAN;
        return;
    }
    for (const Logit &logit : logits_) {
        const double weight = std::exp(logit.value - largest);
        sum += weight;
        grown += weight * std::exp(logit.error);
        shrunk += weight * std::exp(-logit.error);
    }
    const double of_sink = std::exp(sink - largest);
    sum += of_sink;
    growth_ = (grown + of_sink) / sum;
    shrinkage_ = (shrunk + of_sink) / sum;
    lse_ = largest + std::log(sum);
}

double Attention::lse_tolerance(Sums sums) const
{
    if (!std::isfinite(lse_))
        return 0;
    if (sums == Sums::DOUBLE)
        return sum_error(sums) + rounding(HATTN_F32, lse_);
    return sum_error(sums) + std::log(growth_) + 4 * UNIT * std::fabs(lse_);
}

Attention::Weight Attention::weight(size_t j) const
{
    if (lse_ == -INFINITY)
        return {0, 0, 0};
    const double exact = std::exp(logits_[j].value - lse_), error = logits_[j].error;
    return {exact, exact * std::exp(-error) / growth_, exact * std::exp(error) / shrinkage_};
}

std::vector<Read> reads_of(const std::vector<Attention> &heads, size_t num, double min_value_weight)
{
    const double rounded = 2 * sum_error(Sums::F32), least = min_value_weight * static_cast<double>(heads.size());
    std::vector<Read> reads;
    for (size_t j = 0; j < num; j++) {
        Attention::Weight sum = {0, 0, 0};
        for (const Attention &head : heads) {
            const Attention::Weight weight = head.weight(j);
            sum.exact += weight.exact, sum.least += weight.least, sum.most += weight.most;
        }
        const bool is_read = !(sum.exact < least);
        reads.push_back({is_read, is_read ? sum.least * (1 - rounded) < least : sum.most * (1 + rounded) >= least});
    }
    return reads;
}

Columns Attention::columns(int num, const Values &value, const Values &other) const
{
    Columns result;
    result.column.resize(num);
    if (!std::isfinite(lse_)) {
        for (Column &column : result.column)
            column.exact = std::isnan(lse_) ? NAN : 0; /* empty */
        return result;
    }
    std::vector<Column> &columns = result.column;
    for (size_t j = 0; j < logits_.size(); j++) {
        const double *values = value(j), weight = std::exp(logits_[j].value - lse_);
        for (int i = 0; i < num; i++) {
            if (std::isfinite(values[i])) {
                columns[i].exact += weight * values[i];
                result.largest = std::max(result.largest, std::fabs(values[i]));
            } else {
                columns[i] = {NAN, INFINITY};
            }
        }
    }
    for (size_t j = 0; j < logits_.size(); j++) {
        const double weight = std::exp(logits_[j].value - lse_) * std::expm1(logits_[j].error) / shrinkage_;
        if (!(weight > 0))
            continue;
        const double *values = value(j);
        for (int i = 0; i < num; i++)
            if (columns[i].slack < INFINITY)
                columns[i].slack += weight * std::fabs(values[i] - columns[i].exact);
    }
    for (size_t j = 0; other && j < logits_.size(); j++) {
        const double *others = other(j), *values = others ? value(j) : nullptr;
        for (int i = 0; others && i < num; i++)
            if (columns[i].slack < INFINITY) {
                columns[i].slack += weight(j).most * std::fabs(values[i] - others[i]);
                result.largest = std::max(result.largest, std::fabs(others[i]));
            }
    }
    return result;
}

} // namespace contract
