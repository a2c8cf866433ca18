/* SPDX-License-Identifier: Apache-2.0 */
/* heatmap.c - layer x expert load as SVG: a row a layer, a column an expert, colour by load over the layer's mean.
 *
 *     title
 *     subtitle
 *            +--------------------------+  max/mean  entropy  CV^2  dropped
 *     layer  |  cells                   |  figures of the layer
 *            +--------------------------+
 *              expert
 *     legend: the colours' scale
 *
 * Every cell has a tooltip with its numbers. */
#include "heatmap.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

/* Where things are, in pixels. */
enum {
    LEFT = 72,
    TOP = 84,
    RIGHT = 20,
    FIGURE = 62, /* the width of a column of figures */
    FIGURES = 4,
    BELOW = 104, /* the axis, and the legend */
    LEGEND = 260,
    LEGEND_HEIGHT = 12,
    TITLE_CHARACTERS = 72,
    SMALLEST_WIDTH = 640
};

/* viridis (van der Walt, Smith 2015): lightness grows evenly, also for the colour-blind and in grey. */
static const unsigned char ramp[][3] = {{68, 1, 84},    {71, 45, 123}, {59, 82, 139},  {44, 114, 142}, {33, 145, 140},
                                        {40, 174, 128}, {94, 201, 98}, {173, 220, 48}, {253, 231, 37}};
enum { RAMP = sizeof(ramp) / sizeof(ramp[0]) };

struct picture {
    struct output_file *file;
    const struct survey *survey;
    struct fault *fault;
    enum outcome outcome; /* the first failure stays, and ends the writing */
    size_t columns;       /* of the layer with most outputs */
    double cell, row;     /* the size of a cell */
    double most;          /* load / mean of the ramp's end */
    bool clipped;         /* some load is larger */
};

static void draw(struct picture *picture, const char *format, ...) TOOLS_PRINTF(2, 3);

static void draw(struct picture *picture, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    const int length = vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    if (picture->outcome == OUTCOME_SUCCESS && length > 0)
        picture->outcome = output_file_write(picture->file, text, (size_t)length, picture->fault);
}

/* Text of anyone's into text for XML: at most `characters`, the last ones of a longer one; what is not plain ASCII
 * becomes '?'. */
