/* Weights into the order of `dot.h`, and the memory's own speed. */
#ifndef PUNA_MEMORY_H
#define PUNA_MEMORY_H

#include "dot.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

/* 64 FP8 numbers with columns j and 32 + j side by side, and subnormal ones, below 2^-14 of the largest number in their row, as
 * zero: a product of two bfloat16 takes them as zero, and so all levels compute with the same weights. */
INLINE void pack_run_of_fp8(const uint8_t *from, int64_t count, uint8_t *to) {
    for (int64_t j = 0; j < RUN / 2; j++) {
        uint8_t low = j < count ? from[j] : 0, high = RUN / 2 + j < count ? from[RUN / 2 + j] : 0;
        to[2 * j] = (low & 0x7f) < 8 ? 0 : low;
        to[2 * j + 1] = (high & 0x7f) < 8 ? 0 : high;
    }
}

#if defined(__cplusplus)
extern "C" {
#endif

/* Rows [rows][columns] of BF16, FP8 or 8-bit numbers (`kind`) into a packed matrix of `padded` columns that holds zeros: row r becomes row
 * first + r, or, in turns with another matrix, row r % 8 of block first + 2 (r / 8). */
void puna_pack(const uint8_t *from, int64_t rows, int64_t columns, int kind, int64_t padded, int64_t first, int in_turns, uint8_t *to,
               int threads) {
    const int64_t bytes = kind == BF16 ? 2 : 1;
    (void)threads;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (int64_t group = 0; group < (rows + BLOCK - 1) / BLOCK; group++)
        for (int64_t k = 0; k < columns; k += RUN)
            for (int64_t r = group * BLOCK; r < rows && r < (group + 1) * BLOCK; r++) {
                const int64_t row = in_turns ? (first + 2 * group) * BLOCK + r % BLOCK : first + r;
                const int64_t count = columns - k < RUN ? columns - k : RUN;
                const uint8_t *source = from + (r * columns + k) * bytes;
                uint8_t *target = to + (row / BLOCK * BLOCK * padded + (k * BLOCK + row % BLOCK * RUN)) * bytes;
                if (kind != FP8) memcpy(target, source, (size_t)(count * bytes));
                else if (count == RUN) pack_run_of_fp8(source, RUN, target);
                else pack_run_of_fp8(source, count, target);
            }
}

/* Read `bytes` (a multiple of 512 by each thread) and do next to nothing with them: the memory's speed. */
uint64_t puna_read(const uint8_t *p, int64_t bytes, int threads) {
    uint64_t result = 0;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads) reduction(^ : result)
#endif
    {
        int thread = 0, count = 1;
#if defined(_OPENMP)
        thread = omp_get_thread_num(), count = omp_get_num_threads();
#endif
        int64_t share = bytes / count / 512 * 512;
        vu seen[8] = {{0}};
        for (const uint8_t *q = p + thread * share, *end = q + share; q < end; q += 8 * sizeof(vu))
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                vu v;
                memcpy(&v, q + i * sizeof v, sizeof v);
                seen[i] ^= v;
            }
        for (int i = 0; i < 8; i++)
            for (int n = 0; n < LANES; n++) result ^= seen[i][n];
    }
    return result;
}

#if defined(__cplusplus)
}
#endif
#endif
