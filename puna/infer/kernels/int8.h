/* Products of integers, where a request for speed allows them: weights as 8 bits with a scale for each row, token rows as 8 bits with
 * a scale for each row of each product. Sums are exact, so order, tiles and processor change nothing.
 *
 * Weights lie as [N/8][K/64][8][64]. Both sides are widened to 16 bits and multiplied in pairs: 2 LANES products an instruction,
 * twice as many as in float32. Token rows lie as [K/CHUNK][row/3][CHUNK/PAIRS][3][PAIRS], as `row_of` has them in float32.
 */
#ifndef PUNA_INT8_H
#define PUNA_INT8_H

#include "dot.h"

#define PAIRS (2 * LANES) /* numbers of 16 bits in a register */
#define MOST 127.f        /* largest number of 8 bits with a negative beside it */
#define TRIPLES ((MAX_ROWS + 2) / 3 * 3)
#define PIECE_8 1024      /* columns of 4 weight rows and 3 token rows that stay in the first cache */
#define HALF_BLOCK 4

typedef int16_t vp __attribute__((vector_size(2 * PAIRS)));
typedef int8_t vb __attribute__((vector_size(PAIRS)));

INLINE vp load_pairs(const int16_t *p) { vp v; memcpy(&v, p, sizeof v); return v; }
INLINE vp widened(const int8_t *p) { vb v; memcpy(&v, p, sizeof v); return __builtin_convertvector(v, vp); }

/* Sums of neighbouring products. */
INLINE vi multiply_pairs(vp a, vp b) {
#if LANES == 16
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif LANES == 8
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return (((vi)a << 16) >> 16) * (((vi)b << 16) >> 16) + ((vi)a >> 16) * ((vi)b >> 16);
#endif
}

/* y[i] = sum of v[i]. */
INLINE void sums_of_4(const vi *v, float *y) {
#if LANES == 8
    __m256i ab = _mm256_hadd_epi32((__m256i)v[0], (__m256i)v[1]), cd = _mm256_hadd_epi32((__m256i)v[2], (__m256i)v[3]);
    __m256i all = _mm256_hadd_epi32(ab, cd);
    _mm_storeu_ps(y, _mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1))));
#else
    for (int n = 0; n < 4; n++) {
        int32_t sum = 0;
        for (int i = 0; i < LANES; i++) sum += v[n][i];
        y[n] = (float)sum;
    }
#endif
}

INLINE int16_t *pairs_of(int16_t *x, int64_t row, int64_t column) {
    return x + column / PIECE_8 * TRIPLES * PIECE_8 + row / 3 * 3 * PIECE_8 + column % PIECE_8 / PAIRS * 3 * PAIRS + row % 3 * PAIRS +
           column % PAIRS;
}

/* Columns k + 2 LANES n .. of a row: the even ones and the odd ones. */
INLINE void load_columns(const rounded *x, int64_t k, int n, vf *even, vf *odd) {
#if defined(__AVX512BF16__)
    vu both;
    memcpy(&both, x + k + n * PAIRS, sizeof both);
    *even = (vf)(both << 16);
    *odd = (vf)(both & 0xffff0000u);
#else
    const int half = n / (RUN / 4 / LANES), place = n % (RUN / 4 / LANES) * 4 + half * 2;
    *even = load_f32(x + at(k) + place * 3 * LANES);
    *odd = load_f32(x + at(k) + (place + 1) * 3 * LANES);
#endif
}

INLINE vf larger_size(vf most, vf x) {
    vf size = (vf)((vu)x & 0x7fffffffu);
    return select_of(size > most, size, most);
}

INLINE vi nearest(vf x) { return __builtin_convertvector(x + select_of(x < 0.f, (vf){0} - 0.5f, (vf){0} + 0.5f), vi); }

/* A token row as integers; its scale is returned. */
static float quantize_row(rounded *from, int64_t row, int64_t columns, int16_t *to) {
    const rounded *x = row_of(from, columns, row);
    vf even, odd, sizes = {0};
    float lanes[LANES], most = 0;
    for (int64_t k = 0; k < columns; k += RUN)
        for (int n = 0; n < RUN / PAIRS; n++) {
            load_columns(x, k, n, &even, &odd);
            sizes = larger_size(larger_size(sizes, even), odd);
        }
    memcpy(lanes, &sizes, sizeof lanes);
    for (int i = 0; i < LANES; i++) most = lanes[i] > most ? lanes[i] : most;
    const float factor = most > 0 ? MOST / most : 0;
    for (int64_t k = 0; k < columns; k += RUN)
        for (int n = 0; n < RUN / PAIRS; n++) {
            load_columns(x, k, n, &even, &odd);
            vi both = (nearest(even * factor) & 0xffff) | (nearest(odd * factor) << 16);
            memcpy(pairs_of(to, row, k + n * PAIRS), &both, sizeof both);
        }
    return most / MOST;
}

