/* Kernels for x86-64 with AVX-512, in vectors of 512 bits. */
#include "kernels.h"
#ifdef LM_HAS_X86_VERSIONS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma,prefer-vector-width=512")
#endif
#define LM_WIDE_PHILOX
#define VERSION(type) lm_avx512_##type
#include "kernels_both.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
