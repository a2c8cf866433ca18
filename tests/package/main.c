/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - a program of somebody else's: 0 when the installed library and header are of one version. */
#define CL_TARGET_OPENCL_VERSION 120
#include <string.h>

#include <moecl/model.h>

int main(void)
{
    moecl_context *context = NULL;
    if (moecl_context_create(&context) != MOECL_OK)
        return 1;
    moecl_model *model = NULL;
    const moecl_status status = moecl_model_open(context, "/nonexistent", NULL, &model);
    moecl_context_destroy(context);
    return status == MOECL_FILE_ERROR && strcmp(moecl_version(), MOECL_VERSION_STRING) == 0 ? 0 : 1;
}
