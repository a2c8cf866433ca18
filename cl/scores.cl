/* SPDX-License-Identifier: Apache-2.0 */
/* scores.cl - a router's logits and their scores, of one token, eight experts at a time: what comes before the choice in
 * route.cl. Goes behind philox.cl.
 *
 * Logits to z in place (bias, softcap, noise), softmaxes over spans of experts, and score_lanes(), which all scores come
 * out of, so that equal logits have equal scores wherever they lie. Deterministic: a sum runs over each lane, then over
 * the eight of them in order. */

#define LANES 8u

/* The scores of moecl.h. */
#define SCORE_SOFTMAX 0u
#define SCORE_SIGMOID 1u
#define SCORE_SQRT_SOFTPLUS 2u
#define SCORE_LOGIT 3u
#define SCORE_SPARSEMIXER 4u
#define SCORE_HIERARCHICAL 5u

/* What there is; runtime/stages/route.c has the same. */
#define HAS_ROUTER_BIAS 1u
#define HAS_SELECTION_BIAS 2u
#define HAS_EXPERT_SCALE 4u
#define HAS_ZERO_MASK 8u
#define HAS_NOISE 16u         /* noisy top-k, in this pass */
#define HAS_RANDOM_SECOND 32u /* in this pass */
#define HAS_TO_FINISH 64u     /* normalise and scale here, not in route_finish */
#define HAS_SCORES_OUT 128u   /* route_scores: scores are wanted */

/* --------------------------------------------------------------------------------------------------- lanes -- */

/* Elements e to e + 7 of those up to `end`, -infinity behind. */
inline void load_lanes(__global const float *from, uint e, uint end, float8 *lanes)
{
    if (e + LANES <= end) {
        *lanes = vload8(0, from + e);
    } else {
        float some[LANES];
        for (uint i = 0; i < LANES; i++)
            some[i] = e + i < end ? from[e + i] : -INFINITY;
        *lanes = vload8(0, some);
    }
}

inline void store_lanes(float8 lanes, __global float *to, uint e, uint end)
{
    if (e + LANES <= end) {
        vstore8(lanes, 0, to + e);
    } else {
        float some[LANES];
        vstore8(lanes, 0, some);
        for (uint i = 0; e + i < end; i++)
            to[e + i] = some[i];
    }
}

inline float largest_lane(float8 lanes)
{
    float some[LANES], largest = -INFINITY;
    vstore8(lanes, 0, some);
    for (uint i = 0; i < LANES; i++)
        largest = some[i] > largest ? some[i] : largest;
    return largest;
}

inline float sum_of_lanes(float8 lanes)
{
    float some[LANES], sum = 0.0f;
    vstore8(lanes, 0, some);
    for (uint i = 0; i < LANES; i++)
        sum += some[i];
    return sum;
}

/* log(1 + exp(z)) */
inline void softplus_lanes(float8 z, float8 *result)
{
    *result = fmax(z, 0.0f) + log1p(exp(-fabs(z)));
}

/* -------------------------------------------------------------------------------------------------- logits -- */

/* NaN or +infinity among the lanes. */
inline bool spoilt(float8 lanes)
{
    return any(isnan(lanes)) || any(lanes == (float8)(INFINITY));
}

/* z += N(0,1) * softplus(noise), for eight experts; `some` are the noise's logits. */
inline void add_noise(const struct random_stream *stream, uint e, float8 noise, float8 *z)
{
    float normals[LANES];
    float8 deviation;
    random_normals(stream, e / 4, normals);
    random_normals(stream, e / 4 + 1, normals + 4);
    softplus_lanes(noise, &deviation);
    *z += vload8(0, normals) * deviation;
}

/* Logits to z, in place. False where one is NaN or +infinity. */
inline bool prepare_logits(__global float *logits, uint outputs, uint has, __global const float *bias, float softcap,
                           __global const float *noise, const struct random_stream *stream)
{
    bool finite = true;
    for (uint e = 0; e < outputs; e += LANES) {
        float8 z, more;
        load_lanes(logits, e, outputs, &z);
        finite = finite && !spoilt(z);
        if (has & HAS_ROUTER_BIAS) {
            load_lanes(bias, e, outputs, &more);
            z += more;
        }
        if (softcap > 0.0f)
            z = softcap * tanh(z / softcap);
        if (has & HAS_NOISE) {
            load_lanes(noise, e, outputs, &more);
            finite = finite && !spoilt(more);
            add_noise(stream, e, more, &z);
        }
        if ((has & (HAS_ROUTER_BIAS | HAS_NOISE)) || softcap > 0.0f)
            store_lanes(z, logits, e, outputs);
    }
    return finite;
}

