/* SPDX-License-Identifier: Apache-2.0
 * Time, and what is kept of many timings. The median of rounds that took turns is what this project quotes: on shared
 * machines the bandwidth moves by a third within the hour, and only ratios out of the same rounds hold.
 */
#ifndef HATTN_BENCH_TIMER_H
#define HATTN_BENCH_TIMER_H

#include <time.h>

#include <algorithm>
#include <chrono>
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

/* median and min need at least one value. */
class Samples
{
public:
    void add(double value) { values_.push_back(value); }
    bool empty() const { return values_.empty(); }
    double min() const { return *std::min_element(values_.begin(), values_.end()); }

    double median() const
    {
        std::vector<double> sorted = values_;
        std::sort(sorted.begin(), sorted.end());
        size_t half = sorted.size() / 2;
        return sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
    }

private:
    std::vector<double> values_;
};

#endif
