/* SPDX-License-Identifier: Apache-2.0 */
#include "api/structs.h"

#include <string.h>

#include "core/status.h"

/* Everything before the first field, and much more than any version will have: a size outside was never set. */
enum { MIN_SIZE = 2 * sizeof(uint32_t), MAX_SIZE = 1 << 14 };

static hattn_status check_size(const void *theirs, const char *name, uint32_t *size, hattn_error *error)
{
    if (!theirs)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "%s is null", name);
    memcpy(size, theirs, sizeof(*size));
    if (*size < MIN_SIZE || *size > MAX_SIZE)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "%s.struct_size is %u: set it to sizeof the struct", name,
                          *size);
    return HATTN_OK;
}

hattn_status hattn_take_struct(void *ours, size_t size, const void *theirs, const char *name, hattn_error *error)
{
    uint32_t given = 0;
    const hattn_status status = check_size(theirs, name, &given, error);
    if (status)
        return status;
    const size_t known = given < size ? given : size;
    memcpy(ours, theirs, known);
    memset((char *)ours + known, 0, size - known);
    const uint32_t our_size = (uint32_t)size;
    memcpy(ours, &our_size, sizeof(our_size));
    for (size_t i = size; i < given; i++)
        if (((const char *)theirs)[i])
            return hattn_fail(error, HATTN_INVALID_ARGUMENT,
                              "%s.struct_size is %u, this library's is %zu: a field that it does not know is set", name,
                              given, size);
    return HATTN_OK;
}

hattn_status hattn_give_struct(void *theirs, const void *ours, size_t size, const char *name, hattn_error *error)
{
    uint32_t given = 0;
    const hattn_status status = check_size(theirs, name, &given, error);
    if (status)
        return status;
    const size_t known = given < size ? given : size, head = sizeof(given);
    memcpy((char *)theirs + head, (const char *)ours + head, known - head);
    memset((char *)theirs + known, 0, given - known);
    return HATTN_OK;
}
