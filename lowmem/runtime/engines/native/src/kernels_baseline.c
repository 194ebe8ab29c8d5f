/* Kernels for every processor of the platform. */
#define VERSION(type) lm_baseline_##type
#include "kernels_both.inc"
