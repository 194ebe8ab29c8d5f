/* lowmem's compiled engine: the whole interface.
 *
 * An engine walks the ops of a packed program. Every lane (a thread) carries its own rows of the batch through all
 * layers in an arena of its own; weight gradients and updates are shared out by the outputs of a layer, so that no
 * gradient is kept twice. Lanes meet twice in the backward of a layer and nowhere else, but for batch norm and the
 * loss. Nothing here allocates, knows Python, or owns an array: the caller owns everything that a pointer names, and
 * keeps it alive as long as the engine is used. Only `lm_pool_new` allocates; `lm_pool_end` gives that back.
 *
 * Numbers are float (item = 4) or double (item = 8). Matrices are row-major and dense.
 */
#ifndef LOWMEM_NATIVE_H
#define LOWMEM_NATIVE_H

#include <stdint.h>

#if defined(_WIN32)
#define LM_EXPORT __declspec(dllexport)
#else
#define LM_EXPORT __attribute__((visibility("default")))
#endif

/* Raised whenever a struct or a meaning below changes: a library of another number is not used. */
#define LM_INTERFACE 4

enum lm_op_kind { LM_FORWARD = 0, LM_LOSS = 1, LM_BACKWARD = 2, LM_UPDATE = 3 };

enum lm_activation {
    LM_IDENTITY = 0,
    LM_RELU,
    LM_LEAKY_RELU,
    LM_ELU,
    LM_SELU,
    LM_TANH,
    LM_SIGMOID,
    LM_SOFTPLUS,
    LM_GELU, /* from here on the state is s: σ' needs the input */
    LM_GELU_TANH,
    LM_SILU,
    LM_MISH
};

enum lm_norm { LM_NO_NORM = 0, LM_LAYER_NORM, LM_RMS_NORM, LM_BATCH_NORM };
enum lm_branch { LM_NO_SKIP = 0, LM_SKIP, LM_LEARNED_SKIP };
enum lm_loss { LM_MSE = 0, LM_CROSS_ENTROPY, LM_BCE, LM_HUBER, LM_MAE, LM_QUANTILE, LM_POISSON };
enum lm_rule { LM_NO_RULE = 0, LM_SGD, LM_MOMENTUM, LM_NESTEROV, LM_ADAM, LM_ADAMW };

/* What an Update op does: nothing (gradients are gathered), the rule, or only the sum of squares for a norm. */
enum lm_update_mode { LM_GATHER = 0, LM_APPLY, LM_LOOK };

enum lm_status { LM_OK = 0, LM_NOT_FINITE = 1 };

/* One op. source, target, scratch: byte offsets in a lane's arena; -1 as source or target is the batch. A Forward
 * whose source is its target goes on in place. */
typedef struct {
    int32_t kind, first, last, unused;
    int64_t source, target, scratch;
} lm_op;

/* Layer l. Offsets count numbers: of parameters in `parameters` (gradients and optimizer states lie alike), of
 * running statistics in `running`, of a batch norm's vectors (mean, inverse deviation, variance) in `statistics`;
 * -1 where there is no such array. whole: bytes of the matrix x^(l-1) that the backward keeps beside the state. */
typedef struct {
    int32_t entering, leaving, preactivation, is_first, is_last, activation, norm, branch;
    int64_t weight, bias, gain, shift, scale, running_mean, running_variance, statistics, whole;
    double factor, dropout;
} lm_layer;

typedef void (*lm_gemm)(void);

/* NumPy's BLAS: products of both types, for which the caller has set one thread. wide: whether its integers have 64
 * bits. */
typedef struct {
    lm_gemm sgemm, dgemm;
    int32_t wide, unused;
} lm_blas;

typedef struct lm_pool lm_pool;

/* How parameters are changed. factor multiplies every gradient first, clip cuts it to [-clip, clip] (0: not).
 * penalty: of weight matrices alone, beside weight_decay and in the same way. */
typedef struct {
    int32_t rule, unused;
    double lr, weight_decay, penalty, momentum, beta1, beta2, epsilon, correction1, correction2, clip, factor;
} lm_update_rule;

