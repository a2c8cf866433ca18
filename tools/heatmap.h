/* SPDX-License-Identifier: Apache-2.0 */
/* heatmap.h - the load of every expert of every layer as an SVG picture. */
#ifndef TOOLS_HEATMAP_H
#define TOOLS_HEATMAP_H

#include "file.h"
#include "survey.h"

/* Writes the whole picture and flushes it; committing is the caller's. `model` is for the title. */
enum outcome heatmap_write(struct output_file *file, const char *model, const struct survey *survey,
                           struct fault *fault);

#endif
