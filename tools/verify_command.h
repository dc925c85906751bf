/* SPDX-License-Identifier: Apache-2.0
 * How a failed check of the conformance problems is repeated.
 */
#ifndef HATTN_TOOLS_VERIFY_COMMAND_H
#define HATTN_TOOLS_VERIFY_COMMAND_H

#include "conformance/checks.h"

/* "hattn verify ...", which runs nothing but this operation on this problem. */
std::string verify_command(const conformance::Outcome &outcome);

#endif
