/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/absent/absent.h"

#include <stdio.h>

int hattn_absent_device_count(char *why, size_t size)
{
    snprintf(why, size, "not built into this library");
    return 0;
}
