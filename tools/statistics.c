/* SPDX-License-Identifier: Apache-2.0 */
/* statistics.c - how evenly a routing loads the experts. */
#include "statistics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "output.h"

enum outcome statistics_read(struct statistics *statistics, moecl_context *context, const moecl_layer_options *options,
                             size_t tokens, moecl_buffer ids, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    *statistics = (struct statistics){.tokens = tokens,
                                      .slots = moecl_layer_slots(options),
                                      .outputs = options->experts + options->router.zero_experts,
                                      .experts = options->experts,
                                      .experts_choose = options->router.selection == MOECL_SELECTION_EXPERT_CHOICE};
    statistics->load = calloc(statistics->outputs, sizeof(*statistics->load));
    if (!statistics->load) {
        outcome = fault_memory(fault, "the load of the experts");
        goto out;
    }
    TRY_MOECL(context, moecl_statistics_read(context, tokens, statistics->slots, statistics->outputs, ids,
                                             statistics->load, &statistics->figures));
out:
    return outcome;
}

void statistics_free(struct statistics *statistics)
{
    free(statistics->load);
    *statistics = (struct statistics){.tokens = 0};
}

uint32_t statistics_dropped(const struct statistics *statistics)
{
    return statistics->experts_choose ? 0 : statistics->figures.unused;
}

double statistics_evenness(const struct statistics *statistics)
{
    return statistics->outputs > 1 ? (double)statistics->figures.entropy / log((double)statistics->outputs) : 1;
}

/* A row an output. */
static enum outcome print_table(const struct statistics *statistics, struct fault *fault)
{
    static const struct column columns[] = {
        {"expert", true, 6}, {"choices", true, 9}, {"share", true, 8}, {"x mean", true, 7}, {"", false, 0}};
    const moecl_load_statistics *figures = &statistics->figures;
    struct table table = table_begin(columns, sizeof(columns) / sizeof(columns[0]));
    for (size_t e = 0; e < statistics->outputs; e++) {
        const double load = statistics->load[e];
        table_cell(&table, "%zu", e);
        table_cell(&table, "%u", (unsigned)statistics->load[e]);
        table_cell(&table, "%.2f %%", figures->used > 0 ? 100 * load / figures->used : 0);
        table_cell(&table, "%.2f", figures->used > 0 ? load / (double)figures->mean : 0);
        table_cell(&table, "%s", e < statistics->experts ? "" : "zero expert");
    }
    const enum outcome outcome = table_print(&table, fault);
    table_end(&table);
    return outcome;
}

enum outcome statistics_print(const struct statistics *statistics, struct fault *fault)
{
    const moecl_load_statistics *figures = &statistics->figures;
    char used[OUTPUT_TEXT], dropped[OUTPUT_TEXT], unserved[OUTPUT_TEXT];
    printf("\nStatistics of the routing\n");
    printf("  choices   %s used, %s dropped; tokens without an expert: %s\n", output_integer(used, figures->used),
           output_integer(dropped, statistics_dropped(statistics)), output_integer(unserved, figures->unserved));
    printf("  load      mean %.3f, largest %u, none for %u\n", (double)figures->mean, (unsigned)figures->largest,
           (unsigned)figures->idle);
    printf("  max/mean  %.3f\n", (double)figures->largest_over_mean);
    printf("  entropy   %.4f nats, %.1f %% of ln %zu\n", (double)figures->entropy,
           100 * statistics_evenness(statistics), statistics->outputs);
    printf("  CV^2      %.4g\n\n", (double)figures->squared_variation);
    return print_table(statistics, fault);
}

json_t *statistics_json(const struct statistics *statistics)
{
    const moecl_load_statistics *figures = &statistics->figures;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "used", (json_int_t)figures->used, "dropped",
        (json_int_t)statistics_dropped(statistics), "unserved_tokens", (json_int_t)figures->unserved, "largest",
        (json_int_t)figures->largest, "idle", (json_int_t)figures->idle, "mean", output_number((double)figures->mean),
        "max_over_mean", output_number((double)figures->largest_over_mean), "entropy",
        output_number((double)figures->entropy), "evenness", output_number(statistics_evenness(statistics)),
        "cv_squared", output_number((double)figures->squared_variation));
}

json_t *statistics_load_json(const struct statistics *statistics)
{
    json_t *load = json_array();
    for (size_t e = 0; load && e < statistics->outputs; e++)
        json_array_append_new(load, json_integer((json_int_t)statistics->load[e]));
    return load;
}
