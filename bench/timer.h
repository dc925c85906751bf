/* SPDX-License-Identifier: Apache-2.0
 * Time, and what is kept of many timings. The median of rounds that took turns is what this project quotes: on shared
 * machines the bandwidth moves by a third within the hour, and only ratios out of the same rounds hold.
 */
#ifndef HATTN_BENCH_TIMER_H
#define HATTN_BENCH_TIMER_H

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

inline double now_us()
{
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/* Of the calling thread: less than the time that passes where others have its processor. */
inline double thread_cpu_us()
{
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return double(time.tv_sec) * 1e6 + double(time.tv_nsec) * 1e-3;
}

/* Of at least one value. */
inline double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    const size_t half = values.size() / 2;
    return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/* All but add and empty need at least one value. */
class Samples
{
public:
    void add(double value) { values_.push_back(value); }
    bool empty() const { return values_.empty(); }
    double min() const { return *std::min_element(values_.begin(), values_.end()); }

    double median() const { return ::median(values_); }
    double mean() const { return std::accumulate(values_.begin(), values_.end(), 0.0) / double(values_.size()); }
    /* The least value that at least `share` of the values do not exceed, 0 < share <= 1. */
    double quantile(double share) const
    {
        std::vector<double> sorted = values_;
        std::sort(sorted.begin(), sorted.end());
        return sorted[size_t(std::ceil(share * double(sorted.size()))) - 1];
    }
    double share_above(double limit) const
    {
        return double(std::count_if(values_.begin(), values_.end(), [limit](double value) { return value > limit; })) /
               double(values_.size());
    }
    size_t size() const { return values_.size(); }

private:
    std::vector<double> values_;
};

#endif
