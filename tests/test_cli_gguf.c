/* SPDX-License-Identifier: Apache-2.0 */
/* test_cli_gguf.c - the tool on a GGUF file: it says what is in it, checks a layer, and refuses what it cannot read. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "gguf.h"
#include "program.h"
#include "scratch.h"

/* The layer of a golden folder, as the architecture "llama"; `type` is what its down projections claim to be. */
static char *make_file(const char *directory, uint32_t type)
{
    static const char down[] = "blk.0.ffn_down_exps.weight";
    moecl_context *context;
    moecl_model *model;
    moecl_layer_options options;
    moecl_layer_weights weights;
    struct gguf gguf = {.version = 0};

    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    ASSERT_OK(context, moecl_model_open(context, MOECL_TEST_DATA "/golden/mixtral", NULL, &model));
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    ASSERT_OK(context, moecl_model_weights(model, 0, &weights));
    gguf_pair_string(&gguf, "general.architecture", "llama");
    gguf_pair(&gguf, "llama.block_count", GGUF_U32, 1);
    gguf_pair(&gguf, "llama.embedding_length", GGUF_U32, (double)options.hidden);
    gguf_pair(&gguf, "llama.feed_forward_length", GGUF_U32, (double)options.intermediate);
    gguf_pair(&gguf, "llama.expert_count", GGUF_U32, (double)options.experts);
    gguf_pair(&gguf, "llama.expert_used_count", GGUF_U32, (double)options.top_k);
    gguf_layer(&gguf, 0, &options, &weights);
    for (size_t i = 0; i + sizeof down < gguf.tensors.size; i++)
        if (memcmp(gguf.tensors.bytes + i, down, strlen(down)) == 0)
            memcpy(gguf.tensors.bytes + i + strlen(down) + 4 + 3 * 8, &type, sizeof type);
    gguf_finish_file(&gguf, directory, "m.gguf");
    moecl_model_weights_free(&weights);
    moecl_model_close(model);
    moecl_context_destroy(context);
    return scratch_path(directory, "m.gguf");
}

/* Runs the tool and looks for a word of what it says, on the standard output or, where it fails, on the other. */
static void assert_says(const char *command, const char *path, const char *option, const char *value, int status,
                        const char *word)
{
    const char *const arguments[] = {MOECL_CLI, command, path, option, value, NULL};
    struct program_result result = program_run(arguments, NULL);
    if (result.status != status || !strstr(status == 0 ? result.output : result.error, word))
        fail_msg("moecl %s: status %d, not \"%s\":\n%s%s", command, result.status, word, result.output, result.error);
    program_result_free(&result);
}

static void inspects_and_verifies(void **state)
{
    (void)state;
    char *directory = scratch_make(), *path = make_file(directory, GGUF_TYPE_F32);
    assert_says("inspect", path, NULL, NULL, 0, "llama");
    assert_says("inspect", path, NULL, NULL, 0, "layers   1: 1 MoE");
    assert_says("inspect", path, NULL, NULL, 0, "8 experts");
    assert_says("verify", path, "--layer", "0", 0, "");
    free(path);
    scratch_remove(directory);
}

static void refuses_quantised_weights(void **state)
{
    (void)state;
    char *directory = scratch_make(), *path = make_file(directory, GGUF_TYPE_Q4_0);
    assert_says("inspect", path, NULL, NULL, 3, "is quantised (Q4_0)");
    free(path);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inspects_and_verifies),
        cmocka_unit_test(refuses_quantised_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
