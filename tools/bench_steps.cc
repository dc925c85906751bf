/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_steps.h"

#include <algorithm>

#include "tools/device.h"

namespace {

/* HATTN_COUNTER_RESCORED of the config's workspace, whose runs are done; -1: its plan does not count. */
int64_t read_rescored(const Config &config)
{
    uint64_t offset = 0, count = 0;
    hattn_error error = {};
    const hattn_status status = hattn_plan_counter(config.plan->get(), HATTN_COUNTER_RESCORED, &offset, &error);
    if (status == HATTN_UNSUPPORTED)
        return -1;
    check(status, error, "counter of rows that are scored again");
    const hattn_buffer workspace = config.plan->exec()->workspace;
    config.device->memory().read(&count, static_cast<uint8_t *>(workspace.data) + workspace.byte_offset + offset,
                                 sizeof(count));
    return int64_t(count);
}

struct Step {
    size_t turn; /* of its queries */
    std::unique_ptr<devices::Recording> recording;
};

} // namespace

void time_steps(Workload &workload, bool is_host, int64_t num_steps, Config &config)
{
    /* As many as it takes until one meets its layer again: a recording on a device keeps its layer. */
    const int64_t num_recordings = is_host ? 1 : std::min(num_steps, workload.cold_calls(DECODE));
    std::vector<Step> steps;
    for (int64_t i = 0; i < num_recordings; i++) {
        workload.next_layer();
        const size_t turn = workload.set_turn();
        steps.push_back({turn, config.device->stopwatch().record([&workload, &config] {
                             hattn_error error = {};
                             check(workload.run(DECODE, config.plan->get(), config.plan->exec(), &error), error,
                                   STAGE_NAMES[DECODE]);
                         })});
    }
    for (Step &step : steps) /* loads what the first replay loads */
        step.recording->replay();
    const int64_t before = read_rescored(config);
    for (int64_t i = 0; i < num_steps; i++) {
        Step &step = steps[size_t(i % num_recordings)];
        if (is_host) {
            workload.next_layer();
            step.turn = workload.set_turn();
        }
        workload.renew_queries(step.turn, uint64_t(1000 + i));
        config.step_us.add(step.recording->replay());
    }
    if (before >= 0)
        config.rescored = read_rescored(config) - before;
}
