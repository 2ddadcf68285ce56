/* Attention of a token row over the keys and values that its sequence keeps in pages.
 *
 * Query heads that share a key head go over it together, and where they are fewer than four, several keys at a time: a sum over
 * the lanes of a register costs as much for one product as for four. Sums are in an order that the row alone decides.
 */
#ifndef PUNA_ATTENTION_H
#define PUNA_ATTENTION_H

#include "dot.h"

#include <math.h>

#define MAX_GROUP 4 /* query heads taken together over one key head, `step.HEADS_AT_ONCE` */
#define MAX_PARTS 4 /* registers of a value taken together for fewer heads than that */

/* 2^x by a polynomial, relative error below 1e-6, for softmax and sigmoid; 2^-126 is the least. */
INLINE vf exp2_of(vf x) {
    x = select_of(x < -126.f, (vf){0} - 126.f, select_of(x > 126.f, (vf){0} + 126.f, x));
    vi n = __builtin_convertvector(x + select_of(x < 0.f, (vf){0} - 0.5f, (vf){0} + 0.5f), vi);
    vf f = (x - __builtin_convertvector(n, vf)) * 0.693147181f;
    vf y = 1.f + f * (1.f + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * (0.00833333333f + f * 0.00138888889f)))));
    return (vf)((vi)y + (n << 23));
}

#define LOG2_E 1.44269504f
#define LOWEST 1e30f

/* Where a sequence keeps the keys and values of one head. */
struct keys { const uint16_t *cache; const int64_t *pages; int64_t page_size, stride, value, length; };

/* Keys (or values, from `offset` on) of a page, and in *count how many of it the row reads. */
INLINE const uint16_t *page_of(const struct keys *k, int64_t first, int64_t *count) {
    *count = k->length - first < k->page_size ? k->length - first : k->page_size;
    return k->cache + k->pages[first / k->page_size] * k->page_size * k->stride;
}

/* The page after the one at `first`, to be fetched while that one is computed; the same again at the end. */
INLINE const uint16_t *page_after(const struct keys *k, int64_t first) {
    int64_t next = first + k->page_size < k->length ? first + k->page_size : first;
    return k->cache + k->pages[next / k->page_size] * k->page_size * k->stride;
}

INLINE void fetch(const uint16_t *p, int64_t numbers) {
    for (int64_t i = 0; i < numbers; i += 32) __builtin_prefetch(p + i, 0, 3);
}

/* scores[h][j] = scale q_h k_j for `group` (a constant) query heads, four products at a time: of so many keys that there are
 * four. What a page lacks is its last key again. */
INLINE void score(const struct keys *k, const float *q, const int group, const int64_t dim, float scale, float *scores,
                  int64_t width) {
    const int64_t whole = dim / LANES * LANES;
    const int together = MAX_GROUP / group;
    int64_t count;
    for (int64_t first = 0; first < k->length; first += count) {
        const uint16_t *page = page_of(k, first, &count), *next = page_after(k, first);
        for (int64_t j = 0; j < count; j += together) {
            const uint16_t *key[MAX_GROUP];
            vf sum[MAX_GROUP];
            float y[MAX_GROUP];
            for (int t = 0; t < together; t++) {
                int64_t place = j + t < count ? j + t : count - 1;
                key[t] = page + place * k->stride;
                fetch(next + place * k->stride, dim);
            }
            for (int n = 0; n < MAX_GROUP; n++) sum[n] = (vf){0};
            for (int64_t i = 0; i < whole; i += LANES)
                for (int t = 0; t < together; t++) {
                    vf part = load_bf16(key[t] + i);
                    for (int h = 0; h < group; h++) sum[t * group + h] += part * load_f32(q + h * dim + i);
                }
            sum_lanes_of_4(sum, y);
            for (int t = 0; t < together && j + t < count; t++)
                for (int h = 0; h < group; h++) {
                    float *product = y + t * group + h;
                    for (int64_t i = whole; i < dim; i++) *product += f32_of(key[t][i]) * q[h * dim + i];
                    scores[h * width + first + j + t] = *product * scale;
                }
        }
    }
}

/* Scores, in units of log 2, become weights; their sum. There is room for whole registers behind the last. */
static float soften(float *s, int64_t length) {
    vf most = (vf){0} - LOWEST, sum = {0};
    for (int64_t j = length; j % LANES; j++) s[j] = -LOWEST;
    for (int64_t j = 0; j < length; j += LANES) {
        vf v = load_f32(s + j);
        most = select_of(v > most, v, most);
    }
    float lanes[LANES];
    memcpy(lanes, &most, sizeof lanes);
    for (int i = 1; i < LANES; i++) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    for (int64_t j = 0; j < length; j += LANES) {
        vf v = exp2_of(load_f32(s + j) - lanes[0]);
        memcpy(s + j, &v, sizeof v);
        sum += v;
    }
    return sum_lanes(sum);
}