#if LANES == 8
/* sum[c][r] += x_c p_r for a register of 3 token rows and of 4 weight rows. */
INLINE void multiply_pairs_3_by_4(vi sum[3][HALF_BLOCK], const int16_t *x, const int16_t *p) {
#define ADD(source, c) "vpmaddwd " source ", %%ymm14, %%ymm15\n\tvpaddd %%ymm15, " c ", " c "\n\t"
#define ROW(r, c0, c1, c2) "vmovdqu " #r "*32(%[p]), %%ymm14\n\t" ADD("%%ymm12", c0) ADD("%%ymm13", c1) ADD("64(%[x])", c2)
    __asm__("vmovdqu (%[x]), %%ymm12\n\tvmovdqu 32(%[x]), %%ymm13\n\t"
            ROW(0, "%0", "%4", "%8") ROW(1, "%1", "%5", "%9") ROW(2, "%2", "%6", "%10") ROW(3, "%3", "%7", "%11")
            : "+x"(sum[0][0]), "+x"(sum[0][1]), "+x"(sum[0][2]), "+x"(sum[0][3]), "+x"(sum[1][0]), "+x"(sum[1][1]),
              "+x"(sum[1][2]), "+x"(sum[1][3]), "+x"(sum[2][0]), "+x"(sum[2][1]), "+x"(sum[2][2]), "+x"(sum[2][3])
            : [x] "r"(x), [p] "r"(p)
            : "xmm12", "xmm13", "xmm14", "xmm15", "memory");
#undef ROW
#undef ADD
}
#endif

INLINE void pairs_tile(const int16_t *panel, const int16_t *x, int64_t columns, const int count, vi *sums) {
    vi sum[3][HALF_BLOCK];
#pragma GCC unroll 3
    for (int c = 0; c < count; c++)
#pragma GCC unroll 4
        for (int r = 0; r < HALF_BLOCK; r++) sum[c][r] = sums[c * BLOCK + r];
    for (int64_t k = 0; k < columns; k += PAIRS, panel += HALF_BLOCK * PAIRS, x += 3 * PAIRS) {
#if LANES == 8
        if (count == 3) {
            multiply_pairs_3_by_4(sum, x, panel);
            continue;
        }
#endif
#pragma GCC unroll 4
        for (int r = 0; r < HALF_BLOCK; r++)
#pragma GCC unroll 3
            for (int c = 0; c < count; c++)
                sum[c][r] += multiply_pairs(load_pairs(panel + r * PAIRS), load_pairs(x + c * PAIRS));
    }
#pragma GCC unroll 3
    for (int c = 0; c < count; c++)
#pragma GCC unroll 4
        for (int r = 0; r < HALF_BLOCK; r++) sums[c * BLOCK + r] = sum[c][r];
}

/* One row of tokens, straight from the weights. */
INLINE void one_row_of_pairs(const int8_t *w, int16_t *x, int64_t row, int64_t columns, vi *sums) {
    for (int64_t k = 0; k < columns; k += RUN)
#pragma GCC unroll 8
        for (int r = 0; r < BLOCK; r++, w += RUN)
            for (int i = 0; i < RUN; i += PAIRS) sums[r] += multiply_pairs(widened(w + i), load_pairs(pairs_of(x, row, k + i)));
}

/* One block of weight rows times `rows` token rows: out[c * 8 + r], without any scale. `panel`: room for the block in 16 bits. */
static void multiply_block_int8(const int8_t *w, int16_t *x, int64_t columns, int64_t rows, int16_t *panel, float *out) {
    vi sums[MAX_ROWS * BLOCK];
    for (int64_t i = 0; i < rows * BLOCK; i++) sums[i] = (vi){0};
    if (rows == 1) one_row_of_pairs(w, x, 0, columns, sums);
    else {
        const int8_t *next = w + BLOCK * columns, *end = next + BLOCK * columns;
        const int64_t share = BLOCK * columns / ((columns + PIECE_8 - 1) / PIECE_8 * ((rows + 2) / 3)) + 64;
        for (int64_t k = 0; k < columns; k += RUN)
            for (int r = 0; r < BLOCK; r++, w += RUN)
                for (int i = 0; i < RUN; i += PAIRS) {
                    vp v = widened(w + i);
                    memcpy(panel + r / HALF_BLOCK * HALF_BLOCK * columns + r % HALF_BLOCK * PAIRS + (k + i) * HALF_BLOCK, &v, sizeof v);
                }
        for (int64_t k = 0; k < columns; k += PIECE_8) {
            const int64_t width = columns - k < PIECE_8 ? columns - k : PIECE_8;
            for (int64_t c = 0; c < rows; c += 3) {
                for (int64_t i = 0; i < share && next < end; i += 64, next += 64) __builtin_prefetch(next, 0, 2);
                for (int r = 0; r < BLOCK; r += HALF_BLOCK) {
                    const int16_t *part = panel + r * columns + k * HALF_BLOCK, *row = pairs_of(x, c, k);
                    if (rows - c >= 3) pairs_tile(part, row, width, 3, sums + c * BLOCK + r);
                    else if (rows - c == 2) pairs_tile(part, row, width, 2, sums + c * BLOCK + r);
                    else pairs_tile(part, row, width, 1, sums + c * BLOCK + r);
                }
            }
        }
    }
    for (int64_t i = 0; i < rows * BLOCK; i += 4) sums_of_4(sums + i, out + i);
}

#endif
