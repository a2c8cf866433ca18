/* SPDX-License-Identifier: Apache-2.0 */
/* export.h - which symbols the shared library shows.
 *
 * The library is built with hidden visibility; MOECL_API marks the public functions. */
#ifndef MOECL_EXPORT_H
#define MOECL_EXPORT_H

#if defined(_WIN32) && !defined(MOECL_STATIC)
#ifdef MOECL_BUILDING
#define MOECL_API __declspec(dllexport)
#else
#define MOECL_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define MOECL_API __attribute__((visibility("default")))
#else
#define MOECL_API
#endif

#endif
