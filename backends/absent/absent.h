/* SPDX-License-Identifier: Apache-2.0
 * The table of a backend that is not built.
 */
#ifndef HATTN_BACKENDS_ABSENT_ABSENT_H
#define HATTN_BACKENDS_ABSENT_ABSENT_H

#include "backends/backend.h"

/* No device, and why. */
int hattn_absent_device_count(char *why, size_t size);

#define HATTN_ABSENT_BACKEND(its_name)                              \
    {                                                               \
        .name = its_name, .device_count = hattn_absent_device_count \
    }

#endif
