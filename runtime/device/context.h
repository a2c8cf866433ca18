/* SPDX-License-Identifier: Apache-2.0 */
/* context.h - what every floor of the runtime shares: the device, the error sentence, the caches. */
#ifndef MOECL_RUNTIME_CONTEXT_H
#define MOECL_RUNTIME_CONTEXT_H

#include <moecl/moecl.h>

#include "error.h"

struct moecl_program; /* program.h */

struct moecl_context {
    struct moecl_error error;
    char *cache_directory; /* NULL: as the environment says; "off": none */

    /* NULL until a device is open */
    cl_context cl;
    cl_device_id device;
    cl_command_queue queue;
    bool out_of_order;      /* the queue runs its commands in any order */
    moecl_device_info info; /* info.probed tells whether the probes have run */

    struct moecl_program *programs; /* built so far, a list */
    void (*forget)(void);           /* empties what another library keeps of this context's; NULL: nothing */
};

/* MOECL_INVALID_ARGUMENT with a sentence unless a device is open. */
moecl_status moecl_context_require_device(struct moecl_context *context);

#endif