/* After the preparation: whether all of z, and of the groups' logits behind it, are neither NaN nor +infinity. */
inline bool all_finite(__global const float *z, uint outputs)
{
    bool finite = true;
    for (uint e = 0; e < outputs; e += LANES) {
        float8 lanes;
        load_lanes(z, e, outputs, &lanes);
        finite = finite && !spoilt(lanes);
    }
    return finite;
}

/* -------------------------------------------------------------------------------------------------- scores -- */

/* A softmax over elements begin to end - 1: exp(z - largest) / divisor. Within a group of a hierarchical router, times the
 * group's probability; else that is 1. */
struct softmax {
    float largest, divisor, probability;
};

inline void find_softmax(__global const float *z, uint begin, uint end, struct softmax *softmax)
{
    float8 lanes, most = (float8)(-INFINITY), sum = (float8)(0.0f);
    for (uint e = begin; e < end; e += LANES) {
        load_lanes(z, e, end, &lanes);
        most = lanes > most ? lanes : most;
    }
    softmax->largest = largest_lane(most);
    if (softmax->largest == -INFINITY) /* all are masked, or NaN: their scores are 0, or NaN */
        softmax->largest = 0.0f;
    for (uint e = begin; e < end; e += LANES) {
        load_lanes(z, e, end, &lanes);
        sum += exp(lanes - softmax->largest);
    }
    softmax->divisor = sum_of_lanes(sum);
    if (softmax->divisor == 0.0f)
        softmax->divisor = 1.0f;
    softmax->probability = 1.0f;
}

/* s of eight logits. */
inline void score_lanes(uint score, float8 z, const struct softmax *softmax, float8 *s)
{
    if (score == SCORE_SOFTMAX || score == SCORE_HIERARCHICAL) {
        *s = exp(z - softmax->largest) / softmax->divisor * softmax->probability;
    } else if (score == SCORE_SIGMOID) {
        *s = 1.0f / (1.0f + exp(-z));
    } else if (score == SCORE_SQRT_SOFTPLUS) {
        /* Where exp(z) is small, log(1 + exp(z)) is exp(z): its root stays in fp32's range longer. */
        softplus_lanes(z, s);
        *s = z < -16.0f ? exp(0.5f * z) : sqrt(*s);
    } else {
        *s = z;
    }
}

/* The router's scores, of one token. */
struct scores {
    uint score, outputs;
    bool grouped;         /* hierarchical: there are groups' logits */
    uint spans, span;     /* softmaxes, and experts of each */
    struct softmax whole; /* of all experts; where grouped, of the groups' logits */
};

inline void find_scores(__global const float *z, uint score, uint outputs, uint groups, struct scores *scores)
{
    scores->score = score;
    scores->outputs = outputs;
    scores->grouped = score == SCORE_HIERARCHICAL && groups > 0;
    scores->spans = scores->grouped ? groups : 1;
    scores->span = outputs / scores->spans;
    scores->whole.largest = 0.0f;
    scores->whole.divisor = scores->whole.probability = 1.0f;
    if (scores->grouped)
        find_softmax(z, outputs, outputs + groups, &scores->whole);
    else if (score == SCORE_SOFTMAX || score == SCORE_HIERARCHICAL)
        find_softmax(z, 0, outputs, &scores->whole);
}

/* The softmax of span g. */
inline void find_span(__global const float *z, const struct scores *scores, uint g, struct softmax *softmax)
{
    *softmax = scores->whole;
    if (scores->grouped) {
        const float probability = exp(z[scores->outputs + g] - scores->whole.largest) / scores->whole.divisor;
        find_softmax(z, g * scores->span, (g + 1) * scores->span, softmax);
        softmax->probability = probability;
    }
}

/* The score of one expert; 0 where it is masked. */
inline float expert_score(__global const float *z, const struct scores *scores, uint e)
{
    struct softmax softmax;
    float8 s;
    if (z[e] == -INFINITY)
        return 0.0f;
    find_span(z, scores, e / scores->span, &softmax);
    score_lanes(scores->score, (float8)(z[e]), &softmax, &s);
    return s.s0;
}
