/* SPDX-License-Identifier: Apache-2.0 */
/* route.c - launches cl/route.cl, which has cl/normal_table.cl, cl/philox.cl and cl/scores.cl before it. */
#include "route.h"

#include "device/memory.h"
#include "device/program.h"

/* As in cl/route.cl and cl/scores.cl. */
enum key { KEY_LOGIT, KEY_SCORE, KEY_LOG_SCORE, KEY_GIVEN, KEY_TABLE };
enum has {
    HAS_ROUTER_BIAS = 1,
    HAS_SELECTION_BIAS = 2,
    HAS_EXPERT_SCALE = 4,
    HAS_ZERO_MASK = 8,
    HAS_NOISE = 16,
    HAS_RANDOM_SECOND = 32,
    HAS_TO_FINISH = 64,
    HAS_SCORES_OUT = 128
};

moecl_status moecl_route_kernels_create(struct moecl_context *context, const moecl_layer_options *options,
                                        struct moecl_route_kernels *kernels)
{
    static const char *const files = "normal_table.cl philox.cl scores.cl route.cl";
    moecl_status status = MOECL_OK;
    *kernels = (struct moecl_route_kernels){
        .experts = options->experts,
        .outputs = options->experts + options->router.zero_experts,
        .top_k = options->top_k,
        .router = options->router,
    };
    TRY(moecl_kernel_create(context, files, NULL, "route", &kernels->route));
    TRY(moecl_kernel_create(context, files, NULL, "route_scores", &kernels->scores));
    TRY(moecl_kernel_create(context, files, NULL, "route_finish", &kernels->finish));
out:
    if (status != MOECL_OK)
        moecl_route_kernels_release(kernels);
    return status;
}

void moecl_route_kernels_release(struct moecl_route_kernels *kernels)
{
    cl_kernel *const all[] = {&kernels->route, &kernels->scores, &kernels->finish};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i])
            clReleaseKernel(*all[i]);
        *all[i] = NULL;
    }
}

/* -------------------------------------------------------------------------------------------- what there is -- */

static bool limits_groups(const moecl_router *router)
{
    return router->groups > 1 && router->top_groups < router->groups;
}

/* Where the selection's keys come from. z itself serves while scores rise with it and nothing but their order counts.
 */
static enum key key_source(const moecl_router *router)
{
    const bool hierarchical = router->score == MOECL_SCORE_HIERARCHICAL;
    const bool zeroed = limits_groups(router) && router->group_mask == MOECL_GROUP_MASK_ZERO;
    const bool added = limits_groups(router) && router->group_score == MOECL_GROUP_SCORE_SUM_OF_TWO && !hierarchical;
    if (router->selection == MOECL_SELECTION_TABLE)
        return KEY_TABLE;
    if (router->selection == MOECL_SELECTION_SINKHORN)
        return KEY_GIVEN;
    if (router->selection_biased || zeroed || added)
        return KEY_SCORE;
    return hierarchical ? KEY_LOG_SCORE : KEY_LOGIT;
}

/* Values of a token's row of scratch. */
static size_t scratch_stride(const struct moecl_route_kernels *kernels)
{
    const moecl_router *router = &kernels->router;
    const enum key key = key_source(router);
    const bool keys = (key != KEY_LOGIT && key != KEY_TABLE) || router->score == MOECL_SCORE_SPARSEMIXER;
    const bool groups = limits_groups(router) && key != KEY_TABLE && router->score != MOECL_SCORE_HIERARCHICAL;
    return (keys ? kernels->outputs : 0) + (groups ? router->groups : 0);
}

size_t moecl_route_scratch_bytes(const struct moecl_route_kernels *kernels, size_t tokens)
{
    return tokens * scratch_stride(kernels) * sizeof(cl_float);
}

static bool finishes_later(const moecl_router *router)
{
    return router->capacity.kind != MOECL_CAPACITY_NONE && router->capacity.normalise_after;
}

static cl_uint what_there_is(const moecl_router *router, bool noisy)
{
    const bool zeroed = limits_groups(router) && router->group_mask == MOECL_GROUP_MASK_ZERO;
    return (router->biased ? HAS_ROUTER_BIAS : 0u) | (router->selection_biased ? HAS_SELECTION_BIAS : 0u) |
           (router->expert_scaled ? HAS_EXPERT_SCALE : 0u) | (zeroed ? HAS_ZERO_MASK : 0u) |
           (noisy && router->noise ? HAS_NOISE : 0u) | (noisy && router->random_second ? HAS_RANDOM_SECOND : 0u) |
           (finishes_later(router) ? 0u : HAS_TO_FINISH);
}

static float scale_or_one(float scale)
{
    return scale == 0.0f ? 1.0f : scale;
}

/* A parameter that the kernel will not look at still needs a memory object. */
static moecl_buffer buffer_or(moecl_buffer buffer, moecl_buffer other)
{
    return buffer.memory ? buffer : other;
}