/* A bound network, and the pass that it runs next.
 *
 * each: rows for which a lane's arena was planned; a pass has at most lanes * each. tile: rows of a tile.
 * arena: lanes * lane_arena bytes. vectors: lanes * vectors_each numbers, see VECTORS in step.inc.
 * gradients: laid out like parameters, or NULL where updates are fused; lane_gradients is used then, with
 * lane_gradient numbers for each lane. seen: a byte a layer, whether this step's batch statistics are there.
 * x, y, w: the pass's rows; w may be NULL. label_bytes: of a label; negative where signed; 0 where y are targets.
 * accumulate: add to the gradients, as a later pass does. last: whether Update ops are carried out.
 * losses, squares: a number a lane. products: where not NULL, what each lane multiplies is added, 2 m n k a product.
 */
typedef struct {
    const lm_blas *blas;
    lm_pool *pool;
    const lm_layer *layers;
    const lm_op *ops;
    void *parameters, *running, *gradients, *lane_gradients;
    void *states[4];
    char *arena;
    void *vectors, *statistics;
    uint8_t *seen;
    double *losses, *squares;
    int64_t layer_count, op_count, lane_arena, lane_gradient, vectors_each, each, tile;
    int32_t item, lanes, loss, update;
    double loss_parameter;
    lm_update_rule rule;
    uint64_t seed;
    /* the pass */
    const void *x, *y, *w;
    int64_t rows, first_row, step;
    int32_t label_bytes, accumulate, last, status;
    double scale, loss_total;
    double *products;
} lm_engine;

/* A pool of `lanes` threads, the caller's among them; NULL if they cannot be had. It belongs to one process. */
LM_EXPORT lm_pool *lm_pool_new(int32_t lanes);
LM_EXPORT void lm_pool_end(lm_pool *pool);

/* Carry out ops first .. stop-1 of a pass. Returns lm_status; loss_total has the sum of the losses once the Loss op
 * was among them. If that is not finite, nothing more is done and no parameter has changed. */
LM_EXPORT int32_t lm_run(lm_engine *engine, int64_t first, int64_t stop);

/* Write s^(L) of `rows` rows of x to out, each lane working in `workspace` + its number * workspace_each numbers. */
LM_EXPORT void lm_forward(lm_engine *engine, const void *x, void *out, int64_t rows, void *workspace,
                          int64_t workspace_each);

/* Sum of the losses of `rows` rows of outputs, which are spent, for the targets y. */
LM_EXPORT double lm_loss(lm_engine *engine, void *outputs, int64_t rows);

/* Euclidean norm squared of the gathered gradients, and their update by `rule`, `size` numbers, shared out by lane. */
LM_EXPORT double lm_squares(lm_engine *engine, int64_t size);
LM_EXPORT void lm_update_all(lm_engine *engine, int64_t size);
/* Update `size` numbers that lie at `parameters`, `gradients` and `states` by `rule`, shared out by lane; of the rest
 * of the engine only blas, pool, item and lanes are used. */
LM_EXPORT void lm_update_part(lm_engine *engine, int64_t size);

/* A checksum of `size` bytes; start: that of what comes before them, or 0. It finds accidents, not forgeries, and is
 * the same for one build alone: it is kept nowhere. */
LM_EXPORT uint64_t lm_checksum(const void *data, int64_t size, uint64_t start);

LM_EXPORT int32_t lm_interface(void);
/* Sizes of lm_engine, lm_layer, lm_op, lm_update_rule, lm_blas: the caller compares them with its own. */
LM_EXPORT void lm_sizes(int64_t sizes[5]);
/* Which instructions the kernels use: "baseline", "avx2" or "avx512"; LOWMEM_SIMD in the environment lowers it. */
LM_EXPORT const char *lm_simd(void);
/* σ, and σ' by what the state is (x or s), of `count` numbers, for tests. */
LM_EXPORT void lm_activation_values(int32_t item, int32_t activation, const void *s, void *value, void *slope,
                                    int64_t count);
/* Dropout's numbers for one row, for tests: `width` numbers of [0, 1). */
LM_EXPORT void lm_uniform(int32_t item, uint64_t seed, int64_t step, int64_t layer, int64_t row, void *out,
                          int64_t width);

#endif
