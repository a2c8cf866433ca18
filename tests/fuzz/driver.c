/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - runs a fuzz target as a plain test: over every file of its corpus, then over seeded mutations of them.
 *
 *     fuzz_NAME CORPUS_DIRECTORY MUTATIONS
 *
 * A target is a file fuzz_NAME.c with libFuzzer's LLVMFuzzerTestOneInput(); -DMOECL_FUZZERS=ON links it with libFuzzer
 * instead of this file. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *data;
    size_t size;
};

static uint64_t state = 0x9e3779b97f4a7c15;

/* xorshift64: the same mutations in every run. */
static size_t below(size_t bound)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return bound == 0 ? 0 : (size_t)(state % bound);
}

/* A copy of its own for each run, of the exact size, so that a sanitizer or valgrind sees a read past the end. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    if (copy == NULL)
        abort();
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static struct input read_file(const char *directory, const char *name)
{
    struct input input = {NULL, 0};
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    input.size = (size_t)ftell(file);
    input.data = malloc(input.size + 1);
    rewind(file);
    if (input.data == NULL || fread(input.data, 1, input.size, file) != input.size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return input;
}

static size_t read_corpus(const char *directory, struct input *inputs, size_t capacity)
{
    size_t count = 0;
    DIR *open = opendir(directory);
    if (open == NULL) {
        perror(directory);
        exit(1);
    }
    for (struct dirent *entry = readdir(open); entry != NULL && count < capacity; entry = readdir(open))
        if (entry->d_name[0] != '.')
            inputs[count++] = read_file(directory, entry->d_name);
    closedir(open);
    return count;
}

/* A few of: a byte set, a bit flipped, a digit changed, a piece of another input copied over, the end cut off. */
static void mutate(struct input *input, const struct input *other)
{
    for (size_t changes = 1 + below(4); changes > 0 && input->size > 0; changes--) {
        /* half of them near the beginning, where headers are */
        const size_t at = below(2) == 0 ? below(input->size) : below(input->size < 64 ? input->size : 64);
        switch (below(5)) {
        case 0:
            input->data[at] = (uint8_t)below(256);
            break;
        case 1:
            input->data[at] ^= (uint8_t)(1U << below(8));
            break;
        case 2:
            input->data[at] = (uint8_t)('0' + below(10));
            break;
        case 3: {
            const size_t room = input->size - at;
            const size_t length = below(room < other->size ? room : other->size);
            memcpy(input->data + at, other->data + below(other->size - length), length);
            break;
        }
        default:
            input->size = below(8) == 0 ? at : input->size;
        }
    }
}

int main(int argc, char **argv)
{
    static struct input corpus[1024];
    if (argc != 3) {
        fprintf(stderr, "usage: %s CORPUS_DIRECTORY MUTATIONS\n", argv[0]);
        return 2;
    }
    const size_t count = read_corpus(argv[1], corpus, sizeof(corpus) / sizeof(*corpus));
    const size_t mutations = strtoul(argv[2], NULL, 10);
    if (count == 0) {
        fprintf(stderr, "%s: no files\n", argv[1]);
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        run(corpus[i].data, corpus[i].size);
    for (size_t i = 0; i < mutations; i++) {
        const struct input *original = &corpus[below(count)];
        struct input mutated = {malloc(original->size + 1), original->size};
        if (mutated.data == NULL)
            abort();
        memcpy(mutated.data, original->data, original->size);
        mutate(&mutated, &corpus[below(count)]);
        run(mutated.data, mutated.size);
        free(mutated.data);
    }
    for (size_t i = 0; i < count; i++)
        free(corpus[i].data);
    printf("%zu files, %zu mutations\n", count, mutations);
    return 0;
}
