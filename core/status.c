/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "core/status.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>

const char *hattn_status_string(hattn_status status)
{
    switch (status) {
    case HATTN_OK: return "ok";
    case HATTN_INVALID_ARGUMENT: return "invalid argument";
    case HATTN_UNSUPPORTED: return "unsupported";
    case HATTN_NO_DEVICE: return "no device";
    case HATTN_OUT_OF_MEMORY: return "out of memory";
    case HATTN_WORKSPACE_TOO_SMALL: return "workspace too small";
    case HATTN_DEVICE_ERROR: return "device error";
    }
    return "unknown status";
}

hattn_status hattn_fail(hattn_error *error, hattn_status status, const char *format, ...)
{
    if (error) {
        /* A host's locale may write -1,5. The C locale is a constant of the C library: nothing is allocated. */
        const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0), hosts = uselocale(c);
        va_list list;
        va_start(list, format);
        vsnprintf(error->text, sizeof(error->text), format, list);
        va_end(list);
        uselocale(hosts);
        error->status = status;
    }
    return status;
}
