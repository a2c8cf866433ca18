/* SPDX-License-Identifier: Apache-2.0 */
/* flag.h - the bits of the flag word that kernels raise; cl/common.cl has the same. */
#ifndef MOECL_RUNTIME_FLAG_H
#define MOECL_RUNTIME_FLAG_H

enum { MOECL_FLAG_NOT_FINITE = 1, MOECL_FLAG_BAD_EXPERT = 2 };

#endif