static const char *escape(char *to, size_t size, const char *text, size_t characters)
{
    static const struct {
        char character;
        const char *entity;
    } entities[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
    const size_t length = strlen(text);
    size_t used = 0;
    for (const char *at = length > characters ? text + length - characters : text; *at && used + 8 < size; at++) {
        const char plain[] = {*at >= ' ' && *at <= '~' ? *at : '?', 0};
        const char *shown = plain;
        for (size_t i = 0; i < sizeof(entities) / sizeof(entities[0]); i++) {
            if (*at == entities[i].character)
                shown = entities[i].entity;
        }
        memcpy(to + used, shown, strlen(shown));
        used += strlen(shown);
    }
    to[used] = 0;
    return to;
}

/* "#rrggbb" of a place 0 to 1 on the ramp. */
static const char *colour(char text[8], double place)
{
    const double at = fmin(fmax(place, 0), 1) * (RAMP - 1);
    const size_t lower = at >= RAMP - 1 ? RAMP - 2 : (size_t)at;
    unsigned mixed[3];
    for (size_t i = 0; i < 3; i++)
        mixed[i] = (unsigned)lround(ramp[lower][i] + (at - (double)lower) * (ramp[lower + 1][i] - ramp[lower][i]));
    snprintf(text, 8, "#%02x%02x%02x", mixed[0] & 0xff, mixed[1] & 0xff, mixed[2] & 0xff);
    return text;
}

/* -------------------------------------------------------------------------------------------------------- layout -- */

static void lay_out(struct picture *picture)
{
    const struct survey *survey = picture->survey;
    double most = 0;
    for (size_t i = 0; i < survey->count; i++) {
        const struct statistics *statistics = &survey->layers[i].statistics;
        picture->columns = statistics->outputs > picture->columns ? statistics->outputs : picture->columns;
        most = fmax(most, (double)statistics->figures.largest_over_mean);
    }
    picture->cell = fmin(fmax(floor(960 / (double)picture->columns), 2), 28);
    picture->row = fmin(fmax(floor(640 / (double)survey->count), 14), 26);
    picture->most = (int)fmin(fmax(ceil(most), 2), 4);
    picture->clipped = most > picture->most;
}

static double plot_width(const struct picture *picture)
{
    return picture->cell * (double)picture->columns;
}

static double plot_height(const struct picture *picture)
{
    return picture->row * (double)picture->survey->count;
}

/* The least of 1, 2, 5, 10, ... columns that are `room` pixels apart. */
static size_t tick_step(const struct picture *picture, double room)
{
    static const size_t steps[] = {1, 2, 5};
    for (size_t power = 1;; power *= 10) {
        for (size_t i = 0; i < 3; i++) {
            if ((double)(power * steps[i]) * picture->cell >= room)
                return power * steps[i];
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- parts -- */

static void draw_head(struct picture *picture, const char *model)
{
    char name[TITLE_CHARACTERS * 6 + 8];
    const struct survey *survey = picture->survey;
    const double width = fmax(LEFT + plot_width(picture) + FIGURES * FIGURE + RIGHT, SMALLEST_WIDTH);
    const double height = TOP + plot_height(picture) + BELOW;
    escape(name, sizeof(name), model, TITLE_CHARACTERS);
    draw(picture,
         "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
         "role=\"img\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n",
         width, height, width, height);
    draw(picture, "<title>Load of the experts of %s</title>\n", name);
    draw(picture, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n");
    draw(picture, "<text x=\"%d\" y=\"24\" font-size=\"16\" font-weight=\"bold\">Load of the experts: %s</text>\n",
         LEFT, name);
    draw(picture,
         "<text x=\"%d\" y=\"42\" fill=\"#555\">%zu MoE layer%s; colour: choices that fall on an expert, over its "
         "layer's mean</text>\n",
         LEFT, survey->count, survey->count == 1 ? "" : "s");
}

static void draw_cells(struct picture *picture)
{
    char text[8];
    draw(picture, "<g shape-rendering=\"crispEdges\">\n");
    for (size_t i = 0; i < picture->survey->count; i++) {
        const struct statistics *statistics = &picture->survey->layers[i].statistics;
        const double mean = (double)statistics->figures.mean;
        for (size_t e = 0; e < statistics->outputs; e++) {
            const double relative = mean > 0 ? statistics->load[e] / mean : 0;
            draw(picture,
                 "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" fill=\"%s\"><title>layer %zu, %s %zu: %u "
                 "choices, %.2f x mean</title></rect>\n",
                 LEFT + (double)e * picture->cell, TOP + (double)i * picture->row, picture->cell, picture->row,
                 colour(text, relative / picture->most), picture->survey->layers[i].layer,
                 e < statistics->experts ? "expert" : "zero expert", e, (unsigned)statistics->load[e], relative);
        }
    }
    draw(picture, "</g>\n");
}

static void draw_axes(struct picture *picture)
{
    const double bottom = TOP + plot_height(picture), middle = TOP + plot_height(picture) / 2;
    const size_t step = tick_step(picture, 30);
    draw(picture, "<g text-anchor=\"end\">\n");
    for (size_t i = 0; i < picture->survey->count; i++)
        draw(picture, "<text x=\"%d\" y=\"%.1f\">%zu</text>\n", LEFT - 6, TOP + ((double)i + 0.5) * picture->row + 4,
             picture->survey->layers[i].layer);
    draw(picture, "</g>\n<g text-anchor=\"middle\">\n");
    for (size_t e = 0; e < picture->columns; e += step) {
        const double x = LEFT + ((double)e + 0.5) * picture->cell;
        draw(picture, "<path d=\"M%.1f %.1fv4\" stroke=\"#222\"/><text x=\"%.1f\" y=\"%.1f\">%zu</text>\n", x, bottom,
             x, bottom + 16, e);
    }
    draw(picture, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"12\">expert</text>\n", LEFT + plot_width(picture) / 2,
         bottom + 34);
    draw(picture, "<text transform=\"translate(24 %.1f) rotate(-90)\" font-size=\"12\">layer</text>\n</g>\n", middle);
}

/* The figures of each layer, right of its row. */
static void draw_figures(struct picture *picture)
{
    static const char *const titles[FIGURES] = {"max/mean", "entropy", "CV&#178;", "dropped"};
    const double left = LEFT + plot_width(picture);
    draw(picture, "<g text-anchor=\"end\">\n");
    for (size_t i = 0; i < FIGURES; i++)
        draw(picture, "<text x=\"%.1f\" y=\"%d\" fill=\"#555\">%s</text>\n", left + (double)(i + 1) * FIGURE, TOP - 8,
             titles[i]);
    for (size_t i = 0; i < picture->survey->count; i++) {
        const struct statistics *statistics = &picture->survey->layers[i].statistics;
        const moecl_load_statistics *figures = &statistics->figures;
        const double y = TOP + ((double)i + 0.5) * picture->row + 4;
        draw(picture,
             "<text x=\"%.1f\" y=\"%.1f\">%.2f</text><text x=\"%.1f\" y=\"%.1f\">%.1f %%</text>"
             "<text x=\"%.1f\" y=\"%.1f\">%.3g</text><text x=\"%.1f\" y=\"%.1f\">%u</text>\n",
             left + FIGURE, y, (double)figures->largest_over_mean, left + 2 * FIGURE, y,
             100 * statistics_evenness(statistics), left + 3 * FIGURE, y, (double)figures->squared_variation,
             left + 4 * FIGURE, y, (unsigned)statistics_dropped(statistics));
    }
    draw(picture, "</g>\n");
}

static void draw_legend(struct picture *picture)
{
    const double y = TOP + plot_height(picture) + 56;
    char text[8];
    draw(picture, "<defs><linearGradient id=\"ramp\">");
    for (size_t i = 0; i < RAMP; i++) {
        const double place = (double)i / (RAMP - 1);
        draw(picture, "<stop offset=\"%.3f\" stop-color=\"%s\"/>", place, colour(text, place));
    }
    draw(picture,
         "</linearGradient></defs>\n<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%d\" fill=\"url(#ramp)\"/>\n", LEFT,
         y, LEGEND, LEGEND_HEIGHT);
    draw(picture, "<g text-anchor=\"middle\">\n");
    for (int tick = 0; tick <= picture->most; tick++) {
        const double x = LEFT + (double)LEGEND * tick / picture->most;
        draw(picture, "<path d=\"M%.1f %.1fv4\" stroke=\"#222\"/><text x=\"%.1f\" y=\"%.1f\">%d%s</text>\n", x,
             y + LEGEND_HEIGHT, x, y + LEGEND_HEIGHT + 16, tick, picture->clipped && tick == picture->most ? "+" : "");
    }
    draw(picture, "</g>\n<text x=\"%d\" y=\"%.1f\">load / mean of the layer (1: even)</text>\n", LEFT + LEGEND + 24,
         y + LEGEND_HEIGHT - 1);
    draw(picture,
         "<text x=\"%d\" y=\"%.1f\" fill=\"#555\">entropy: of the loads' shares, against ln of their number"
         "</text>\n",
         LEFT + LEGEND + 24, y + LEGEND_HEIGHT + 16);
}

enum outcome heatmap_write(struct output_file *file, const char *model, const struct survey *survey,
                           struct fault *fault)
{
    struct picture picture = {.file = file, .survey = survey, .fault = fault, .outcome = OUTCOME_SUCCESS};
    lay_out(&picture);
    draw_head(&picture, model);
    draw_cells(&picture);
    draw_axes(&picture);
    draw_figures(&picture);
    draw_legend(&picture);
    draw(&picture, "</svg>\n");
    if (picture.outcome == OUTCOME_SUCCESS)
        picture.outcome = output_file_flush(file, fault);
    return picture.outcome;
}
