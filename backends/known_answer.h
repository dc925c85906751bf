/* SPDX-License-Identifier: Apache-2.0
 * The known answer of devices whose kernels a driver compiles: one small problem when a device is opened.
 */
#ifndef HATTN_BACKENDS_KNOWN_ANSWER_H
#define HATTN_BACKENDS_KNOWN_ANSWER_H

#include "backends/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the backend's memory is reached; each waits until it is done, and fails in words. */
typedef struct hattn_known_memory {
    hattn_status (*allocate)(hattn_device *device, uint64_t size, hattn_buffer *buffer, hattn_error *error);
    void (*release)(hattn_device *device, hattn_buffer buffer);
    hattn_status (*write)(hattn_device *device, hattn_buffer to, const void *from, uint64_t size, hattn_error *error);
    /* After everything that runs on `stream` have enqueued. */
    hattn_status (*read)(hattn_device *device, void *to, hattn_buffer from, uint64_t size, hattn_error *error);
    void *stream; /* in order with write and read */
} hattn_known_memory;

/* Runs every operation once against the reference. HATTN_DEVICE_ERROR: the device gives something else; the text has the
 * operation, the first wrong value, and what it should be. $HATTN_SELFTEST 0: does nothing. Allocates while it runs. */
hattn_status hattn_known_answer(hattn_device *device, const hattn_known_memory *memory, hattn_error *error);

#ifdef __cplusplus
}
#endif
#endif
