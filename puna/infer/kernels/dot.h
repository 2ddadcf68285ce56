/* Products of 8 weight rows with up to 3 token rows, the one loop that decides how fast a token comes.
 *
 * Weights lie as [N/8][K/64][8][64]: what 8 rows need of 64 columns is one run of memory, so a thread reads one long stream,
 * which the hardware fetches ahead of it on huge pages. BF16 weights, where there is little to compute between two reads, gain
 * from prefetches into the second cache; FP8 weights lose by them. BF16 weights are stored as they are.
 *
 * Of FP8 (e4m3) weights, byte 2j of a run of 64 is column j and byte 2j+1 is column 32+j: shifted into place, the even and the
 * odd bytes of a register are 32 neighbouring columns each. Their 7 lower bits become bits 10..4 of a bfloat16, the sign its
 * sign: 2^-120 of the value, undone by x times 2^100 (FP8_BOOST) and a row scale times 2^20. Subnormal codes are zero by then
 * (`pack.py`).
 *
 * Every product of one weight row and one token row is summed in the same order, however many token rows there are.
 */
#ifndef PUNA_DOT_H
#define PUNA_DOT_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define BLOCK 8             /* weight rows side by side */
#define RUN 64              /* columns of one row that lie together */
#define AHEAD 3072          /* bytes between a read of BF16 weights and its prefetch into the second cache */
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)
#define FP8_BOOST 0x1p100f  /* factor of token rows that meet FP8 weights */
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

INLINE vf load_f32(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE vu load_u16(const uint16_t *p) { vh v; memcpy(&v, p, sizeof v); return __builtin_convertvector(v, vu); }
INLINE vf load_bf16(const uint16_t *p) { return (vf)(load_u16(p) << 16); }
INLINE vf select_of(vi where, vf yes, vf no) { return (vf)(((vi)yes & where) | ((vi)no & ~where)); }
INLINE float f32_of(uint16_t x) { uint32_t u = (uint32_t)x << 16; float f; memcpy(&f, &u, 4); return f; }

/* To the nearest bfloat16, ties to even; NaN stays NaN. */
INLINE uint16_t bf16_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    uint16_t rounded = (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    return x == x ? rounded : 0x7fc0;
}

INLINE float sum_lanes(vf v) {
    float a[LANES];
    memcpy(a, &v, sizeof a);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) a[i] += a[i + width];
    return a[0];
}

#if defined(__AVX512F__)
#include <immintrin.h>

/* y[i] = sum of v[i]: two rounds of additions for all four, then over the quarters. */
INLINE void sum_lanes_of_4(const vf *v, float *y) {
    __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
#else
INLINE void sum_lanes_of_4(const vf *v, float *y) {
    for (int i = 0; i < 4; i++) y[i] = sum_lanes(v[i]);
}
#endif

#if defined(__AVX512BF16__)

INLINE void expand_fp8(const uint8_t *p, __m512i *low, __m512i *high) {
    const __m512i bits = _mm512_set1_epi16((short)0x87f0);
    __m512i w = _mm512_loadu_si512(p);
    *low = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 4), bits);
    *high = _mm512_and_si512(_mm512_srai_epi16(w, 4), bits);
}

