/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_turns.h"

#include <algorithm>

#include "tools/args.h"

namespace {

const size_t NONE = SIZE_MAX;

size_t baseline_of(const Subject &subject, const std::vector<Subject> &subjects)
{
    const auto found = std::find_if(subjects.begin(), subjects.end(), [&](const Subject &other) {
        return other.problem.name == subject.problem.baseline;
    });
    return found == subjects.end() ? NONE : size_t(found - subjects.begin());
}

std::vector<double> time_decodes(Subject &subject)
{
    std::vector<double> us;
    for (Config &config : subject.configs) {
        subject.workload->next_layer();
        us.push_back(config.recordings[DECODE]->replay() / double(config.calls[DECODE]));
    }
    return us;
}

} // namespace

void take_turns(std::vector<Subject> &subjects, int64_t rounds)
{
    Progress progress("hattn bench", int(rounds) + 1);
    const size_t num = subjects.size();
    for (int64_t round = -1; round < rounds; round++) { /* the first one warms up */
        progress.step("decodes in turns");
        std::vector<std::vector<double>> us(num);
        for (size_t i = 0; i < num; i++) {
            const size_t which = (i + size_t(round + 1)) % num;
            us[which] = time_decodes(subjects[which]);
        }
        for (size_t i = 0; round >= 0 && i < num; i++) {
            const size_t baseline = baseline_of(subjects[i], subjects);
            for (size_t c = 0; c < us[i].size(); c++) {
                subjects[i].configs[c].us[DECODE].add(us[i][c]);
                if (baseline != NONE)
                    subjects[i].configs[c].to_baseline.add(us[i][c] / us[baseline][c]);
            }
        }
    }
}
