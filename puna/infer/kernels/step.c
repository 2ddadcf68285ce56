/* A whole step of a Llama in one call: token rows in, logits out, keys and values into Puna's pages on the way.
 *
 * A row is a token at a position of some sequence: the newest one of an answer, or one of a prompt. All threads go through the
 * layers together and wait for each other by spinning; what a phase has to do is taken in pieces by whoever is free. Each number
 * is computed by one thread in an order that its own row alone decides, so neither the neighbours in the batch nor the threads
 * nor the cutting of a prompt change a bit of it. Products are of bfloat16 numbers (or FP8 and bfloat16), sums, the residual
 * stream, norms and softmax are float32; keys and values are kept in bfloat16. Structures mirror those of `step.py`.
 */
#include "attention.h"
#include "dot.h"
#include "int8.h"
#include "memory.h"

#include <math.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if !defined(_WIN32)
#include <sched.h>
#endif

#define PIECE 32768    /* bytes of weights a thread takes at least at once */
#define SPINS 20000    /* looks at the barrier before the core is offered to others */
#define BARRIER 0      /* places in `work`: threads that have arrived, rounds completed, counters of the phases */
#define ROUND 8
#define COUNTERS 16

struct matrix { /* rows a multiple of 8, columns of 64; scale of each row but for BF16; kind: enum kind */
    const uint8_t *weight;
    const float *scale;
    int64_t rows, columns, kind;
};
struct layer { struct matrix qkv, o, gate_up, down; const float *attention_norm, *ffn_norm; };
struct model {
    int64_t layers, dim, heads, kv_heads, head_dim, page_size, cache_stride; /* cache_stride: numbers per layer */
    const struct layer *layer;
    struct matrix head;
    const float *norm;
    const uint16_t *embedding;
    uint16_t *cache; /* [layer][page][page_size][2][kv_heads][head_dim] */
    float epsilon;
};
struct batch {
    int64_t rows, wanted, table_width;
    const int64_t *tokens, *positions, *slots, *sequence; /* [rows]; sequence: its row of `table` */
    const int64_t *table;                                 /* [sequences][table_width] pages */
    const int64_t *wanted_rows;                           /* [wanted]: rows whose logits are asked for */
    const float *cos, *sin;                               /* [positions][head_dim], second half of sin unsigned */
    float *logits;                                        /* [wanted][head.rows] */
};
struct scratch {
    int64_t score_width, panel_size, work_size;
    float *residual, *qkv, *scores;
    rounded *normed, *attended, *hidden; /* rows padded with zeros to 64 columns, as `row_of` has them */
    float *panel;                        /* per thread */
    int16_t *quantized;                  /* the rows of the product at hand as integers, with their scales */
    float *row_scale;
    int64_t *work;
};

