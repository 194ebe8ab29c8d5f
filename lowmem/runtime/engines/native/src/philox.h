/* Dropout's numbers: Philox4x64-10 (J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As
 * Easy as 1, 2, 3", SC 2011), in the order of NumPy's generator of that name. The key is (seed, step), the counter
 * (row of the batch times blocks a row, layer); a block gives eight floats or four doubles.
 */
#ifndef LOWMEM_PHILOX_H
#define LOWMEM_PHILOX_H

#include <stdint.h>
#include <string.h>
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

static inline uint64_t lm_multiply_high(uint64_t a, uint64_t b, uint64_t *low) {
#if defined(_MSC_VER) && !defined(__clang__)
    uint64_t high;
    *low = _umul128(a, b, &high);
    return high;
#else
    unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
#endif
}

static inline void lm_philox(uint64_t seed, uint64_t step, uint64_t counter, uint64_t layer, uint64_t out[4]) {
    uint64_t c0 = counter, c1 = layer, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        uint64_t low0, low1;
        uint64_t high0 = lm_multiply_high(0xD2E7470EE14C6C93u, c0, &low0);
        uint64_t high1 = lm_multiply_high(0xCA5A826395121157u, c2, &low1);
        c0 = high1 ^ c1 ^ seed;
        c1 = low1;
        c2 = high0 ^ c3 ^ step;
        c3 = low0;
        seed += 0x9E3779B97F4A7C15u;
        step += 0xBB67AE8584CAA73Bu;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

#ifdef LM_WIDE_PHILOX
#include <immintrin.h>

/* Both halves of eight products with `a`: the high one is put together from 32-bit parts. */
static inline __m512i lm_multiply_eight(uint64_t a, __m512i b, __m512i *low) {
    const __m512i mask = _mm512_set1_epi64(0xFFFFFFFF), b1 = _mm512_srli_epi64(b, 32);
    const __m512i a0 = _mm512_set1_epi64((int64_t)(a & 0xFFFFFFFFu)), a1 = _mm512_set1_epi64((int64_t)(a >> 32));
    const __m512i first = _mm512_add_epi64(_mm512_mul_epu32(a1, b), _mm512_srli_epi64(_mm512_mul_epu32(a0, b), 32));
    const __m512i second = _mm512_add_epi64(_mm512_mul_epu32(a0, b1), _mm512_and_epi64(first, mask));
    *low = _mm512_mullo_epi64(_mm512_set1_epi64((int64_t)a), b);
    return _mm512_add_epi64(_mm512_add_epi64(_mm512_mul_epu32(a1, b1), _mm512_srli_epi64(first, 32)),
                            _mm512_srli_epi64(second, 32));
}

/* Eight blocks of consecutive counters, 256 bytes: with vectors of eight numbers that takes half the time. */
static inline void lm_philox_eight(uint64_t seed, uint64_t step, uint64_t counter, uint64_t layer, void *out) {
    __m512i c0 = _mm512_add_epi64(_mm512_set1_epi64((int64_t)counter), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    __m512i c1 = _mm512_set1_epi64((int64_t)layer), c2 = _mm512_setzero_si512(), c3 = c2;
    for (int round = 0; round < 10; round++) {
        __m512i low0, low1;
        const __m512i high0 = lm_multiply_eight(0xD2E7470EE14C6C93u, c0, &low0);
        const __m512i high1 = lm_multiply_eight(0xCA5A826395121157u, c2, &low1);
        c0 = _mm512_xor_epi64(_mm512_xor_epi64(high1, c1), _mm512_set1_epi64((int64_t)seed));
        c1 = low1;
        c2 = _mm512_xor_epi64(_mm512_xor_epi64(high0, c3), _mm512_set1_epi64((int64_t)step));
        c3 = low0;
        seed += 0x9E3779B97F4A7C15u;
        step += 0xBB67AE8584CAA73Bu;
    }
    /* Turned round: the four numbers of a block side by side. */
    const __m512i places = _mm512_set_epi64(28, 24, 20, 16, 12, 8, 4, 0);
    _mm512_i64scatter_epi64(out, places, c0, 8);
    _mm512_i64scatter_epi64((char *)out + 8, places, c1, 8);
    _mm512_i64scatter_epi64((char *)out + 16, places, c2, 8);
    _mm512_i64scatter_epi64((char *)out + 24, places, c3, 8);
}
#endif

/* The blocks of one row, in place of its n numbers of 4 or 8 bytes: 32 bytes a block, the last one cut short. Columns
 * are rounded up to eight numbers, so that every row begins with a counter of its own. */
static inline void lm_philox_row(uint64_t seed, uint64_t step, uint64_t layer, uint64_t row, void *out, int64_t n,
                                 int64_t item) {
    uint64_t counter = row * (uint64_t)((n + 7) / 8 * 8 * item / 32), block[4];
    unsigned char *to = out;
    int64_t left = n * item;
#ifdef LM_WIDE_PHILOX
    for (; left >= 256; left -= 256, to += 256, counter += 8) lm_philox_eight(seed, step, counter + 1, layer, to);
#endif
    for (; left >= 32; left -= 32, to += 32) {
        lm_philox(seed, step, ++counter, layer, block);
        memcpy(to, block, 32);
    }
    if (!left) return;
    lm_philox(seed, step, ++counter, layer, block);
    memcpy(to, block, (size_t)left);
}

/* Numbers of [0, 1) from the bits of a row, which are little-endian words here as in NumPy. */
static inline float lm_unit_f32(uint32_t bits) {
    return (float)(bits >> 8) * (1.0f / 16777216.0f);
}
static inline double lm_unit_f64(uint64_t bits) {
    return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

#endif
