/* Products of 8 weight rows with up to 3 token rows, the one loop that decides how fast a token comes.
 *
 * Weights lie as [N/8][K/64][8][64]: what 8 rows need of 64 columns is one run of memory, so a thread reads one long stream,
 * which the hardware fetches ahead of it on huge pages. Where bfloat16 numbers are multiplied as such, BF16 weights gain from
 * prefetches into the second cache and FP8 weights lose by them; in float32 lanes both gain, each at a distance of its own. BF16
 * weights are stored as they are.
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

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define BLOCK 8             /* weight rows side by side */
#define RUN 64              /* columns of one row that lie together */
#define AHEAD 3072          /* bytes between a read of weights and its prefetch into the second cache */
#define NEAR 640            /* the same for BF16 weights in float32 lanes */
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)
#define FP8_BOOST 0x1p100f  /* factor of token rows that meet FP8 weights */
enum kind { BF16, FP8, INT8 }; /* of weights, as `pack.Kind` */
#define MAX_ROWS 64         /* token rows of one call, `step.MAX_ROWS` */
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

INLINE vf load_f32(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
#if LANES != 8
INLINE vu load_u16(const uint16_t *p) { vh v; memcpy(&v, p, sizeof v); return __builtin_convertvector(v, vu); }
#else
INLINE vu load_u16(const uint16_t *p) { return (vu)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)); }
#endif
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

/* A number of a token row: a bfloat16, kept as such where the processor multiplies them and as a float elsewhere. */
#if defined(__AVX512BF16__)
typedef uint16_t rounded;
INLINE rounded round_of(float x) { return bf16_of(x); }
#else
typedef float rounded;
INLINE rounded round_of(float x) { return f32_of(bf16_of(x)); }
#endif

INLINE float sum_lanes(vf v) {
    float a[LANES];
    memcpy(a, &v, sizeof a);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) a[i] += a[i + width];
    return a[0];
}

#if defined(__AVX512F__)

