/* Kernels for x86-64 with AVX2 and FMA. */
#include "kernels.h"
#ifdef LM_HAS_X86_VERSIONS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define VERSION(type) lm_avx2_##type
#include "kernels_both.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
