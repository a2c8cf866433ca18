/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_npy.c - any bytes as a .npy file: an error with a sentence, or data that ends where the file does. */
#include <stdint.h>
#include <stdlib.h>

#include "../../tools/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fault fault = {"", ""};
    struct npy_header header;
    size_t available = size < NPY_MAX_HEADER ? size : NPY_MAX_HEADER;
    enum outcome outcome = npy_parse(data, available, size, "file", &header, &fault);
    if (outcome != OUTCOME_SUCCESS) {
        if (fault.sentence[0] == '\0')
            abort();
        return 0;
    }
    size_t count = 1;
    for (size_t i = 0; i < header.rank; i++)
        count *= header.shape[i];
    if (count != header.count || header.data_offset > size || header.data_bytes != size - header.data_offset)
        abort();
    return 0;
}
