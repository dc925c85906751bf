/* SPDX-License-Identifier: Apache-2.0
 * What a problem means, and every rule on it that holds for all backends, each with its own words.
 */
#ifndef HATTN_API_VALIDATE_H
#define HATTN_API_VALIDATE_H

#include "api/hattn.h"

/* Fills in what 0 stands for. */
void hattn_complete_problem(hattn_problem *problem);

/* HATTN_BROADCAST becomes a stride of 0: how the library reads a problem from then on. */
void hattn_resolve_broadcasts(hattn_problem *problem);

/* HATTN_OK, or HATTN_INVALID_ARGUMENT / HATTN_UNSUPPORTED with the field and the rule in error. */
hattn_status hattn_validate_problem(const hattn_problem *problem, hattn_error *error);

#endif
