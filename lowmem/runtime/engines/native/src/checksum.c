/* A checksum of memory, about as fast as memory is read. It has eight independent sums: a multiplication takes a
 * processor several cycles, and it begins one in each. */
#include <string.h>

#include "lowmem_native.h"

#define SUMS 8
#define FACTOR 0x9E3779B185EBCA87ull

/* Bytes ahead of which memory is asked for: processors do not do so by themselves across the border of a page. */
#define AHEAD 4096
#if defined(__GNUC__)
#define ASK_FOR(place) __builtin_prefetch(place)
#else
#define ASK_FOR(place) ((void)0)
#endif

/* A bijection of sum for every word, and of word for every sum: one changed word always changes all that follows. */
static inline uint64_t mix(uint64_t sum, uint64_t word) {
    const uint64_t product = (sum ^ word) * FACTOR;
    return product ^ product >> 32;
}

static inline void take_in(uint64_t sums[SUMS], const char *block) {
    uint64_t words[SUMS];
    memcpy(words, block, sizeof words);
    for (int number = 0; number < SUMS; number++) sums[number] = mix(sums[number], words[number]);
}

uint64_t lm_checksum(const void *data, int64_t size, uint64_t start) {
    const char *place = data;
    const int64_t block = SUMS * sizeof(uint64_t);
    uint64_t sums[SUMS], total = mix(start, (uint64_t)size);
    for (int number = 0; number < SUMS; number++) sums[number] = start + (uint64_t)number;
    for (; size >= block; size -= block, place += block) {
        if (size > AHEAD) ASK_FOR(place + AHEAD);
        take_in(sums, place);
    }
    if (size > 0) {
        char rest[SUMS * sizeof(uint64_t)] = {0};
        memcpy(rest, place, (size_t)size);
        take_in(sums, rest);
    }
    for (int number = 0; number < SUMS; number++) total = mix(total, sums[number]);
    return total;
}
