/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - running a program. */
#include "program.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "check.h"
#include "scratch.h"

extern char **environ;

struct program_result program_run(const char *const *arguments, const char *output)
{
    struct program_result result;
    posix_spawn_file_actions_t files;
    pid_t child;
    int status;
    size_t size;
    char *directory = scratch_make();
    char *out = scratch_path(directory, "out"), *err = scratch_path(directory, "err");
    assert_int_equal(posix_spawn_file_actions_init(&files), 0);
    posix_spawn_file_actions_addopen(&files, 1, output ? output : out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&files, 2, err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(posix_spawn(&child, arguments[0], &files, NULL, (char *const *)(uintptr_t)arguments, environ), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    posix_spawn_file_actions_destroy(&files);
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.output = output ? NULL : scratch_read(directory, "out", &size);
    result.error = scratch_read(directory, "err", &size);
    free(out);
    free(err);
    scratch_remove(directory);
    return result;
}

void program_result_free(struct program_result *result)
{
    free(result->output);
    free(result->error);
}
