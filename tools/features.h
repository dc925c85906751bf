/* SPDX-License-Identifier: Apache-2.0
 * What users ask a backend for, and which problems of the conformance list show it: the rows of hattn verify's matrix.
 */
#ifndef HATTN_TOOLS_FEATURES_H
#define HATTN_TOOLS_FEATURES_H

#include <string>
#include <vector>

#include "problems/problems.h"

struct Feature {
    const char *operation, *name;
    std::vector<std::string> checks; /* conformance's operations, all of which must hold */
    bool (*is_in)(const problems::Problem &problem);
};

const std::vector<Feature> &all_features();

#endif
