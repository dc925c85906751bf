/* SPDX-License-Identifier: Apache-2.0
 * How every refusal is made: one call that fills the caller's error (if any) and returns the status.
 */
#ifndef HATTN_CORE_STATUS_H
#define HATTN_CORE_STATUS_H

#include "api/hattn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* printf-style text. Returns status, so that `return hattn_fail(error, ...)` is a whole refusal. */
__attribute__((format(printf, 3, 4))) hattn_status hattn_fail(hattn_error *error, hattn_status status,
                                                              const char *format, ...);

#ifdef __cplusplus
}
#endif
#endif
