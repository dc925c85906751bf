/* SPDX-License-Identifier: Apache-2.0
 * A quota holds for a group and everything below it, so every group from the process's own up to the root counts. In a container the
 * path may not exist under the mount, or be "/": then what does exist above it counts.
 */
#define _GNU_SOURCE
#include "backends/cpu/processors.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PATH = 4096, MAX_PROCESSORS = 1 << 16 };

/* At most size - 1 bytes, NUL-terminated; 0: there is no such file. Without stdio, which allocates. */
static int read_file(const char *path, char *text, size_t size)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    size_t used = 0;
    for (ssize_t got = 1; got > 0 && used + 1 < size; used += got > 0 ? (size_t)got : 0)
        got = read(file, text + used, size - 1 - used);
    text[used] = 0;
    close(file);
    return 1;
}

static int whole_processors(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    const long long whole = quota / period;
    return whole < 1 ? 1 : whole > MAX_PROCESSORS ? MAX_PROCESSORS : (int)whole;
}

/* Of one group; 0: none. */
static int quota_of(const char *group)
{
    char path[MAX_PATH + 32], text[64];
    snprintf(path, sizeof(path), "%s/cpu.max", group);
    if (read_file(path, text, sizeof(text))) {
        char *end;
        const long long quota = strtoll(text, &end, 10); /* "max": no number */
        return end == text ? 0 : whole_processors(quota, strtoll(end, NULL, 10));
    }
    snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", group);
    if (!read_file(path, text, sizeof(text)))
        return 0;
    const long long quota = strtoll(text, NULL, 10);
    snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", group);
    return read_file(path, text, sizeof(text)) ? whole_processors(quota, strtoll(text, NULL, 10)) : 0;
}

static int tighter(int a, int b) { return !a || (b && b < a) ? b : a; }

/* Of the group `path` below `root` and of those above it. */
static int quota_up_from(const char *root, const char *path)
{
    char group[MAX_PATH];
    const size_t shortest = strlen(root);
    if ((size_t)snprintf(group, sizeof(group), "%s%s", root, path) >= sizeof(group))
        return 0;
    int quota = 0;
    for (;;) {
        quota = tighter(quota, quota_of(group));
        char *slash = strrchr(group, '/');
        if (!slash || strlen(group) <= shortest)
            return quota;
        *slash = 0;
        if (strlen(group) < shortest)
            return quota;
    }
}

/* Is "cpu" one of the controllers, "cpu,cpuacct"? */
static int has_cpu(const char *list, size_t length)
{
    for (size_t start = 0, i = 0; i <= length; i++)
        if (i == length || list[i] == ',') {
            if (i - start == 3 && !memcmp(list + start, "cpu", 3))
                return 1;
            start = i + 1;
        }
    return 0;
}

int hattn_cpu_quota(const char *groups, const char *mount)
{
    int quota = 0;
    for (const char *line = groups; *line;) { /* "4:cpu,cpuacct:/a/b" or, version 2, "0::/a/b" */
        const char *end = strchr(line, '\n'), *list = strchr(line, ':');
        end = end ? end : line + strlen(line);
        const char *path = list ? strchr(list + 1, ':') : NULL;
        if (path && path < end) {
            const int list_length = (int)(path - list - 1), path_length = (int)(end - path - 1);
            char root[MAX_PATH], below[MAX_PATH];
            snprintf(below, sizeof(below), "%.*s", path_length, path + 1);
            if (!list_length) {
                quota = tighter(quota, quota_up_from(mount, below));
            } else if (has_cpu(list + 1, (size_t)list_length)) {
                snprintf(root, sizeof(root), "%s/%.*s", mount, list_length, list + 1);
                quota = tighter(quota, quota_up_from(root, below));
                snprintf(root, sizeof(root), "%s/cpu", mount);
                quota = tighter(quota, quota_up_from(root, below));
            }
        }
        line = *end ? end + 1 : end;
    }
    return quota;
}

/* Of the calling thread's mask, which the kernel takes in sizes from its own up. */
static int affinity(void)
{
    for (int size = 1024; size <= MAX_PROCESSORS; size *= 4) {
        cpu_set_t *set = CPU_ALLOC(size);
        if (!set)
            break;
        const size_t bytes = CPU_ALLOC_SIZE(size);
        const int failed = sched_getaffinity(0, bytes, set);
        const int too_small = failed && errno == EINVAL, count = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (!too_small)
            return count;
    }
    return 0;
}

int hattn_cpu_processors(void)
{
    char groups[8192];
    int count = affinity();
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (count < 1)
        count = online > 0 ? (int)online : 1;
    const int quota =
        read_file("/proc/self/cgroup", groups, sizeof(groups)) ? hattn_cpu_quota(groups, "/sys/fs/cgroup") : 0;
    return quota && quota < count ? quota : count;
}
