/* SPDX-License-Identifier: Apache-2.0 */
/* variants.c - the table of expert-GEMM variants. */
#include "variant.h"

#include <string.h>

/* In order of preference, which the table of measurements in this folder's README.md gives: on CPUs `vector` is as fast
 * as `tile` or faster for every type and number of rows, so one variant serves all of a layer's calls. */
static const struct moecl_variant *const variants[] = {
    &moecl_variant_vector,
    &moecl_variant_tile,
#ifdef MOECL_WITH_CLBLAST
    &moecl_variant_clblast,
#endif
};
enum { VARIANT_COUNT = sizeof(variants) / sizeof(variants[0]) };

const char *moecl_variant_name(size_t index)
{
    return index < VARIANT_COUNT ? variants[index]->name : NULL;
}

static const struct moecl_variant *find_variant(const char *name, const moecl_device_info *info)
{
    for (size_t i = 0; i < VARIANT_COUNT; i++)
        if (name ? strcmp(variants[i]->name, name) == 0 : !variants[i]->suits || variants[i]->suits(info))
            return variants[i];
    return NULL;
}

moecl_status moecl_gemm_create(struct moecl_context *context, const char *name, const char *parameters,
                               struct moecl_gemm **gemm)
{
    moecl_status status = MOECL_OK;
    *gemm = NULL;
    const struct moecl_variant *variant = find_variant(name, &context->info);
    if (!variant)
        FAIL(&context->error, MOECL_UNSUPPORTED, "this build has no expert-GEMM variant '%s'", name);
    unsigned values[MOECL_MAX_PARAMETERS] = {0};
    variant->fit(&context->info, values);
    TRY(moecl_parameters_read(context, &variant->space, parameters, values));
    TRY(variant->create(context, values, gemm));
out:
    return status;
}

size_t moecl_gemm_pair_rows(const struct moecl_gemm *gemm, moecl_type weights, moecl_type activations, size_t steps)
{
    const struct moecl_variant *variant = gemm->variant;
    return variant->pair_rows ? variant->pair_rows(gemm, weights, activations, steps) : MOECL_NEVER_IN_PAIRS;
}

void moecl_gemm_destroy(struct moecl_gemm *gemm)
{
    if (gemm)
        gemm->variant->destroy(gemm);
}
