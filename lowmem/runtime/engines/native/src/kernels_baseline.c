/* Kernels for every processor of the platform. */
#define VERSION(type) lm_baseline_##type
#include "kernels_both.inc"

#define SUMS 8
#define CHECKSUM lm_baseline_checksum
#include "checksum.inc"
