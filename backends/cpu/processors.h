/* SPDX-License-Identifier: Apache-2.0
 * How many processors this process may keep busy.
 */
#ifndef HATTN_BACKENDS_CPU_PROCESSORS_H
#define HATTN_BACKENDS_CPU_PROCESSORS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Those of the calling thread's affinity mask, but no more than its control groups allow, rounded down: who is throttled stands
 * still for the rest of a period. At least 1. */
int hattn_cpu_processors(void);

/* The tightest CPU quota (of control groups, version 1 or 2) in whole processors, at least 1; 0: none. `groups` is the text of
 * /proc/self/cgroup, `mount` where the hierarchies are: "/sys/fs/cgroup". */
int hattn_cpu_quota(const char *groups, const char *mount);

#ifdef __cplusplus
}
#endif
#endif