/* y[i] = sum of v[i]: two rounds of additions for all four, then over the quarters. */
INLINE void sum_lanes_of_4(const vf *v, float *y) {
    __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
#elif defined(__AVX2__)

INLINE void sum_lanes_of_4(const vf *v, float *y) {
    __m256 ab = _mm256_hadd_ps((__m256)v[0], (__m256)v[1]), cd = _mm256_hadd_ps((__m256)v[2], (__m256)v[3]);
    __m256 all = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
#else
INLINE void sum_lanes_of_4(const vf *v, float *y) {
    for (int i = 0; i < 4; i++) y[i] = sum_lanes(v[i]);
}
#endif

#if defined(__AVX512BF16__)

INLINE rounded *row_of(rounded *x, int64_t columns, int64_t row) { return x + row * columns; }
INLINE int64_t at(int64_t column) { return column; }
INLINE void store_8(rounded *row, int64_t column, const float *y) {
    for (int j = 0; j < 8; j++) row[column + j] = round_of(y[j]);
}

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

/* One block of weight rows times `rows` token rows: out[c * 8 + r], without the row scales.
 * `room`: for the block as bfloat16; from 5 token rows on, FP8 is expanded once and read from there. */
static void multiply_block(const uint8_t *w, int fp8, const uint16_t *x, int64_t columns, int64_t rows, float *room, float *out) {
    uint16_t *panel = (uint16_t *)room;
    const int64_t ldx = columns;
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

#define SHARE (LANES == 16 ? 8 : 4) /* weight rows times 3 token rows whose sums fill the registers */
#define CHUNK 512                   /* columns of 8 weight rows and 3 token rows that stay in the first cache together */
#define ROOM ((MAX_ROWS + 2) / 3 * 3)

/* Token rows lie as [K/CHUNK][row/3][CHUNK/LANES][3][LANES], so that a pass over all of them reads one stream. The registers of
 * a run of 64 columns come in the order in which weights are taken apart: see `take_apart`. */
INLINE rounded *row_of(rounded *x, int64_t columns, int64_t row) { (void)columns; return x + row / 3 * 3 * CHUNK + row % 3 * LANES; }
INLINE int64_t at(int64_t column) {
    const int64_t i = column % RUN, half = i / (RUN / 2), place = i % (RUN / 2) / (2 * LANES) * 4 + half * 2 + i % 2;
    return column / CHUNK * ROOM * CHUNK + (column % CHUNK / RUN * (RUN / LANES) + place) * 3 * LANES + i % (2 * LANES) / 2;
}

/* 8 neighbouring columns from one on that 8 divides: the even ones lie together, and so do the odd ones. */
INLINE void store_8(rounded *row, int64_t column, const float *y) {
    rounded *even = row + at(column), *odd = even + 3 * LANES;
    float all[8];
    for (int j = 0; j < 8; j++) all[j] = round_of(y[j]);
    for (int j = 0; j < 4; j++) even[j] = all[2 * j];
    for (int j = 0; j < 4; j++) odd[j] = all[2 * j + 1];
}

typedef int16_t vs __attribute__((vector_size(4 * LANES)));

/* 4 registers of weights out of a run of 64, n of RUN / (4 LANES): the even and the odd ones of 2 LANES columns, and the same 32
 * columns further on. Nothing is moved between lanes. */
INLINE void take_apart(const uint8_t *run, int fp8, int n, vf *out) {
    vu first, second;
    memcpy(&first, run + n * 4 * LANES, sizeof first);
    if (fp8) {
        vs bytes = (vs)first;
        first = (vu)(((bytes << 8) >> 4) & (int16_t)0x87f0);
        second = (vu)((bytes >> 4) & (int16_t)0x87f0);
    } else {
        memcpy(&second, run + RUN + n * 4 * LANES, sizeof second);
    }
    out[0] = (vf)(first << 16);
    out[1] = (vf)(first & 0xffff0000u);
    out[2] = (vf)(second << 16);
    out[3] = (vf)(second & 0xffff0000u);
}

INLINE void sums_of_block(const vf *sum, float *out) {
    sum_lanes_of_4(sum, out);
    sum_lanes_of_4(sum + 4, out + 4);
}

INLINE void one_row(const uint8_t *w, int fp8, const float *x, int64_t columns, float *out) {
    vf sum[BLOCK], part[4];
    const int64_t run_bytes = fp8 ? RUN : 2 * RUN, ahead = fp8 ? AHEAD : NEAR;
    for (int r = 0; r < BLOCK; r++) sum[r] = (vf){0};
    for (int64_t k = 0; k < columns; k += RUN, w += BLOCK * run_bytes) {
        const float *row = x + at(k);
#pragma GCC unroll 8
        for (int r = 0; r < BLOCK; r++) {
            const uint8_t *p = w + r * run_bytes;
            PREFETCH(p + ahead);
            if (!fp8) PREFETCH(p + RUN + ahead);
#pragma GCC unroll 8
            for (int n = 0; n < RUN / (4 * LANES); n++) {
                take_apart(p, fp8, n, part);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) sum[r] += part[i] * load_f32(row + (4 * n + i) * 3 * LANES);
            }
        }
    }
    sums_of_block(sum, out);
}

#if LANES == 8
/* sum[c][r] += x_c p_r for a register of 3 token rows and of 4 weight rows: all 16 registers, which no compiler was seen to
 * manage. */
INLINE void multiply_3_by_4(vf sum[3][SHARE], const float *x, const float *p) {
#define ROW(r, c0, c1, c2)                                                                           \
    "vmovups " #r "*32(%[p]), %%ymm15\n\tvfmadd231ps %%ymm12, %%ymm15, " c0 "\n\t"                  \
    "vfmadd231ps %%ymm13, %%ymm15, " c1 "\n\tvfmadd231ps %%ymm14, %%ymm15, " c2 "\n\t"
    __asm__("vmovups (%[x]), %%ymm12\n\tvmovups 32(%[x]), %%ymm13\n\tvmovups 64(%[x]), %%ymm14\n\t"
            ROW(0, "%0", "%4", "%8") ROW(1, "%1", "%5", "%9") ROW(2, "%2", "%6", "%10") ROW(3, "%3", "%7", "%11")
            : "+x"(sum[0][0]), "+x"(sum[0][1]), "+x"(sum[0][2]), "+x"(sum[0][3]), "+x"(sum[1][0]), "+x"(sum[1][1]),
              "+x"(sum[1][2]), "+x"(sum[1][3]), "+x"(sum[2][0]), "+x"(sum[2][1]), "+x"(sum[2][2]), "+x"(sum[2][3])
            : [x] "r"(x), [p] "r"(p)
            : "xmm12", "xmm13", "xmm14", "xmm15", "memory");
#undef ROW
}
#endif

/* sums[c][r] += over some columns, the first ones unless `begun`, for SHARE rows of a panel and `count` token rows (a constant, at
 * most 3), in the order of `one_row`. */
INLINE void panel_tile(const float *panel, const float *x, int64_t columns, const int count, int begun, vf *sums) {
    vf sum[3][SHARE];
#pragma GCC unroll 3
    for (int c = 0; c < count; c++)
#pragma GCC unroll 8
        for (int r = 0; r < SHARE; r++) sum[c][r] = begun ? sums[c * BLOCK + r] : (vf){0};
    for (int64_t k = 0; k < columns; k += LANES, panel += SHARE * LANES, x += 3 * LANES) {
#if LANES == 8
        if (count == 3) {
            multiply_3_by_4(sum, x, panel);
            continue;
        }
#endif
#pragma GCC unroll 8
        for (int r = 0; r < SHARE; r++)
#pragma GCC unroll 3
            for (int c = 0; c < count; c++) sum[c][r] += load_f32(panel + r * LANES) * load_f32(x + c * LANES);
    }
#pragma GCC unroll 3
    for (int c = 0; c < count; c++)
#pragma GCC unroll 8
        for (int r = 0; r < SHARE; r++) sums[c * BLOCK + r] = sum[c][r];
}

/* A block of weights in float32: for SHARE rows at a time a register of each in turn. */
INLINE void expand_block(const uint8_t *w, int fp8, int64_t columns, float *panel) {
    for (int64_t k = 0; k < columns; k += RUN)
        for (int r = 0; r < BLOCK; r++, w += fp8 ? RUN : 2 * RUN) {
            float *place = panel + r / SHARE * SHARE * columns + r % SHARE * LANES + k * SHARE;
            for (int n = 0; n < RUN / (4 * LANES); n++) {
                vf part[4];
                take_apart(w, fp8, n, part);
                for (int i = 0; i < 4; i++) memcpy(place + (4 * n + i) * SHARE * LANES, part + i, sizeof(vf));
            }
        }
}

/* One block of weight rows times `rows` token rows: out[c * 8 + r], without the row scales.
 * `panel`: room for the block in float32; from 3 token rows on, the weights are expanded once and read from there. */
static void multiply_block(const uint8_t *w, int fp8, float *x, int64_t columns, int64_t rows, float *panel, float *out) {
    vf sums[MAX_ROWS * BLOCK];
    if (rows <= 2) {
        for (int64_t c = 0; c < rows; c++) {
            if (fp8) one_row(w, 1, row_of(x, columns, c), columns, out + c * BLOCK);
            else one_row(w, 0, row_of(x, columns, c), columns, out + c * BLOCK);
        }
        return;
    }
    if (fp8) expand_block(w, 1, columns, panel);
    else expand_block(w, 0, columns, panel);
    const uint8_t *next = w + BLOCK * columns * (fp8 ? 1 : 2), *end = next + (next - w);
    const int64_t share = (next - w) / ((columns + CHUNK - 1) / CHUNK * ((rows + 2) / 3)) + 64;
    for (int64_t k = 0; k < columns; k += CHUNK) {
        const int64_t width = columns - k < CHUNK ? columns - k : CHUNK;
        for (int64_t c = 0; c < rows; c += 3) {
            for (int64_t i = 0; i < share && next < end; i += 64, next += 64) __builtin_prefetch(next, 0, 2);
            for (int r = 0; r < BLOCK; r += SHARE) {
                const float *part = panel + r * columns + k * SHARE, *row = row_of(x, columns, c) + at(k);
                if (rows - c >= 3) panel_tile(part, row, width, 3, k > 0, sums + c * BLOCK + r);
                else if (rows - c == 2) panel_tile(part, row, width, 2, k > 0, sums + c * BLOCK + r);
                else panel_tile(part, row, width, 1, k > 0, sums + c * BLOCK + r);
            }
            if (k + width == columns)
                for (int64_t i = c; i < rows && i < c + 3; i++) sums_of_block(sums + i * BLOCK, out + i * BLOCK);
        }
    }
}

#endif
#endif
