/* The doors of the library: which kernels this processor gets, and a lane for each thread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "philox.h"
#include "threads.h"

static struct {
    const lm_kernels_f32 *table_f32;
    const lm_kernels_f64 *table_f64;
    const char *name;
} lm_tables = {&lm_baseline_f32, &lm_baseline_f64, NULL};

#define REAL float
#define ITEM 4
#define SUFFIX(name) name##_f32
#include "step.inc"
#undef REAL
#undef ITEM
#undef SUFFIX

#define REAL double
#define ITEM 8
#define SUFFIX(name) name##_f64
#include "step.inc"
#undef REAL
#undef ITEM
#undef SUFFIX

/* Choose the widest instructions that the processor has and LOWMEM_SIMD allows. Called before anything runs. */
static void choose(void) {
    if (lm_tables.name) return;
    const char *most = getenv("LOWMEM_SIMD");
    (void)most;
    lm_tables.name = "baseline";
#ifdef LM_HAS_X86_VERSIONS
    if (most && !strcmp(most, "baseline")) return;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    lm_tables.table_f32 = &lm_avx2_f32;
    lm_tables.table_f64 = &lm_avx2_f64;
    lm_tables.name = "avx2";
    if (most && !strcmp(most, "avx2")) return;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
        return;
    lm_tables.table_f32 = &lm_avx512_f32;
    lm_tables.table_f64 = &lm_avx512_f64;
    lm_tables.name = "avx512";
#endif
}

typedef struct {
    lm_engine *engine;
    int64_t first, stop;
    const void *x;
    void *out, *workspace;
    int64_t rows, workspace_each;
} lm_work;

static void run_in_lane(void *argument, int32_t lane) {
    lm_work *work = argument;
    if (work->engine->item == 4) run_lane_f32(work->engine, lane, work->first, work->stop);
    else run_lane_f64(work->engine, lane, work->first, work->stop);
}

static void forward_tile(void *argument, int32_t lane, int32_t tile) {
    lm_work *work = argument;
    if (work->engine->item == 4)
        forward_only_f32(work->engine, lane, tile, work->x, work->out, work->rows,
                         (float *)work->workspace + lane * work->workspace_each);
    else
        forward_only_f64(work->engine, lane, tile, work->x, work->out, work->rows,
                         (double *)work->workspace + lane * work->workspace_each);
}

static void update_in_lane(void *argument, int32_t lane) {
    lm_work *work = argument;
    if (work->engine->item == 4) update_share_f32(work->engine, lane, work->rows);
    else update_share_f64(work->engine, lane, work->rows);
}

static void update_part_in_lane(void *argument, int32_t lane) {
    lm_work *work = argument;
    if (work->engine->item == 4) update_part_f32(work->engine, lane, work->rows);
    else update_part_f64(work->engine, lane, work->rows);
}

static void in_lanes(lm_engine *engine, lm_task task, lm_work *work) {
    if (engine->lanes == 1) task(work, 0);
    else lm_pool_run(engine->pool, task, work);
}

int32_t lm_run(lm_engine *engine, int64_t first, int64_t stop) {
    lm_work work = {.engine = engine, .first = first, .stop = stop};
    engine->status = LM_OK;
    in_lanes(engine, run_in_lane, &work);
    return engine->status;
}

void lm_forward(lm_engine *engine, const void *x, void *out, int64_t rows, void *workspace, int64_t workspace_each) {
    lm_work work = {
        .engine = engine, .x = x, .out = out, .rows = rows, .workspace = workspace, .workspace_each = workspace_each};
    const int32_t tiles = (int32_t)((rows + engine->tile - 1) / engine->tile);
    if (engine->lanes > 1 && tiles > 1) lm_pool_share(engine->pool, forward_tile, &work, tiles);
    else
        for (int32_t tile = 0; tile < tiles; tile++) forward_tile(&work, 0, tile);
}

double lm_loss(lm_engine *engine, void *outputs, int64_t rows) {
    return engine->item == 4 ? outputs_loss_f32(engine, outputs, rows) : outputs_loss_f64(engine, outputs, rows);
}

double lm_squares(lm_engine *engine, int64_t size) {
    lm_work work = {.engine = engine, .rows = size};
    double sum = 0;
    engine->update = LM_LOOK;
    in_lanes(engine, update_in_lane, &work);
    for (int32_t lane = 0; lane < engine->lanes; lane++) sum += engine->squares[lane];
    return sum;
}

void lm_update_all(lm_engine *engine, int64_t size) {
    lm_work work = {.engine = engine, .rows = size};
    engine->update = LM_APPLY;
    in_lanes(engine, update_in_lane, &work);
}

void lm_update_part(lm_engine *engine, int64_t size) {
    lm_work work = {.engine = engine, .rows = size};
    in_lanes(engine, update_part_in_lane, &work);
}

int32_t lm_interface(void) {
    choose();
    return LM_INTERFACE;
}

void lm_sizes(int64_t sizes[5]) {
    sizes[0] = sizeof(lm_engine);
    sizes[1] = sizeof(lm_layer);
    sizes[2] = sizeof(lm_op);
    sizes[3] = sizeof(lm_update_rule);
    sizes[4] = sizeof(lm_blas);
}

const char *lm_simd(void) {
    choose();
    return lm_tables.name;
}

void lm_activation_values(int32_t item, int32_t activation, const void *s, void *value, void *slope, int64_t count) {
    choose();
    if (item == 4) lm_tables.table_f32->split(activation, s, value, slope, count);
    else lm_tables.table_f64->split(activation, s, value, slope, count);
}

void lm_uniform(int32_t item, uint64_t seed, int64_t step, int64_t layer, int64_t row, void *out, int64_t width) {
    lm_philox_row(seed, (uint64_t)step, (uint64_t)layer, (uint64_t)row, out, width, item);
    for (int64_t j = 0; j < width; j++) {
        if (item == 4) {
            uint32_t bits;
            memcpy(&bits, (float *)out + j, sizeof bits);
            ((float *)out)[j] = lm_unit_f32(bits);
        } else {
            uint64_t bits;
            memcpy(&bits, (double *)out + j, sizeof bits);
            ((double *)out)[j] = lm_unit_f64(bits);
        }
    }
}
