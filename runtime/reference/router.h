/* SPDX-License-Identifier: Apache-2.0 */
/* router.h - the grammar of routers in double precision, step by step in the order of moecl.h.
 *
 *     logits.c     z of x'
 *     score.c      scores and selection keys of z
 *     select.c     top-k within groups, tables, and which of the choices are kept
 *     choice.c     what depends on all tokens: expert choice, Sinkhorn keys, capacity
 *     weigh.c      weights of the choices
 *     routing.c    all of it, for a pass
 *
 * R outputs; `columns` logits a token: R, then those of a hierarchical router's groups. `slots` choices a token. */
#ifndef MOECL_RUNTIME_REFERENCE_ROUTER_H
#define MOECL_RUNTIME_REFERENCE_ROUTER_H

#include <moecl/model.h>

struct moecl_reference_router {
    const moecl_layer_options *options;
    const moecl_layer_weights *weights;
    size_t outputs, groups, columns, slots; /* groups: at least 1 */
    double *vectors[MOECL_VECTOR_COUNT];    /* NULL: not there */
    bool noisy;
    uint64_t step;
    const int32_t *token_ids; /* of TABLE; NULL otherwise */
};

/* The options and weights have been checked. Close it also after a failure. */
moecl_status moecl_reference_router_open(struct moecl_reference_router *router, const moecl_layer_options *options,
                                         const moecl_layer_weights *weights);
void moecl_reference_router_close(struct moecl_reference_router *router);

/* ---------------------------------------------------------------------------------------------- one token -- */

/* x' of token t's x [H]. */
void moecl_reference_router_input(const struct moecl_reference_router *router, size_t token, const double *x,
                                  double *to);
/* What becomes of the product W_router x' of token t: bias, softcap, and noise, of whose product W_noise x' [R] these
 * are the results (NULL: none). */
void moecl_reference_finish_logits(const struct moecl_reference_router *router, size_t token, const double *noise,
                                   double *logits);

/* NaN and -infinity: chosen last, with weight 0. */
bool moecl_reference_is_masked(double logit);
/* s [R] of z [columns]; of SPARSEMIXER, whose score depends on the choices before, z itself. group_scores [groups]: the
 * groups' probabilities where HIERARCHICAL, else untouched. */
void moecl_reference_score(const struct moecl_reference_router *router, const double *logits, double *scores,
                           double *group_scores);
/* Whether z orders the experts as their keys do, so that z is the key: a softmax that underflows makes no ties. */
bool moecl_reference_picks_by_logit(const struct moecl_reference_router *router);
/* key [R], of z and s; -infinity where masked. */
void moecl_reference_keys(const struct moecl_reference_router *router, const double *logits, const double *scores,
                          double *keys);

/* The scores of the groups by their experts' keys. */
void moecl_reference_score_groups(const struct moecl_reference_router *router, const double *keys,
                                  double *group_scores);
/* Masks the keys of groups that are not among the best, ties to the lower index. */
void moecl_reference_mask_groups(const struct moecl_reference_router *router, const double *group_scores, double *keys);
/* The `count` largest of the keys [outputs], in falling order, ties to the lower index. */
void moecl_reference_largest(const double *keys, size_t outputs, size_t count, int32_t *ids);
/* The scores that the choices `ids` [slots] have, 0 of -1 and of masked experts; of SPARSEMIXER round by round. */
void moecl_reference_choice_scores(const struct moecl_reference_router *router, const double *logits,
                                   const double *scores, const int32_t *ids, double *choice_scores);
/* Makes -1 of the choices beyond the top-p mass and below the threshold. */
void moecl_reference_keep(const struct moecl_reference_router *router, const double *choice_scores, int32_t *ids);

/* The weights of the choices as they come from their source: 0 where the id is -1 or masked. */
void moecl_reference_weigh(const struct moecl_reference_router *router, const double *logits,
                           const double *choice_scores, const int32_t *ids, double *weights);
/* Whether a token's weights are normalised and scaled after the capacity, not before. */
bool moecl_reference_normalises_after(const struct moecl_reference_router *router);
void moecl_reference_normalise(const struct moecl_reference_router *router, double *weights);
void moecl_reference_scale(const struct moecl_reference_router *router, const int32_t *ids, double *weights);
/* A number in (0,1) for choice j > 0 of token t, which stays where this is below twice its normalised weight. */
double moecl_reference_second_chance(const struct moecl_reference_router *router, size_t token, size_t choice);

/* --------------------------------------------------------------------------------------------- all tokens -- */

/* Tokens that an expert takes where experts choose. */
size_t moecl_reference_taken(const moecl_layer_options *options, size_t tokens);
/* ids [T,E]: expert e's choice at slot e, -1 where it did not choose the token. keys [T,E]. */
moecl_status moecl_reference_expert_choice(const struct moecl_reference_router *router, const double *keys,
                                           size_t tokens, int32_t *ids);
/* keys [T,R] of logits [T,columns]. */
moecl_status moecl_reference_sinkhorn(const struct moecl_reference_router *router, const double *logits, size_t tokens,
                                      double *keys);
/* Rows that an expert has room for; SIZE_MAX: no limit. */
size_t moecl_reference_capacity(const moecl_layer_options *options, size_t tokens);
/* Drops what the experts have no room for: ids and weights [T,k]. */
moecl_status moecl_reference_drop(const struct moecl_reference_router *router, size_t tokens, int32_t *ids,
                                  double *weights);

/* The routing of a pass. */
struct moecl_reference_routing {
    double *logits;  /* [T,columns]: z */
    int32_t *picked; /* [T,slots]: the choices before any is dropped */
    int32_t *ids;    /* [T,slots] */
    double *weights; /* [T,slots] */
};
moecl_status moecl_reference_routing_make(struct moecl_reference_routing *routing,
                                          const struct moecl_reference_router *router, size_t tokens);
void moecl_reference_routing_free(struct moecl_reference_routing *routing);
/* z of x [T,H]. */
moecl_status moecl_reference_logits(const struct moecl_reference_router *router, const double *x, size_t tokens,
                                    double *logits);
/* picked, ids and weights of the logits. */
moecl_status moecl_reference_route(const struct moecl_reference_router *router, size_t tokens,
                                   struct moecl_reference_routing *routing);

#endif
