/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_safetensors.c - any bytes as a safetensors file: an error with a sentence, or tensors that lie within them. */
#include <stdint.h>
#include <stdlib.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file;
    moecl_status status = moecl_safetensors_parse(&error, "file", data, size, &file);
    if (status != MOECL_OK && error.sentence[0] == '\0')
        abort();
    if (status != MOECL_OK)
        return 0;
    for (size_t i = 0; i < file.count; i++) {
        const struct moecl_tensor *tensor = &file.tensors[i];
        const size_t at = (size_t)((const uint8_t *)tensor->data - data);
        if (at > size || tensor->size > size - at || moecl_tensor_file_find(&file, tensor->name) != tensor)
            abort();
    }
    moecl_tensor_file_close(&file);
    return 0;
}
