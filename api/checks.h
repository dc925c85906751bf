/* SPDX-License-Identifier: Apache-2.0
 * What a run may refuse: O(1) checks of arguments that are of this version.
 */
#ifndef HATTN_API_CHECKS_H
#define HATTN_API_CHECKS_H

#include <stdbool.h>

#include "api/hattn.h"
#include "backends/backend.h"

/* A team whose barrier can be entered. */
bool hattn_team_is_sound(const hattn_team *team);

hattn_status hattn_check_exec(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error);
hattn_status hattn_check_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, hattn_error *error);
hattn_status hattn_check_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                        hattn_error *error);
hattn_status hattn_check_score(const hattn_plan *plan, const hattn_score_args *args, hattn_error *error);
hattn_status hattn_check_topk(const hattn_plan *plan, const hattn_topk_args *args, hattn_error *error);
hattn_status hattn_check_attend(const hattn_plan *plan, const hattn_attend_args *args, hattn_error *error);
hattn_status hattn_check_merge(const hattn_plan *plan, const hattn_merge_args *args, hattn_error *error);
hattn_status hattn_check_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, hattn_error *error);
hattn_status hattn_check_decode(const hattn_plan *plan, const hattn_decode_args *args, hattn_error *error);
hattn_status hattn_check_workspace(const hattn_device *device, hattn_buffer workspace, uint64_t size,
                                   hattn_error *error);

#endif
