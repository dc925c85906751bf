/* SPDX-License-Identifier: Apache-2.0
 * Carving a workspace into offsets. One function a layout, called by the plan for the size and by runs for the
 * offsets, so that the two cannot disagree.
 */
#ifndef HATTN_CORE_WORKSPACE_H
#define HATTN_CORE_WORKSPACE_H

#include <stdint.h>

enum { HATTN_WORKSPACE_ALIGNMENT = 256 };

/* The offset of `bytes` fresh bytes, aligned; *used moves past them. */
static inline uint64_t hattn_carve(uint64_t *used, uint64_t bytes)
{
    uint64_t offset = *used;
    *used += (bytes + HATTN_WORKSPACE_ALIGNMENT - 1) / HATTN_WORKSPACE_ALIGNMENT * HATTN_WORKSPACE_ALIGNMENT;
    return offset;
}

#endif