static void barrier(int64_t *work, int threads) {
    int64_t round = __atomic_load_n(work + ROUND, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(work + BARRIER, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(work + BARRIER, 0, __ATOMIC_RELAXED);
        __atomic_store_n(work + ROUND, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int64_t spins = 0; __atomic_load_n(work + ROUND, __ATOMIC_ACQUIRE) == round; spins++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
#if !defined(_WIN32)
        if (spins > SPINS) sched_yield();
#endif
    }
}

/* The next piece of `total`, from *first on, or 0: seven eighths of a fair share of what is left, so that streams stay long and
 * no thread waits long for one that the system has stopped. */
static int64_t take(int64_t *counter, int64_t total, int64_t least, int threads, int64_t *first) {
    int64_t taken = __atomic_load_n(counter, __ATOMIC_RELAXED), size;
    do {
        if (taken >= total) return 0;
        size = (total - taken) * 7 / (8 * threads);
        if (size < least) size = least;
        if (size > total - taken) size = total - taken;
    } while (!__atomic_compare_exchange_n(counter, &taken, taken + size, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    *first = taken;
    return size;
}

static void norm_row(const float *x, const float *weight, int64_t dim, float epsilon, float boost, rounded *out) {
    vf squares = {0};
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES) squares += load_f32(x + i) * load_f32(x + i);
    float sum = sum_lanes(squares);
    for (; i < dim; i++) sum += x[i] * x[i];
    float factor = boost / sqrtf(sum / (float)dim + epsilon);
    for (i = 0; i + 8 <= dim; i += 8) {
        float y[8];
        for (int j = 0; j < 8; j++) y[j] = x[i + j] * factor * weight[i + j];
        store_8(out, i, y);
    }
    for (; i < dim; i++) out[at(i)] = round_of(x[i] * factor * weight[i]);
}

INLINE float boost_of(const struct matrix *m) { return m->kind == FP8 ? FP8_BOOST : 1.f; }
INLINE int64_t bytes_of(const struct matrix *m) { return m->kind == BF16 ? 2 : 1; }
INLINE int64_t padded(int64_t columns) { return (columns + RUN - 1) / RUN * RUN; }

/* Blocks a thread takes at least at once. */
INLINE int64_t least_of(const struct matrix *m) {
    int64_t blocks = PIECE / (BLOCK * m->columns * bytes_of(m));
    return blocks ? blocks : 1;
}

static void block_of(const struct matrix *m, const struct scratch *s, int64_t block, rounded *x, int64_t rows, float *panel,
                     float *out) {
    const uint8_t *weight = m->weight + block * BLOCK * m->columns * bytes_of(m);
    if (m->kind == INT8) multiply_block_int8((const int8_t *)weight, s->quantized, m->columns, rows, (int16_t *)panel, out);
    else multiply_block(weight, m->kind == FP8, x, m->columns, rows, panel, out);
    if (m->kind == BF16) return;
    for (int64_t c = 0; c < rows; c++) {
        float factor = m->kind == INT8 ? s->row_scale[c] : 1.f;
        for (int r = 0; r < BLOCK; r++) out[c * BLOCK + r] *= m->scale[block * BLOCK + r] * factor;
    }
}

/* Token rows as integers, where the matrix that comes next multiplies those. */
static void quantize(const struct matrix *m, const struct scratch *s, rounded *x, int64_t rows, int thread, int threads) {
    if (m->kind != INT8) return;
    for (int64_t r = thread; r < rows; r += threads) s->row_scale[r] = quantize_row(x, r, m->columns, s->quantized);
    barrier(s->work, threads);
}

/* y[rows][ldy] = x m^T, or added to y. */
static void multiply(const struct matrix *m, const struct scratch *s, rounded *x, int64_t rows, float *y, int64_t ldy, int add,
                     float *panel, int64_t *counter, int threads) {
    float out[MAX_ROWS * BLOCK];
    int64_t first, size;
    if (!rows) return; /* a piece of a prompt after which no logits are asked for */
    while ((size = take(counter, m->rows / BLOCK, least_of(m), threads, &first)))
        for (int64_t b = first; b < first + size; b++) {
            block_of(m, s, b, x, rows, panel, out);
            for (int64_t c = 0; c < rows; c++)
                for (int r = 0; r < BLOCK; r++) {
                    float *place = y + c * ldy + b * BLOCK + r;
                    *place = add ? *place + out[c * BLOCK + r] : out[c * BLOCK + r];
                }
        }
}

/* hidden = silu(gate x) * (up x); blocks of gate and up rows take turns in the matrix. */
static void swiglu(const struct layer *l, const struct scratch *s, int64_t rows, float *panel, int64_t *counter, int threads) {
    rounded *x = s->normed, *hidden = s->hidden;
    float gate[MAX_ROWS * BLOCK] = {0}, up[MAX_ROWS * BLOCK] = {0}, boost = boost_of(&l->down);
    int64_t first, size;
    while ((size = take(counter, l->gate_up.rows / (2 * BLOCK), (least_of(&l->gate_up) + 1) / 2, threads, &first)))
        for (int64_t b = first; b < first + size; b++) {
            block_of(&l->gate_up, s, 2 * b, x, rows, panel, gate);
            block_of(&l->gate_up, s, 2 * b + 1, x, rows, panel, up);
            for (int64_t i = 0; i < rows * BLOCK; i += LANES) {
                vf g = load_f32(gate + i), y = g / (1.f + exp2_of(-LOG2_E * g)) * load_f32(up + i) * boost;
                memcpy(gate + i, &y, sizeof y);
            }
            for (int64_t c = 0; c < rows; c++) store_8(row_of(hidden, l->down.columns, c), b * BLOCK, gate + c * BLOCK);
        }
}

static void rotate(float *head, const float *cos, const float *sin, int64_t dim) {
    for (int64_t i = 0; i < dim / 2; i++) {
        float a = head[i], b = head[i + dim / 2];
        head[i] = a * cos[i] - b * sin[i + dim / 2];
        head[i + dim / 2] = b * cos[i] + a * sin[i + dim / 2];
    }
}

/* Turn the row's queries and key by its position; key and value go to its slot. */
static void place_row(const struct model *m, const struct batch *b, int64_t layer, int64_t row, float *qkv) {
    int64_t dim = m->head_dim, width = m->kv_heads * dim;
    const float *cos = b->cos + b->positions[row] * dim, *sin = b->sin + b->positions[row] * dim;
    for (int64_t h = 0; h < m->heads + m->kv_heads; h++) rotate(qkv + h * dim, cos, sin, dim);
    uint16_t *slot = m->cache + layer * m->cache_stride + b->slots[row] * 2 * width;
    for (int64_t i = 0; i < 2 * width; i++) slot[i] = bf16_of(qkv[m->heads * dim + i]);
}

static void attend_head(const struct model *m, const struct batch *b, int64_t layer, int64_t row, int64_t head, const float *qkv,
                        float *scores, int64_t width, rounded *out, float boost) {
    int64_t dim = m->head_dim, group = m->heads / m->kv_heads, stride = 2 * m->kv_heads * dim, first = head * group * dim;
    struct keys k = {m->cache + layer * m->cache_stride + head * dim, b->table + b->sequence[row] * b->table_width, m->page_size,
                     stride, stride / 2, b->positions[row] + 1};
    attend(&k, qkv, group, dim, scores, width, out, first, boost);
}

static void norms(const struct model *m, const struct scratch *s, const float *weight, const struct matrix *next, int64_t rows,
                  int thread, int threads) {
    for (int64_t r = thread; r < rows; r += threads)
        norm_row(s->residual + r * m->dim, weight, m->dim, m->epsilon, boost_of(next), row_of(s->normed, padded(m->dim), r));
}

static void run_layer(const struct model *m, const struct batch *b, const struct scratch *s, int64_t index, int thread,
                      int threads) {
    const struct layer *l = m->layer + index;
    int64_t *counter = s->work + COUNTERS + index * 5, first, size;
    float *panel = s->panel + thread * s->panel_size;
    norms(m, s, l->attention_norm, &l->qkv, b->rows, thread, threads);
    barrier(s->work, threads);
    quantize(&l->qkv, s, s->normed, b->rows, thread, threads);
    multiply(&l->qkv, s, s->normed, b->rows, s->qkv, l->qkv.rows, 0, panel, counter, threads);
    barrier(s->work, threads);
    for (int64_t r = thread; r < b->rows; r += threads) place_row(m, b, index, r, s->qkv + r * l->qkv.rows);
    barrier(s->work, threads);
    while ((size = take(counter + 1, b->rows * m->kv_heads, 1, threads, &first)))
        for (int64_t i = first; i < first + size; i++) {
            int64_t row = i / m->kv_heads;
            attend_head(m, b, index, row, i % m->kv_heads, s->qkv + row * l->qkv.rows,
                        s->scores + thread * MAX_GROUP * s->score_width, s->score_width, row_of(s->attended, l->o.columns, row),
                        boost_of(&l->o));
        }
    barrier(s->work, threads);
    quantize(&l->o, s, s->attended, b->rows, thread, threads);
    multiply(&l->o, s, s->attended, b->rows, s->residual, m->dim, 1, panel, counter + 2, threads);
    barrier(s->work, threads);
    norms(m, s, l->ffn_norm, &l->gate_up, b->rows, thread, threads);
    barrier(s->work, threads);
    quantize(&l->gate_up, s, s->normed, b->rows, thread, threads);
    swiglu(l, s, b->rows, panel, counter + 3, threads);
    barrier(s->work, threads);
    quantize(&l->down, s, s->hidden, b->rows, thread, threads);
    multiply(&l->down, s, s->hidden, b->rows, s->residual, m->dim, 1, panel, counter + 4, threads);
    barrier(s->work, threads);
}

static void run_thread(const struct model *m, const struct batch *b, const struct scratch *s, int thread, int threads) {
    for (int64_t r = thread; r < b->rows; r += threads)
        for (int64_t i = 0; i < m->dim; i++) s->residual[r * m->dim + i] = f32_of(m->embedding[b->tokens[r] * m->dim + i]);
    barrier(s->work, threads);
    for (int64_t l = 0; l < m->layers; l++) run_layer(m, b, s, l, thread, threads);
    for (int64_t r = thread; r < b->wanted; r += threads)
        norm_row(s->residual + b->wanted_rows[r] * m->dim, m->norm, m->dim, m->epsilon, boost_of(&m->head),
                 row_of(s->normed, padded(m->dim), r));
    barrier(s->work, threads);
    quantize(&m->head, s, s->normed, b->wanted, thread, threads);
    multiply(&m->head, s, s->normed, b->wanted, b->logits, m->head.rows, 0, s->panel + thread * s->panel_size,
             s->work + COUNTERS + m->layers * 5, threads);
}

#if defined(__cplusplus)
extern "C" {
#endif

/* Run `batch` (at most MAX_ROWS rows) on at most `threads` threads. */
void puna_step(const struct model *m, const struct batch *b, const struct scratch *s, int threads) {
    memset(s->work, 0, (size_t)s->work_size * sizeof *s->work);
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
    run_thread(m, b, s, omp_get_thread_num(), omp_get_num_threads());
#else
    (void)threads;
    run_thread(m, b, s, 0, 1);
#endif
}

#if defined(__cplusplus)
}
#endif
