/* The tables of kernels, one for each type and set of instructions. kernels.inc has what each does. */
#ifndef LOWMEM_KERNELS_H
#define LOWMEM_KERNELS_H

#include "lowmem_native.h"

/* What comes between state l-1 and the product: norm, σ and dropout of rows of n numbers. work: rows of `stride`. */
typedef struct {
    int32_t activation, norm;
    int64_t n, stride, layer, step;
    double dropout;
    uint64_t seed;
    const void *gain, *shift, *mean, *inverse;
    void *work;
} lm_way;

/* Targets of some rows; see lm_engine. parameter: label smoothing of cross_entropy, or the quantile. */
typedef struct {
    const void *y, *w;
    int32_t loss, label_bytes;
    double parameter, scale;
} lm_targets;

#define LM_TABLE(REAL, NAME) \
    typedef struct { \
        double (*dot)(const REAL *, const REAL *, int64_t); \
        void (*add)(REAL *, const REAL *, int64_t); \
        void (*multiply)(REAL *, REAL, int64_t); \
        void (*bias_value)(int, const REAL *, const REAL *, REAL *, int64_t, int64_t); \
        void (*split)(int, const REAL *, REAL *, REAL *, int64_t); \
        void (*pull)(int, REAL *, const REAL *, REAL, const REAL *, REAL *, int64_t, int64_t); \
        void (*pull_slopes)(REAL *, const REAL *, REAL, const REAL *, REAL *, int64_t, int64_t); \
        void (*leave)(const REAL *, const REAL *, REAL, const REAL *, REAL *, int64_t, int64_t); \
        void (*enter)(const lm_way *, int64_t, const REAL *, REAL *, int64_t); \
        void (*prepare)(const lm_way *, int64_t, REAL *, REAL *, int64_t); \
        void (*drop)(const lm_way *, int64_t, REAL *, int64_t); \
        void (*back_through_norm)(const lm_way *, int64_t, REAL *, REAL *, REAL, const REAL *, REAL *, REAL *, \
                                  REAL *, int64_t); \
        void (*back_to_batch_norm)(const lm_way *, int64_t, const REAL *, REAL *, REAL, REAL *, REAL *, int64_t); \
        void (*back_through_batch_norm)(const lm_way *, REAL *, const REAL *, const REAL *, const REAL *, \
                                        const REAL *, REAL *, int64_t, int64_t); \
        void (*sum_rows)(const REAL *, const REAL *, REAL *, int64_t, int64_t); \
        void (*invert)(const REAL *, REAL *, int64_t); \
        double (*loss)(const lm_targets *, REAL *, REAL *, int64_t, int64_t); \
        void (*update)(const lm_update_rule *, REAL *, const REAL *, REAL *const *, int64_t); \
    } NAME;

LM_TABLE(float, lm_kernels_f32)
LM_TABLE(double, lm_kernels_f64)

extern const lm_kernels_f32 lm_baseline_f32, lm_avx2_f32, lm_avx512_f32;
extern const lm_kernels_f64 lm_baseline_f64, lm_avx2_f64, lm_avx512_f64;

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
#define LM_HAS_X86_VERSIONS 1
#endif

#endif