/* out[h] = sum_j scores[h][j] v_j factor_h at numbers i .. i + parts * LANES - 1 of the head; `group`, `parts`: constants. */
INLINE void weigh(const struct keys *k, const float *scores, int64_t width, const float *factor, int64_t i, const int group,
                  int64_t dim, const int parts, rounded *out, int64_t first_out) {
    vf sum[MAX_GROUP][MAX_PARTS];
    int64_t count;
    for (int h = 0; h < group; h++)
        for (int p = 0; p < parts; p++) sum[h][p] = (vf){0};
    for (int64_t first = 0; first < k->length; first += count) {
        const uint16_t *value = page_of(k, first, &count) + k->value + i, *next = page_after(k, first) + k->value + i;
        for (int64_t j = first; j < first + count; j++, value += k->stride, next += k->stride) {
            fetch(next, parts * LANES);
            for (int p = 0; p < parts; p++) {
                vf v = load_bf16(value + p * LANES);
                for (int h = 0; h < group; h++) sum[h][p] += v * scores[h * width + j];
            }
        }
    }
    for (int h = 0; h < group; h++)
        for (int p = 0; p < parts; p++) {
            const int64_t column = first_out + h * dim + i + p * LANES;
            float y[LANES];
            vf weighed = sum[h][p] * factor[h];
            int n = 0;
            memcpy(y, &weighed, sizeof y);
            for (; n + 8 <= LANES && column % 8 == 0; n += 8) store_8(out, column + n, y + n);
            for (; n < LANES; n++) out[at(column + n)] = round_of(y[n]);
        }
}

/* `weigh` over a whole head. */
INLINE void weigh_head(const struct keys *k, const float *scores, int64_t width, const float *factor, const int group, int64_t dim,
                       rounded *out, int64_t first_out) {
    int64_t i = 0;
    if (group < MAX_GROUP)
        for (; i + MAX_PARTS * LANES <= dim; i += MAX_PARTS * LANES)
            weigh(k, scores, width, factor, i, group, dim, MAX_PARTS, out, first_out);
    for (; i + 2 * LANES <= dim; i += 2 * LANES) weigh(k, scores, width, factor, i, group, dim, 2, out, first_out);
    for (; i + LANES <= dim; i += LANES) weigh(k, scores, width, factor, i, group, dim, 1, out, first_out);
    for (; i < dim; i++)
        for (int h = 0; h < group; h++) {
            float sum = 0;
            int64_t count;
            for (int64_t first = 0; first < k->length; first += count) {
                const uint16_t *value = page_of(k, first, &count) + k->value + i;
                for (int64_t j = 0; j < count; j++) sum += f32_of(value[j * k->stride]) * scores[h * width + first + j];
            }
            out[at(first_out + h * dim + i)] = round_of(sum * factor[h]);
        }
}

/* Once each, whatever the head: a compiler that made copies for every constant took three times as long. */
static __attribute__((noinline)) void weigh_heads(const struct keys *k, const float *scores, int64_t width, const float *factor,
                                                  int group, int64_t dim, rounded *out, int64_t first_out) {
    if (group == MAX_GROUP) weigh_head(k, scores, width, factor, MAX_GROUP, dim, out, first_out);
    else if (group == 2) weigh_head(k, scores, width, factor, 2, dim, out, first_out);
    else weigh_head(k, scores, width, factor, 1, dim, out, first_out);
}

/* Scores of `group` (a constant) heads, whose size is a constant where it is a usual one. */
INLINE void score_heads(const struct keys *k, const float *q, const int group, int64_t dim, float *scores, int64_t width) {
    const float scale = LOG2_E / sqrtf((float)dim);
    if (dim == 32) score(k, q, group, 32, scale, scores, width);
    else if (dim == 64) score(k, q, group, 64, scale, scores, width);
    else if (dim == 128) score(k, q, group, 128, scale, scores, width);
    else score(k, q, group, dim, scale, scores, width);
}

/* Attention of the query heads over one key head, in groups of 4, 2 or 1: out[first_out + h dim ..] times `boost`. */
static void attend(const struct keys *k, const float *q, int64_t heads, int64_t dim, float *scores, int64_t width, rounded *out,
                   int64_t first_out, float boost) {
    int group;
    for (int64_t h = 0; h < heads; h += group) {
        const int64_t first = first_out + h * dim;
        float factor[MAX_GROUP];
        group = heads - h >= MAX_GROUP ? MAX_GROUP : heads - h >= 2 ? 2 : 1;
        if (group == MAX_GROUP) score_heads(k, q + first, MAX_GROUP, dim, scores, width);
        else if (group == 2) score_heads(k, q + first, 2, dim, scores, width);
        else score(k, q + first, 1, dim, LOG2_E / sqrtf((float)dim), scores, width);
        for (int i = 0; i < group; i++) factor[i] = boost / soften(scores + i * width, k->length);
        weigh_heads(k, scores, width, factor, group, dim, out, first);
    }
}

#endif
