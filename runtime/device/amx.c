/* SPDX-License-Identifier: Apache-2.0 */
/* amx.c - asking Linux for the tile registers. */
#include "amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Of Linux 5.16's arch_prctl(); the headers of many systems do not name them yet. */
enum { ARCH_GET_XCOMP_PERM_CODE = 0x1022, ARCH_REQ_XCOMP_PERM_CODE = 0x1023, TILE_DATA = 18 };

bool moecl_amx_permit(void)
{
    unsigned long permitted = 0;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_CODE, TILE_DATA) != 0 ||
        syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM_CODE, &permitted) != 0)
        return false;
    return (permitted >> TILE_DATA & 1) != 0;
}
#else
bool moecl_amx_permit(void)
{
    return false;
}
#endif
