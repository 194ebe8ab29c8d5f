/* Lanes: threads that live as long as their pool, and sleep after a short spin. */
#ifndef LOWMEM_THREADS_H
#define LOWMEM_THREADS_H

#include "lowmem_native.h"

typedef void (*lm_task)(void *argument, int32_t lane);

/* Run task(argument, lane) in every lane, lane 0 in this thread, and return when all are done. */
void lm_pool_run(lm_pool *pool, lm_task task, void *argument);

/* Wait in a lane of a running task until all lanes are here. What any lane wrote before is seen by all behind it. */
void lm_pool_meet(lm_pool *pool);

#endif
