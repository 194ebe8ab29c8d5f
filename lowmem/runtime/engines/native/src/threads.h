/* Lanes: threads that live as long as their pool, and sleep after a short spin. */
#ifndef LOWMEM_THREADS_H
#define LOWMEM_THREADS_H

#include "lowmem_native.h"

typedef void (*lm_task)(void *argument, int32_t lane);
typedef void (*lm_part)(void *argument, int32_t lane, int32_t part);

/* Run task(argument, lane) in every lane, lane 0 in this thread, and return when all are done. */
void lm_pool_run(lm_pool *pool, lm_task task, void *argument);

/* Do part(argument, lane, number) for numbers 0 .. parts-1, at least one, each in whichever lane is there first, and
 * return when all are done: a lane that the system lets wait holds nobody up. */
void lm_pool_share(lm_pool *pool, lm_part part, void *argument, int32_t parts);

/* Wait in a lane of a running task until all lanes are here. What any lane wrote before is seen by all behind it. */
void lm_pool_meet(lm_pool *pool);

#endif
