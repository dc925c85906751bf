/* SPDX-License-Identifier: Apache-2.0
 * Public entry points of runs: checks of arguments, then one call through the backend's table. In between a run enters what hosts
 * need: the default floating-point environment, and the team.
 */
#include <stdbool.h>

#include "api/checks.h"
#include "api/structs.h"
#include "backends/host_control.h"
#include "core/fp_environment.h"

/* One call: its own copies of what it was given, and what it has entered. */
typedef struct run {
    hattn_exec exec;
    hattn_status status;
    const hattn_team *team; /* of more than one: its barriers are entered in any case; NULL: none */
    bool has_begun;         /* on a host: there is something to leave */
    bool is_first;          /* of the team to come */
    uint64_t fp;
} run;

/* Takes exec and args, of any version. */
static run take(const hattn_plan *plan, const hattn_exec *exec, void *ours, size_t size, const void *args,
                hattn_error *error)
{
    run r = {.status = HATTN_OK};
    if ((r.status = HATTN_TAKE(r.exec, exec)))
        return r;
    r.team = r.exec.team && hattn_team_is_sound(r.exec.team) && r.exec.team->size > 1 ? r.exec.team : NULL;
    r.status = hattn_check_exec(plan, &r.exec, error);
    if (!r.status)
        r.status = hattn_take_struct(ours, size, args, "args", error);
    return r;
}

/* True if this thread is to call the backend. A backend that cannot share a run leaves it to the first rank that comes. */
static bool begin(run *r, const hattn_plan *plan, int32_t amount)
{
    if (r->status || amount == 0)
        return false;
    if (!plan->backend->is_host)
        return true;
    r->has_begun = true;
    r->fp = hattn_fp_enter();
    if (!r->team) {
        r->exec.num_threads = r->exec.team ? 1 : r->exec.num_threads; /* a team of one */
        r->exec.team = NULL;
        return true;
    }
    r->is_first = !atomic_fetch_add(&hattn_host_control_of(r->exec.workspace)->entered, 1);
    if (plan->backend->shares_runs)
        return true;
    r->exec.team = NULL;
    return r->is_first;
}

/* The first barrier is the end of everybody's work, the second that of the first rank's cleaning. */
static hattn_status end(const run *r)
{
    if (r->team) {
        r->team->barrier(r->team->context);
        if (r->is_first)
            hattn_host_control_reset(hattn_host_control_of(r->exec.workspace));
        r->team->barrier(r->team->context);
    }
    if (r->has_begun)
        hattn_fp_leave(r->fp);
    return r->status;
}

hattn_status hattn_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    hattn_encode_keys_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_encode_keys(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.num_tokens))
        r.status = plan->backend->encode_keys(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args, const hattn_exec *exec,
                                  hattn_error *error)
{
    hattn_encode_queries_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_encode_queries(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.num_rows))
        r.status = plan->backend->encode_queries(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                         hattn_error *error)
{
    hattn_score_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_score(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.batch.num_rows))
        r.status = plan->backend->score(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec, hattn_error *error)
{
    hattn_topk_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_topk(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.batch.num_rows))
        r.status = plan->backend->topk(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                          hattn_error *error)
{
    hattn_attend_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_attend(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.batch.num_rows))
        r.status = plan->backend->attend(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                         hattn_error *error)
{
    hattn_merge_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_merge(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.num_rows))
        r.status = plan->backend->merge(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    hattn_sum_values_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_sum_values(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.batch.num_rows))
        r.status = plan->backend->sum_values(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                          hattn_error *error)
{
    hattn_decode_args ours;
    run r = take(plan, exec, &ours, sizeof(ours), args, error);
    r.status = r.status ? r.status : hattn_check_decode(plan, &ours, error);
    if (begin(&r, plan, r.status ? 0 : ours.batch.num_rows))
        r.status = (plan->is_composed ? hattn_compose_decode : plan->backend->decode)(plan, &ours, &r.exec, error);
    return end(&r);
}

hattn_status hattn_workspace_init(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                  hattn_error *error)
{
    const hattn_status status = hattn_check_workspace(device, workspace, size, error);
    return status ? status : device->backend->workspace_init(device, workspace, size, stream, error);
}
