/* SPDX-License-Identifier: Apache-2.0 */
/* philox.cl - random numbers by the counter-based generator Philox 4x32-10 (Salmon et al. 2011): a number is a function
 * of where it is used, so it does not depend on the launch, and has the same bits on every device and in any other
 * program: all is done in integers, and what is left to fp32 is exact. Goes behind normal_table.cl, before the files that
 * draw.
 *
 * The numbers of one kind, pass and token are a sequence, one for each element. Block b of it, elements 4b to 4b + 3, is
 *
 *     w[0..3] = philox(counter, key)
 *     counter = { b, token | kind << 28, low half of step, high half of step }
 *     key     = { low half of seed, high half of seed }
 *
 * with token the token's number in the pass (below 2^28), kind one of RANDOM_* below, step moecl_forward.step and seed
 * moecl_router.seed. Element e is made of the words of its block, e = 4b + i:
 *
 *     uniform(e) = (2 * (w[i] >> 9) + 1) / 2^24              in (0,1)
 *     normal(e)  = Q(p) or, where w[i] >= 2^31, -Q(p)        of magnitude at most 6.4
 *
 * with Q the inverse of the normal distribution's tail and p the tail's probability, an odd number of 2^33rds below 1/2:
 *
 *     p = (2 * (w[i] mod 2^31) + 1) / 2^33 = (1 - y/2) / 2^(octave + 1),  0 <= octave < 32,  0 < y <= 1
 *     Q ~ c0 + c1 y + c2 y^2 + c3 y^3 + c4 y^4 + c7 y^7      coefficients of the octave, none of them negative
 *
 * rounded to a multiple of 2^-21, so that it takes at most 24 bits. It is off by less than 2^-19, never falls while p
 * falls, and the words w and w ^ 2^31 give numbers of opposite sign. */

#define RANDOM_INPUT_JITTER 1u /* element h: what multiplies x'[h] */
#define RANDOM_NOISE 2u        /* element e: N(0,1) of logit e */
#define RANDOM_SECOND 3u       /* element j: whether choice j stays */

struct random_stream {
    uint key[2];
    uint counter[3]; /* the counter but for its first word */
};

inline struct random_stream random_stream(ulong seed, ulong step, uint token, uint kind)
{
    struct random_stream stream;
    stream.key[0] = (uint)seed;
    stream.key[1] = (uint)(seed >> 32);
    stream.counter[0] = token | kind << 28;
    stream.counter[1] = (uint)step;
    stream.counter[2] = (uint)(step >> 32);
    return stream;
}

/* Ten rounds over the counter in `words`. */
inline void philox(uint *words, uint key0, uint key1)
{
    for (uint round = 0; round < 10; round++) {
        const uint high0 = mul_hi(0xD2511F53u, words[0]), low0 = 0xD2511F53u * words[0];
        const uint high1 = mul_hi(0xCD9E8D57u, words[2]), low1 = 0xCD9E8D57u * words[2];
        words[0] = high1 ^ words[1] ^ key0;
        words[1] = low1;
        words[2] = high0 ^ words[3] ^ key1;
        words[3] = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

inline void random_block(const struct random_stream *stream, uint block, uint *words)
{
    words[0] = block;
    words[1] = stream->counter[0];
    words[2] = stream->counter[1];
    words[3] = stream->counter[2];
    philox(words, stream->key[0], stream->key[1]);
}

inline float uniform_of_word(uint word)
{
    return (float)((word >> 9) * 2u + 1u) * 0x1p-24f;
}

/* y counts 2^-31 and the coefficient of y^k 2^-(29 + k): mul_hi makes one of the unit before out of their product. */
inline float normal_of_word(uint word)
{
    const uint odd = word << 1 | 1u, octave = clz(odd), y = 0u - (odd << octave);
    uint q = mul_hi(mul_hi(normal_table[octave][5], y), y);
    for (uint k = 5; k-- > 0;)
        q = normal_table[octave][k] + mul_hi(q, y);
    const int magnitude = (int)((q + 128u) >> 8);
    return (float)(word >> 31 ? -magnitude : magnitude) * 0x1p-21f;
}

/* Elements 4 * block to 4 * block + 3. */
inline void random_uniforms(const struct random_stream *stream, uint block, float *uniforms)
{
    uint words[4];
    random_block(stream, block, words);
    for (uint i = 0; i < 4; i++)
        uniforms[i] = uniform_of_word(words[i]);
}

inline void random_normals(const struct random_stream *stream, uint block, float *normals)
{
    uint words[4];
    random_block(stream, block, words);
    for (uint i = 0; i < 4; i++)
        normals[i] = normal_of_word(words[i]);
}

inline float random_uniform(const struct random_stream *stream, uint element)
{
    float uniforms[4];
    random_uniforms(stream, element / 4, uniforms);
    return uniforms[element % 4];
}
