/* SPDX-License-Identifier: Apache-2.0 */
/* choices.c - the names of the router's and the experts' options. */
#include <moecl/moecl.h>

#define TEXT(name, text) text,
static const char *const score_names[] = {MOECL_SCORE_LIST(TEXT) NULL};
static const char *const selection_names[] = {MOECL_SELECTION_LIST(TEXT) NULL};
static const char *const weight_names[] = {MOECL_WEIGHT_LIST(TEXT) NULL};
static const char *const normalisation_names[] = {MOECL_NORMALISATION_LIST(TEXT) NULL};
static const char *const group_score_names[] = {MOECL_GROUP_SCORE_LIST(TEXT) NULL};
static const char *const group_mask_names[] = {MOECL_GROUP_MASK_LIST(TEXT) NULL};
static const char *const capacity_names[] = {MOECL_CAPACITY_LIST(TEXT) NULL};
static const char *const capacity_order_names[] = {MOECL_CAPACITY_ORDER_LIST(TEXT) NULL};
static const char *const activation_names[] = {MOECL_ACTIVATION_LIST(TEXT) NULL};
static const char *const clamp_names[] = {MOECL_CLAMP_LIST(TEXT) NULL};
static const char *const shared_gate_names[] = {MOECL_SHARED_GATE_LIST(TEXT) NULL};

/* Each ends with NULL. */
static const char *const *const names[MOECL_CHOICE_COUNT] = {
    [MOECL_CHOICE_SCORE] = score_names,
    [MOECL_CHOICE_SELECTION] = selection_names,
    [MOECL_CHOICE_WEIGHT] = weight_names,
    [MOECL_CHOICE_NORMALISATION] = normalisation_names,
    [MOECL_CHOICE_GROUP_SCORE] = group_score_names,
    [MOECL_CHOICE_GROUP_MASK] = group_mask_names,
    [MOECL_CHOICE_CAPACITY] = capacity_names,
    [MOECL_CHOICE_CAPACITY_ORDER] = capacity_order_names,
    [MOECL_CHOICE_ACTIVATION] = activation_names,
    [MOECL_CHOICE_CLAMP] = clamp_names,
    [MOECL_CHOICE_SHARED_GATE] = shared_gate_names,
};

const char *moecl_choice_name(moecl_choice choice, int value)
{
    if (choice < 0 || choice >= MOECL_CHOICE_COUNT || value < 0)
        return NULL;
    for (int i = 0; names[choice][i]; i++)
        if (i == value)
            return names[choice][i];
    return NULL;
}
