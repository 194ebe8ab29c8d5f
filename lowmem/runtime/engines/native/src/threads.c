/* Lanes wait for the number of a call to change, and at meetings for that of a round. A waiting lane spins for some
 * tens of microseconds, as its partner is nearly always about to arrive, and then sleeps: on a busy machine a spinning
 * lane would keep the other from its core. */
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
    int32_t lanes, started;
    /* What the call is: `task` in every lane, or, where there are parts, `part` for each of them. */
    _Atomic(lm_task) task;
    _Atomic(lm_part) part;
    _Atomic(void *) argument;
    atomic_int parts;
    /* kind: the number of the call, and in the last bit whether every lane takes part. next: the number of the call,
     * and in the lower half that of the next part. left: parts that are not done. */
    _Atomic(uint64_t) kind;
    _Atomic(uint64_t) next;
    atomic_uint left;
    /* arrived: lanes that wait at the meeting of number `round`. sleeping: those that gave up spinning. */
    _Alignas(64) atomic_uint call;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint round;
    _Alignas(64) atomic_int sleeping;
    atomic_int ending;
    lm_mutex mutex;
    lm_condition changed;
    lm_thread *threads;
    lm_seat *seats;
};

/* Wait while `word` is `value`. */
static void wait_while(lm_pool *pool, atomic_uint *word, unsigned value) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        relax();
    }
    lock(&pool->mutex);
    atomic_fetch_add(&pool->sleeping, 1);
    while (atomic_load(word) == value) wait_for(&pool->changed, &pool->mutex);
    atomic_fetch_sub(&pool->sleeping, 1);
    unlock(&pool->mutex);
}

static void wake(lm_pool *pool) {
    if (!atomic_load(&pool->sleeping)) return;
    lock(&pool->mutex); /* a lane between its last look and its sleep holds this */
    wake_all(&pool->changed);
    unlock(&pool->mutex);
}

void lm_pool_meet(lm_pool *pool) {
    const unsigned seen = atomic_load_explicit(&pool->round, memory_order_relaxed);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 < pool->lanes) {
        wait_while(pool, &pool->round, seen);
        return;
    }
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->round, seen + 1);
    wake(pool);
}

/* Before anything of a call is stored: from here on a lane that is late sees that the call which it knows is over.
 * Returns the number of the new one. */
static unsigned prepare(lm_pool *pool, int in_every_lane) {
    const unsigned call = atomic_load(&pool->call) + 1;
    atomic_store(&pool->kind, (uint64_t)call << 1 | (unsigned)in_every_lane);
    atomic_store(&pool->next, (uint64_t)call << 32);
    return call;
}

static void begin(lm_pool *pool, unsigned call) {
    atomic_store(&pool->call, call);
    wake(pool);
}

/* Do parts of a call until none is left to begin. A lane that comes late finds a later call's number and does none:
 * who has a part holds up the end of its call, so that what the call does stays as it is meanwhile. */
static void do_parts(lm_pool *pool, unsigned call, int32_t lane) {
    for (;;) {
        uint64_t next = atomic_load(&pool->next);
        const int32_t number = (int32_t)(next & 0xFFFFFFFFu);
        if (next >> 32 != call || number >= atomic_load(&pool->parts)) return;
        if (!atomic_compare_exchange_strong(&pool->next, &next, next + 1)) continue;
        atomic_load (&pool->part)(atomic_load(&pool->argument), lane, number);
        if (atomic_fetch_sub(&pool->left, 1) == 1) wake(pool);
    }
}

static void serve(lm_seat *seat) {
    lm_pool *pool = seat->pool;
    for (unsigned seen = 0;;) {
        wait_while(pool, &pool->call, seen);
        seen = atomic_load(&pool->call);
        const uint64_t kind = atomic_load(&pool->kind);
        if (kind >> 1 != seen) continue; /* it is over: the next one is being prepared */
        if (!(kind & 1)) {
            do_parts(pool, seen, seat->lane);
            continue;
        }
        if (atomic_load(&pool->ending)) return;
        atomic_load (&pool->task)(atomic_load(&pool->argument), seat->lane);
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
    pool->lanes = lanes;
    pool->threads = calloc((size_t)lanes, sizeof *pool->threads);
    pool->seats = calloc((size_t)lanes, sizeof *pool->seats);
    mutex_new(&pool->mutex);
    condition_new(&pool->changed);
    for (int32_t lane = 1; lane < lanes; lane++) {
        if (pool->threads && pool->seats) pool->seats[lane] = (lm_seat){pool, lane};
        if (!pool->threads || !pool->seats || !start(&pool->threads[lane], &pool->seats[lane])) {
            lm_pool_end(pool);
            return NULL;
        }
        pool->started = lane;
    }
    return pool;
}

void lm_pool_end(lm_pool *pool) {
    if (!pool) return;
    atomic_store(&pool->ending, 1);
    begin(pool, prepare(pool, 1));
    for (int32_t lane = 1; lane <= pool->started; lane++) join(pool->threads[lane]);
    condition_end(&pool->changed);
    mutex_end(&pool->mutex);
    free(pool->threads);
    free(pool->seats);
    free(pool);
}

void lm_pool_run(lm_pool *pool, lm_task task, void *argument) {
    const unsigned call = prepare(pool, 1);
    atomic_store(&pool->task, task);
    atomic_store(&pool->argument, argument);
    begin(pool, call);
    task(argument, 0);
    lm_pool_meet(pool);
}

void lm_pool_share(lm_pool *pool, lm_part part, void *argument, int32_t parts) {
    const unsigned call = prepare(pool, 0);
    atomic_store(&pool->parts, parts);
    atomic_store(&pool->part, part);
    atomic_store(&pool->argument, argument);
    atomic_store(&pool->left, (unsigned)parts);
    begin(pool, call);
    do_parts(pool, call, 0);
    for (unsigned left; (left = atomic_load(&pool->left)) != 0;) wait_while(pool, &pool->left, left);
}
