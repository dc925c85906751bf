/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/verify_command.h"

std::string verify_command(const conformance::Outcome &outcome)
{
    const std::string random = problems::random_kind(outcome.problem);
    return "hattn verify --backend " + outcome.target.backend +
           (outcome.target.isa.empty() ? "" : " --isa " + outcome.target.isa) + " --filter " + outcome.problem + "/" +
           outcome.op + (random.empty() ? "" : " --" + random + " 1") + " --seed " + std::to_string(outcome.seed);
}
