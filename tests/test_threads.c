/* SPDX-License-Identifier: Apache-2.0 */
/* test_threads.c - opening a CPU device binds its threads to processors, where nobody is the worse for it. Each case is
 * a process of its own, since an OpenCL implementation starts its threads once. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* of sched.h, the sets of processors */
#endif
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"

/* What a process saw after it had opened the device. */
struct seen {
    moecl_device_info device;
    unsigned processors; /* that the process may use */
    unsigned bound;      /* threads that may use one of several, */
    bool shared;         /* two of them with the same */
    unsigned own;        /* processors that the calling thread may use now */
};

static unsigned count_own_processors(void)
{
    cpu_set_t processors;
    assert_int_equal(sched_getaffinity(0, sizeof(processors), &processors), 0);
    return (unsigned)CPU_COUNT(&processors);
}

/* A thread may have ended since it was listed, as those that compile do: it is not bound. */
static bool is_bound(pid_t thread, cpu_set_t *processors)
{
    if (sched_getaffinity(thread, sizeof(*processors), processors) != 0) {
        assert_int_equal(errno, ESRCH);
        return false;
    }
    return CPU_COUNT(processors) == 1;
}

static void look_at_threads(struct seen *seen)
{
    cpu_set_t taken, processors;
    CPU_ZERO(&taken);
    seen->bound = 0;
    seen->shared = false;
    DIR *threads = opendir("/proc/self/task");
    assert_non_null(threads);
    for (const struct dirent *entry = readdir(threads); entry; entry = readdir(threads)) {
        const pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
        if (thread == 0 || seen->processors == 1 || !is_bound(thread, &processors))
            continue;
        cpu_set_t both;
        CPU_AND(&both, &taken, &processors);
        seen->shared |= CPU_COUNT(&both) > 0;
        CPU_OR(&taken, &taken, &processors);
        seen->bound++;
    }
    closedir(threads);
}

/* PoCL runs functions of the host in its own threads; the others do not, or do so in the caller's too. */
static bool can_be_bound(const struct seen *seen)
{
    return strcmp(seen->device.platform, "Portable Computing Language") == 0 && seen->device.compute_units > 1 &&
           seen->device.compute_units == seen->processors;
}

/* Whether none has been bound by us, who bind all of a device's threads or none: with moecl and without, Intel's
 * runtime binds those that it has beside the caller's. */
static bool is_free(const struct seen *seen)
{
    const bool binds_by_itself = strncmp(seen->device.platform, "Intel", 5) == 0;
    return binds_by_itself ? seen->bound < seen->device.compute_units : seen->bound == 0;
}

/* Opens the device a few times: on a busy machine its threads may come together too late at first. */
static void open_and_look(struct seen *seen)
{
    enum { TIMES = 10 };
    seen->processors = count_own_processors();
    for (size_t i = 0; i < TIMES; i++) {
        const unsigned before = seen->bound;
        moecl_context *context = open_context();
        ASSERT_OK(context, moecl_device_describe(context, false, &seen->device));
        look_at_threads(seen);
        assert_true(is_free(seen) || seen->bound == seen->device.compute_units);
        if (can_be_bound(seen)) /* what we have bound stays so */
            assert_true(seen->bound >= before);
        moecl_context_destroy(context);
    }
    seen->own = count_own_processors();
}

/* `affinity` NULL: POCL_AFFINITY is not set. */
static struct seen see(const char *affinity)
{
    struct seen *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (affinity == NULL)
            unsetenv("POCL_AFFINITY");
        else
            setenv("POCL_AFFINITY", affinity, 1);
        open_and_look(shared);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    const struct seen seen = *shared;
    munmap(shared, sizeof(*shared));
    print_message("%s: %u compute units, %u processors, %u threads bound\n", seen.device.platform,
                  (unsigned)seen.device.compute_units, seen.processors, seen.bound);
    return seen;
}

static void each_thread_has_a_processor(void **state)
{
    (void)state;
    const struct seen seen = see(NULL);
    if (can_be_bound(&seen))
        assert_int_equal(seen.bound, seen.device.compute_units);
    else
        assert_true(is_free(&seen));
    assert_false(seen.shared);
    assert_int_equal(seen.own, seen.processors);
}

static void the_environment_has_the_last_word(void **state)
{
    (void)state;
    const struct seen seen = see("0");
    assert_true(is_free(&seen));
    assert_int_equal(seen.own, seen.processors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_thread_has_a_processor),
        cmocka_unit_test(the_environment_has_the_last_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
