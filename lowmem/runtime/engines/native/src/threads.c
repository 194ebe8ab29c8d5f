/* A pool is one counter of meetings. A waiting lane spins for some tens of microseconds, as its partner is nearly
 * always about to arrive, and then sleeps: on a busy machine a spinning lane would keep the other from its core.
 */
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(_WIN32)
#include <windows.h>
typedef HANDLE lm_thread;
typedef CRITICAL_SECTION lm_mutex;
typedef CONDITION_VARIABLE lm_condition;
#define mutex_new(m) InitializeCriticalSection(m)
#define mutex_end(m) DeleteCriticalSection(m)
#define lock(m) EnterCriticalSection(m)
#define unlock(m) LeaveCriticalSection(m)
#define condition_new(c) InitializeConditionVariable(c)
#define condition_end(c) ((void)(c))
#define wait_for(c, m) SleepConditionVariableCS(c, m, INFINITE)
#define wake_all(c) WakeAllConditionVariable(c)
#else
#include <pthread.h>
#include <signal.h>
typedef pthread_t lm_thread;
typedef pthread_mutex_t lm_mutex;
typedef pthread_cond_t lm_condition;
#define mutex_new(m) pthread_mutex_init(m, NULL)
#define mutex_end(m) pthread_mutex_destroy(m)
#define lock(m) pthread_mutex_lock(m)
#define unlock(m) pthread_mutex_unlock(m)
#define condition_new(c) pthread_cond_init(c, NULL)
#define condition_end(c) pthread_cond_destroy(c)
#define wait_for(c, m) pthread_cond_wait(c, m)
#define wake_all(c) pthread_cond_broadcast(c)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define relax() _mm_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define relax() __asm__ __volatile__("yield")
#else
#define relax() ((void)0)
#endif

#define SPINS 1500 /* some 20 to 60 microseconds, by the processor's pause */

typedef struct {
    lm_pool *pool;
    int32_t lane;
} lm_seat;

struct lm_pool {
    atomic_int lanes;
    int32_t started;
    lm_task task;
    void *argument;
    /* arrived: lanes that wait at the meeting of number `round`. sleeping: those that gave up spinning. */
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint round;
    _Alignas(64) atomic_int sleeping;
    atomic_int ending;
    lm_mutex mutex;
    lm_condition changed;
    lm_thread *threads;
    lm_seat *seats;
};

/* Wait until `round` is no longer `seen`. */
static void wait_beyond(lm_pool *pool, unsigned seen) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&pool->round, memory_order_acquire) != seen) return;
        relax();
    }
    lock(&pool->mutex);
    atomic_fetch_add(&pool->sleeping, 1);
    while (atomic_load(&pool->round) == seen) wait_for(&pool->changed, &pool->mutex);
    atomic_fetch_sub(&pool->sleeping, 1);
    unlock(&pool->mutex);
}

void lm_pool_meet(lm_pool *pool) {
    const unsigned seen = atomic_load_explicit(&pool->round, memory_order_relaxed);
    const int here = atomic_fetch_add(&pool->arrived, 1) + 1;
    if (here < atomic_load(&pool->lanes)) { /* read after arriving: see lm_pool_new */
        wait_beyond(pool, seen);
        return;
    }
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->round, seen + 1);
    if (atomic_load(&pool->sleeping)) {
        lock(&pool->mutex); /* a lane between its last look and its sleep holds this */
        wake_all(&pool->changed);
        unlock(&pool->mutex);
    }
}

static void serve(lm_seat *seat) {
    lm_pool *pool = seat->pool;
    for (;;) {
        lm_pool_meet(pool);
        if (atomic_load(&pool->ending)) return;
        pool->task(pool->argument, seat->lane);
        lm_pool_meet(pool);
    }
}

#if defined(_WIN32)
static DWORD WINAPI enter(LPVOID seat) {
    serve(seat);
    return 0;
}
static int start(lm_thread *thread, lm_seat *seat) {
    *thread = CreateThread(NULL, 0, enter, seat, 0, NULL);
    return *thread != NULL;
}
static void join(lm_thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
#else
static void *enter(void *seat) {
    serve(seat);
    return NULL;
}
static int start(lm_thread *thread, lm_seat *seat) {
    /* Signals belong to the threads of the program, not to lanes: Python handles them in its main thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(thread, NULL, enter, seat);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}
static void join(lm_thread thread) {
    pthread_join(thread, NULL);
}
#endif

lm_pool *lm_pool_new(int32_t lanes) {
    lm_pool *pool = calloc(1, sizeof *pool + 64);
    if (!pool) return NULL;
    atomic_init(&pool->lanes, lanes);
    pool->threads = calloc((size_t)lanes, sizeof *pool->threads);
    pool->seats = calloc((size_t)lanes, sizeof *pool->seats);
    mutex_new(&pool->mutex);
    condition_new(&pool->changed);
    if (!pool->threads || !pool->seats) {
        lm_pool_end(pool);
        return NULL;
    }
    for (int32_t lane = 1; lane < lanes; lane++) {
        pool->seats[lane] = (lm_seat){pool, lane};
        if (!start(&pool->threads[lane], &pool->seats[lane])) {
            atomic_store(&pool->lanes, lane); /* those that live meet once more, with this thread, and end */
            lm_pool_end(pool);
            return NULL;
        }
        pool->started = lane;
    }
    return pool;
}

void lm_pool_end(lm_pool *pool) {
    if (!pool) return;
    if (pool->started) {
        atomic_store(&pool->ending, 1);
        lm_pool_meet(pool);
        for (int32_t lane = 1; lane <= pool->started; lane++) join(pool->threads[lane]);
    }
    condition_end(&pool->changed);
    mutex_end(&pool->mutex);
    free(pool->threads);
    free(pool->seats);
    free(pool);
}

void lm_pool_run(lm_pool *pool, lm_task task, void *argument) {
    pool->task = task;
    pool->argument = argument;
    lm_pool_meet(pool);
    task(argument, 0);
    lm_pool_meet(pool);
}
