# SPDX-License-Identifier: Apache-2.0
# cmake -DOUTPUT=kernel_sources.c -DFILES="a.cl;b.cl" -P embed.cmake
# Writes each file as an array of bytes: string literals have a length limit that a kernel file may pass.
set(ARRAYS "")
set(TABLE "")
set(NUMBER 0)
foreach(FILE IN LISTS FILES)
  get_filename_component(NAME ${FILE} NAME)
  file(READ ${FILE} BYTES HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," BYTES "${BYTES}")
  string(APPEND ARRAYS "static const char source_${NUMBER}[] = {${BYTES}0};\n")
  string(APPEND TABLE "    {\"${NAME}\", source_${NUMBER}},\n")
  math(EXPR NUMBER "${NUMBER} + 1")
endforeach()
file(WRITE ${OUTPUT}
     "/* Made by cl/embed.cmake. */\n#include \"device/program.h\"\n\n${ARRAYS}\n"
     "const struct moecl_kernel_source moecl_kernel_sources[] = {\n${TABLE}    {0, 0},\n};\n")
