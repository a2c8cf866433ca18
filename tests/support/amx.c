/* SPDX-License-Identifier: Apache-2.0 */
/* amx.c - the instructions of AMX, carried out by the handler of the signal that unknown ones raise. */
#define _GNU_SOURCE
#include "amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"
#include "device/program.h"

enum { TILES = 8, ROWS = 16, BYTES = 64 };

struct tiles {
    bool configured;
    unsigned rows[TILES], bytes[TILES];
    uint8_t data[TILES][ROWS][BYTES];
};

static _Thread_local struct tiles tiles;
static atomic_ulong products;

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    if (write(STDERR_FILENO, what, strlen(what)) < 0)
        _exit(3);
    _exit(2);
}

static void configure(const uint8_t *configuration)
{
    require(configuration[0] == 1 && configuration[1] == 0, "amx: a palette other than 1\n");
    tiles.configured = true;
    memset(tiles.data, 0, sizeof(tiles.data));
    for (int i = 2; i < BYTES; i++)
        require((i >= 16 && i < 32) || (i >= 48 && i < 56) || configuration[i] == 0, "amx: reserved bytes\n");
    for (int tile = 0; tile < TILES; tile++) {
        tiles.bytes[tile] = configuration[16 + 2 * tile] | (unsigned)configuration[17 + 2 * tile] << 8;
        tiles.rows[tile] = configuration[48 + tile];
        require(tiles.rows[tile] <= ROWS && tiles.bytes[tile] <= BYTES, "amx: a tile too large\n");
        require((tiles.rows[tile] == 0) == (tiles.bytes[tile] == 0),
                "amx: rows without bytes, or bytes without rows\n");
    }
}

static float from_bf16(const uint8_t *bytes)
{
    const uint32_t bits = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* The products of even steps and those of odd ones are summed apart; then both sums, and that is added. */
static void multiply(unsigned sums, unsigned a, unsigned b)
{
    require(tiles.rows[sums] == tiles.rows[a] && tiles.bytes[sums] == tiles.bytes[b] &&
                tiles.bytes[a] == 4 * tiles.rows[b],
            "amx: tiles that do not fit each other\n");
    for (unsigned row = 0; row < tiles.rows[sums]; row++)
        for (unsigned column = 0; column < tiles.bytes[sums]; column += 4) {
            float sum[2] = {0, 0}, value;
            for (unsigned k = 0; k < tiles.rows[b]; k++)
                for (unsigned i = 0; i < 2; i++)
                    sum[i] = fmaf(from_bf16(&tiles.data[a][row][4 * k + 2 * i]),
                                  from_bf16(&tiles.data[b][k][column + 2 * i]), sum[i]);
            memcpy(&value, &tiles.data[sums][row][column], sizeof(value));
            value += sum[0] + sum[1];
            memcpy(&tiles.data[sums][row][column], &value, sizeof(value));
        }
    atomic_fetch_add(&products, 1);
}

static void copy(unsigned tile, uint8_t *at, size_t stride, bool store)
{
    for (unsigned row = 0; row < tiles.rows[tile]; row++)
        memcpy(store ? at + row * stride : tiles.data[tile][row], store ? tiles.data[tile][row] : at + row * stride,
               tiles.bytes[tile]);
}

/* Carries out the instruction; its length, or 0 where it is none of AMX. */
static unsigned carry_out(const uint8_t *code, uint8_t *rax, size_t rcx)
{
    if (code[0] != 0xc4 || code[1] != 0xe2)
        return 0;
    const unsigned prefix = code[2], first = code[4] >> 3 & 7, second = code[4] & 7;
    const bool registers = code[4] >= 0xc0;
    if (code[3] == 0x49 && prefix == 0x78 && code[4] == 0x00) {
        configure(rax);
        return 5;
    }
    require(tiles.configured, "amx: tiles without a configuration\n");
    if (code[3] == 0x49 && prefix == 0x78 && code[4] == 0xc0) {
        tiles.configured = false;
        return 5;
    }
    if (code[3] == 0x49 && prefix == 0x7b && registers && second == 0) {
        require(tiles.rows[first] > 0, "amx: a tile of no rows\n");
        memset(tiles.data[first], 0, sizeof(tiles.data[first]));
        return 5;
    }
    if (code[3] == 0x4b && (prefix == 0x79 || prefix == 0x7a || prefix == 0x7b) && !registers && second == 4 &&
        code[5] == 0x08) {
        require(tiles.rows[first] > 0, "amx: a tile of no rows\n");
        copy(first, rax, rcx, prefix == 0x7a);
        return 6;
    }
    if (code[3] == 0x5c && (prefix & 0xc7) == 0x42 && registers) {
        require(tiles.rows[first] > 0, "amx: a tile of no rows\n");
        multiply(first, second, 7 - (prefix >> 3 & 7));
        return 5;
    }
    return 0;
}

static void on_unknown_instruction(int number, siginfo_t *info, void *context)
{
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned length =
        carry_out((const uint8_t *)registers[REG_RIP], (uint8_t *)registers[REG_RAX], (size_t)registers[REG_RCX]);
    if (length == 0)
        signal(number, SIG_DFL);
    registers[REG_RIP] += length;
}

/* Builds and runs a kernel that no cache has: when PoCL's compiler first works, it takes the signal for itself. */
static void wake_compiler(moecl_context *context)
{
    char source[80];
    cl_program program;
    cl_int code;
    const size_t one = 1;
    snprintf(source, sizeof(source), "kernel void fresh_%ld_%ld(void) {}", (long)getpid(), (long)time(NULL));
    ASSERT_OK(context, moecl_program_build_source(context, source, "", &program));
    cl_kernel kernel = NULL;
    assert_int_equal(clCreateKernelsInProgram(program, 1, &kernel, NULL), CL_SUCCESS);
    cl_command_queue queue = clCreateCommandQueue(context->cl, context->device, 0, &code);
    assert_int_equal(code, CL_SUCCESS);
    assert_int_equal(clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &one, &one, 0, NULL, NULL), CL_SUCCESS);
    assert_int_equal(clFinish(queue), CL_SUCCESS);
    clReleaseCommandQueue(queue);
    clReleaseKernel(kernel);
    clReleaseProgram(program);
}

bool amx_emulate(moecl_context *context)
{
    if (strcmp(context->info.platform, "Portable Computing Language") != 0)
        return false;
    wake_compiler(context);
    struct sigaction action = {.sa_sigaction = on_unknown_instruction, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGILL, &action, NULL) == 0;
}

unsigned long amx_products(void)
{
    return atomic_load(&products);
}
#else
bool amx_emulate(moecl_context *context)
{
    (void)context;
    return false;
}

unsigned long amx_products(void)
{
    return 0;
}
#endif
