/* SPDX-License-Identifier: Apache-2.0 */
/* upload.c - layers with random weights, on the device; apart, so that tests of the host's side link without it. */
#include "layers.h"

moecl_layer *host_layer_upload(moecl_context *context, const struct host_layer *layer)
{
    moecl_layer *uploaded = NULL;
    ASSERT_OK(context, moecl_layer_create(context, &layer->options, &uploaded));
    ASSERT_OK(context, moecl_layer_set_weights(uploaded, &layer->weights));
    return uploaded;
}
