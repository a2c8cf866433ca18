/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - moecl, the command-line tool: finds the subcommand, parses its options, prints how it failed. */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

static const struct command *const commands[] = {&command_devices, &command_inspect, &command_run, &command_verify,
                                                 &command_bench};
enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

static void print_usage(FILE *stream)
{
    fprintf(stream, "moecl - Mixture-of-Experts layers on any OpenCL device\n\n"
                    "Usage: moecl COMMAND [options]\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(stream, "  %-12s%s\n", commands[i]->name, commands[i]->summary);
    fprintf(stream, "  %-12s%s\n", "help", "tell about a command: moecl help run");
    fprintf(stream, "\n"
                    "  --version   print the version\n"
                    "  --help      print this; 'moecl COMMAND --help' tells about a command\n\n"
                    "Exit status: 0 success, 1 a check failed, 2 wrong use, 3 a device or a file failed.\n");
}

static enum outcome unknown_command(const char *name, struct fault *fault)
{
    fault_set(fault, OUTCOME_WRONG_USE, "there is no command '%s'", name);
    return fault_hint(fault, OUTCOME_WRONG_USE, "try 'moecl help'");
}

static enum outcome help(const char *name, struct fault *fault)
{
    const struct command *command = name ? find_command(name) : NULL;
    if (name && !command)
        return unknown_command(name, fault);
    if (command)
        options_print_help(command, stdout);
    else
        print_usage(stdout);
    return OUTCOME_SUCCESS;
}

static enum outcome run_command(const struct command *command, int count, char **arguments, struct fault *fault)
{
    bool wants_help = false;
    void *options = malloc(command->size);
    if (!options)
        return fault_memory(fault, "the options");
    memcpy(options, command->defaults, command->size);
    enum outcome outcome = options_parse(command, count, arguments, options, &wants_help, fault);
    if (outcome == OUTCOME_SUCCESS && wants_help)
        options_print_help(command, stdout);
    else if (outcome == OUTCOME_SUCCESS)
        outcome = command->run(options, fault);
    free(options);
    return outcome;
}

static enum outcome dispatch(int argc, char **argv, struct fault *fault)
{
    if (argc < 2) {
        print_usage(stderr);
        return OUTCOME_WRONG_USE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0) {
        printf("moecl %s\n", moecl_version());
        return OUTCOME_SUCCESS;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)
        return help(argv[2], fault);
    const struct command *command = find_command(word);
    return command ? run_command(command, argc - 2, argv + 2, fault) : unknown_command(word, fault);
}

/* Makes sure that files opened later do not take the place of a closed standard stream: such a stream fails in use. */
static void occupy_standard_streams(void)
{
    for (int descriptor = 0; descriptor <= 2; descriptor++) {
        if (fcntl(descriptor, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY); /* takes the lowest free number */
    }
}

int main(int argc, char **argv)
{
    struct fault fault = {"", ""};
    occupy_standard_streams();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a write that fails */
    setlocale(LC_CTYPE, "");
    enum outcome outcome = dispatch(argc, argv, &fault);

    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && outcome < OUTCOME_WRONG_USE)
        outcome = fault_set(&fault, OUTCOME_ERROR, "cannot write to standard output%s%s", errno ? ": " : "",
                            errno ? strerror(errno) : "");
    if (fault.sentence[0] != '\0') {
        const char *name = argc > 1 && find_command(argv[1]) ? argv[1] : NULL;
        fprintf(stderr, "moecl%s%s: %s\n", name ? " " : "", name ? name : "", fault.sentence);
        if (fault.hint[0] != '\0')
            fprintf(stderr, "%s\n", fault.hint);
    }
    return (int)outcome;
}
