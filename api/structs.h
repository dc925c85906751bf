/* SPDX-License-Identifier: Apache-2.0
 * Structs that start with struct_size, of callers built with other versions of the header.
 */
#ifndef HATTN_API_STRUCTS_H
#define HATTN_API_STRUCTS_H

#include "api/hattn.h"

/* Copies a caller's struct into ours of `size` bytes: what the caller's is too short for becomes 0, what ours is must be 0.
 * HATTN_INVALID_ARGUMENT, in words: null, a size that no version has, something that this library does not know. */
hattn_status hattn_take_struct(void *ours, size_t size, const void *theirs, const char *name, hattn_error *error);

/* The other way, for what the library fills in. */
hattn_status hattn_give_struct(void *theirs, const void *ours, size_t size, const char *name, hattn_error *error);

#define HATTN_TAKE(ours, theirs) hattn_take_struct(&(ours), sizeof(ours), (theirs), #theirs, error)
#define HATTN_GIVE(theirs, ours) hattn_give_struct((theirs), &(ours), sizeof(ours), #theirs, error)

#endif
