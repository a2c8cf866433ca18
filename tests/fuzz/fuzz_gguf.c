/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_gguf.c - any bytes as a GGUF file: an error with a sentence, or tensors that lie within them, and a config that
 * is read or refused. */
#include <stdint.h>
#include <stdlib.h>

#include "model/gguf.h"
#include "model/gguf_family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_status(moecl_status status, const struct moecl_error *error)
{
    if (status != MOECL_OK && error->sentence[0] == '\0')
        abort();
}

static void read_config(const json_t *pairs, struct moecl_tensor_file *file)
{
    struct moecl_error error = {.sentence = ""};
    const struct moecl_checkpoint checkpoint = {.file_count = 1, .files = file};
    struct moecl_family family;
    struct moecl_config read;
    json_t *config;
    moecl_status status = moecl_gguf_config(&error, "file", pairs, &checkpoint, &config);
    check_status(status, &error);
    if (status == MOECL_OK && moecl_gguf_family(json_string_value(json_object_get(config, "model_type")), &family)) {
        status = moecl_config_read_object(&error, "file", config, &family, &read);
        check_status(status, &error);
        if (status == MOECL_OK)
            moecl_config_free(&read);
    }
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file;
    json_t *pairs;
    moecl_status status = moecl_gguf_parse(&error, "file", data, size, &file, &pairs);
    check_status(status, &error);
    if (status != MOECL_OK)
        return 0;
    for (size_t i = 0; i < file.count; i++) {
        const struct moecl_tensor *tensor = &file.tensors[i];
        const size_t at = (size_t)((const uint8_t *)tensor->data - data);
        if (at > size || tensor->size > size - at || moecl_tensor_file_find(&file, tensor->name) != tensor)
            abort();
    }
    read_config(pairs, &file);
    moecl_tensor_file_close(&file);
    json_decref(pairs);
    return 0;
}