/* A work-item a token: CPUs run a group at a time, GPUs want many work-items in each. */
static moecl_status launch_tokens(struct moecl_chain *chain, cl_kernel kernel, size_t tokens,
                                  const struct moecl_argument *arguments, size_t count)
{
    const bool gpu = (chain->context->info.type & CL_DEVICE_TYPE_GPU) != 0;
    const size_t group = gpu ? 32 : 1;
    return moecl_launch(chain, kernel, 1, &tokens, &group, arguments, count);
}

/* ------------------------------------------------------------------------------------------------- launches -- */

moecl_status moecl_route_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                 const struct moecl_route_call *call)
{
    const moecl_router *router = &kernels->router;
    const moecl_buffer any = call->logits;
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(call->logits),
        ARGUMENT_U32(call->stride),
        ARGUMENT_U32(call->tokens),
        ARGUMENT_U32(kernels->outputs),
        ARGUMENT_U32(kernels->top_k),
        ARGUMENT_U32(what_there_is(router, call->noisy)),
        ARGUMENT_U32(router->score),
        ARGUMENT_U32(key_source(router)),
        ARGUMENT_F32(router->jitter),
        ARGUMENT_F32(router->softcap),
        ARGUMENT_U32(call->noise_column),
        ARGUMENT_BUFFER(buffer_or(call->router_bias, any)),
        ARGUMENT_BUFFER(buffer_or(call->selection_bias, any)),
        ARGUMENT_BUFFER(buffer_or(call->expert_scale, any)),
        ARGUMENT_BUFFER(buffer_or(call->keys, any)),
        ARGUMENT_BUFFER(buffer_or(call->scratch, any)),
        ARGUMENT_U32(scratch_stride(kernels)),
        ARGUMENT_BUFFER(buffer_or(call->table, any)),
        ARGUMENT_BUFFER(buffer_or(call->token_ids, any)),
        ARGUMENT_U32(router->table_rows),
        ARGUMENT_U32(router->groups),
        ARGUMENT_U32(router->top_groups),
        ARGUMENT_U32(router->group_score),
        ARGUMENT_F32(router->top_p),
        ARGUMENT_F32(router->threshold),
        ARGUMENT_U32(router->weight),
        ARGUMENT_U32(router->normalisation),
        ARGUMENT_F32(router->epsilon),
        ARGUMENT_F32(router->power),
        ARGUMENT_F32(scale_or_one(router->scale)),
        ARGUMENT_U64(router->seed),
        ARGUMENT_U64(call->step),
        ARGUMENT_U32(call->first_token),
        ARGUMENT_BUFFER(call->routing.ids),
        ARGUMENT_BUFFER(call->routing.weights),
        ARGUMENT_BUFFER(call->flag),
    };
    return launch_tokens(chain, kernels->route, call->tokens, arguments, sizeof(arguments) / sizeof(arguments[0]));
}

moecl_status moecl_route_scores_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                        const struct moecl_route_call *call, moecl_buffer scores)
{
    const moecl_router *router = &kernels->router;
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(call->logits),
        ARGUMENT_U32(call->stride),
        ARGUMENT_U32(call->tokens),
        ARGUMENT_U32(kernels->outputs),
        ARGUMENT_U32(what_there_is(router, call->noisy) | (scores.memory ? HAS_SCORES_OUT : 0u)),
        ARGUMENT_U32(router->score),
        ARGUMENT_F32(router->softcap),
        ARGUMENT_U32(call->noise_column),
        ARGUMENT_BUFFER(buffer_or(call->router_bias, call->logits)),
        ARGUMENT_U32(router->groups),
        ARGUMENT_U64(router->seed),
        ARGUMENT_U64(call->step),
        ARGUMENT_U32(call->first_token),
        ARGUMENT_BUFFER(buffer_or(scores, call->logits)),
        ARGUMENT_BUFFER(call->flag),
    };
    return launch_tokens(chain, kernels->scores, call->tokens, arguments, sizeof(arguments) / sizeof(arguments[0]));
}

moecl_status moecl_route_finish_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                        size_t tokens, size_t slots, moecl_routing routing, moecl_buffer expert_scale)
{
    const moecl_router *router = &kernels->router;
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(tokens),
        ARGUMENT_U32(slots),
        ARGUMENT_U32(kernels->outputs),
        ARGUMENT_U32(what_there_is(router, false)),
        ARGUMENT_U32(router->normalisation),
        ARGUMENT_F32(router->epsilon),
        ARGUMENT_F32(router->power),
        ARGUMENT_F32(scale_or_one(router->scale)),
        ARGUMENT_BUFFER(buffer_or(expert_scale, routing.weights)),
        ARGUMENT_BUFFER(routing.ids),
        ARGUMENT_BUFFER(routing.weights),
    };
    return launch_tokens(chain, kernels->finish, tokens, arguments, sizeof(arguments) / sizeof(arguments[0]));
}
