/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/device_runner.h"

#include <cstdio>
#include <stdexcept>

#include "conformance/mirror.h"

namespace conformance {
namespace {

hattn_status fail(hattn_error *error, const std::string &text)
{
    if (error) {
        error->status = HATTN_DEVICE_ERROR;
        snprintf(error->text, sizeof(error->text), "%s", text.c_str());
    }
    return HATTN_DEVICE_ERROR;
}

template <class Args>
auto mirrored(const DeviceCalls &calls,
              hattn_status (*call)(const hattn_plan *, const Args *, const hattn_exec *, hattn_error *))
{
    return [calls, call](const hattn_plan *plan, const Args *args, const hattn_exec *exec, hattn_error *error) {
        try {
            Mirror mirror(*calls.memory, calls.pinned);
            const Args there = mirror.there_all(*args);
            hattn_exec exec_there = *exec;
            if (!calls.leaves_workspaces)
                exec_there.workspace = mirror.there(exec->workspace);
            const hattn_status status = calls.launch([&](void *stream) {
                exec_there.stream = stream;
                return call(plan, &there, &exec_there, error);
            });
            if (status)
                return status;
            const std::string wrong = mirror.bring_back();
            return wrong.empty() ? HATTN_OK : fail(error, wrong);
        } catch (const std::runtime_error &failure) {
            return fail(error, failure.what());
        }
    };
}

} // namespace

Runner device_runner(const DeviceCalls &calls)
{
    Runner runner;
    runner.workspace_init = [calls](hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                    hattn_error *error) {
        Mirror mirror(*calls.memory, calls.pinned);
        const hattn_buffer place = calls.leaves_workspaces ? workspace : mirror.there(workspace);
        if (hattn_status status =
                hattn_workspace_init(device, place, size, stream ? stream : calls.memory->stream(), error))
            return status;
        const std::string wrong = mirror.bring_back();
        return wrong.empty() ? HATTN_OK : fail(error, wrong);
    };
    runner.encode_keys = mirrored(calls, hattn_encode_keys);
    runner.encode_queries = mirrored(calls, hattn_encode_queries);
    runner.score = mirrored(calls, hattn_score);
    runner.topk = mirrored(calls, hattn_topk);
    runner.attend = mirrored(calls, hattn_attend);
    runner.merge = mirrored(calls, hattn_merge);
    runner.sum_values = mirrored(calls, hattn_sum_values);
    runner.decode = mirrored(calls, hattn_decode);
    return runner;
}

} // namespace conformance