/* out[c][r] for `count` token rows (a constant, at most 3): 8 x 3 sums fill 24 of the 32 registers. */
INLINE void tile(const uint8_t *w, int fp8, int64_t ahead, const uint16_t *x, int64_t ldx, int64_t columns, const int count,
                 float *out) {
    __m512 sum[BLOCK][3];
    const int64_t run_bytes = fp8 ? RUN : 2 * RUN;
#pragma GCC unroll 8
    for (int r = 0; r < BLOCK; r++)
#pragma GCC unroll 3
        for (int c = 0; c < count; c++) sum[r][c] = _mm512_setzero_ps();
    for (int64_t k = 0; k < columns; k += RUN, w += BLOCK * run_bytes) {
#pragma GCC unroll 8
        for (int r = 0; r < BLOCK; r++) {
            const uint8_t *p = w + r * run_bytes;
            __m512i low, high;
            if (fp8) {
                expand_fp8(p, &low, &high);
            } else {
                low = _mm512_loadu_si512(p);
                high = _mm512_loadu_si512(p + RUN);
            }
            if (ahead && !fp8) {
                PREFETCH(p + ahead);
                PREFETCH(p + RUN + ahead);
            }
#pragma GCC unroll 3
            for (int c = 0; c < count; c++) {
                sum[r][c] = _mm512_dpbf16_ps(sum[r][c], (__m512bh)low, (__m512bh)_mm512_loadu_si512(x + c * ldx + k));
                sum[r][c] = _mm512_dpbf16_ps(sum[r][c], (__m512bh)high, (__m512bh)_mm512_loadu_si512(x + c * ldx + k + RUN / 2));
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < BLOCK; r++)
#pragma GCC unroll 3
        for (int c = 0; c < count; c++) out[c * BLOCK + r] = _mm512_reduce_add_ps(sum[r][c]);
}

INLINE void tiles(const uint8_t *w, int fp8, int64_t ahead, const uint16_t *x, int64_t ldx, int64_t columns, int64_t rows,
                  float *out) {
    int64_t c = 0;
    if (rows == 4) {
        tile(w, fp8, ahead, x, ldx, columns, 2, out);
        tile(w, fp8, 0, x + 2 * ldx, ldx, columns, 2, out + 2 * BLOCK);
        return;
    }
    for (; c + 3 <= rows; c += 3) tile(w, fp8, c ? 0 : ahead, x + c * ldx, ldx, columns, 3, out + c * BLOCK);
    if (rows - c == 2) tile(w, fp8, c ? 0 : ahead, x + c * ldx, ldx, columns, 2, out + c * BLOCK);
    if (rows - c == 1) tile(w, fp8, c ? 0 : ahead, x + c * ldx, ldx, columns, 1, out + c * BLOCK);
}

/* One block of weight rows times `rows` token rows [rows][ldx]: out[c * 8 + r], without the row scales.
 * `panel`: room for the block as bfloat16; from 5 token rows on, FP8 is expanded once and read from there. */
static void multiply_block(const uint8_t *w, int fp8, const uint16_t *x, int64_t ldx, int64_t columns, int64_t rows,
                           uint16_t *panel, float *out) {
    if (!fp8) {
        tiles(w, 0, AHEAD, x, ldx, columns, rows, out);
    } else if (rows <= 4) {
        tiles(w, 1, AHEAD, x, ldx, columns, rows, out);
    } else {
        for (int64_t i = 0; i < BLOCK * columns; i += RUN) {
            __m512i low, high;
            expand_fp8(w + i, &low, &high);
            _mm512_storeu_si512(panel + i, low);
            _mm512_storeu_si512(panel + i + RUN / 2, high);
        }
        tiles((const uint8_t *)panel, 0, 0, x, ldx, columns, rows, out);
    }
}

#else /* the same in float32 lanes: AVX-512 without bfloat16, AVX2, and whatever the compiler makes of 4 lanes elsewhere */

INLINE void one_row(const uint8_t *w, int fp8, const uint16_t *x, int64_t columns, float *out) {
    vf sum[BLOCK];
    const int64_t run_bytes = fp8 ? RUN : 2 * RUN;
    for (int r = 0; r < BLOCK; r++) sum[r] = (vf){0};
    for (int64_t k = 0; k < columns; k += RUN, w += BLOCK * run_bytes) {
#pragma GCC unroll 4
        for (int i = 0; i < RUN / 2; i += LANES) {
            vf x_low = load_bf16(x + k + i), x_high = load_bf16(x + k + RUN / 2 + i);
#pragma GCC unroll 8
            for (int r = 0; r < BLOCK; r++) {
                const uint16_t *p = (const uint16_t *)(w + r * run_bytes);
                if (fp8) {
                    vu u = load_u16(p + i);
                    sum[r] += (vf)(((u & 0x7f) << 20) | ((u & 0x80) << 24)) * x_low;
                    sum[r] += (vf)(((u & 0x7f00) << 12) | ((u & 0x8000) << 16)) * x_high;
                } else {
                    if (i == 0) PREFETCH((const uint8_t *)p + AHEAD);
                    if (i == 0) PREFETCH((const uint8_t *)p + RUN + AHEAD);
                    sum[r] += load_bf16(p + i) * x_low;
                    sum[r] += load_bf16(p + RUN / 2 + i) * x_high;
                }
            }
        }
    }
    for (int r = 0; r < BLOCK; r++) out[r] = sum_lanes(sum[r]);
}

static void multiply_block(const uint8_t *w, int fp8, const uint16_t *x, int64_t ldx, int64_t columns, int64_t rows,
                           uint16_t *panel, float *out) {
    (void)panel;
    for (int64_t c = 0; c < rows; c++) {
        if (fp8) one_row(w, 1, x + c * ldx, columns, out + c * BLOCK);
        else one_row(w, 0, x + c * ldx, columns, out + c * BLOCK);
    }
}

#endif
#endif
