/* SPDX-License-Identifier: Apache-2.0
 * Every rule on a problem that holds for all backends, each with its own words.
 */
#ifndef HATTN_API_VALIDATE_H
#define HATTN_API_VALIDATE_H

#include "api/hattn.h"

/* HATTN_OK, or HATTN_INVALID_ARGUMENT / HATTN_UNSUPPORTED with the field and the rule in error. */
hattn_status hattn_validate_problem(const hattn_problem *problem, hattn_error *error);

#endif
