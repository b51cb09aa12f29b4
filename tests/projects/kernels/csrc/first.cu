#include "shared.h"
#ifndef __CUDA_ARCH__
#include "host_only.h"
#elif __CUDA_ARCH__ == 800
#include "tuned_80.h"
#else
#include "tuned_90.h"
#endif

__global__ void first_kernel(int *out) {
#ifdef __CUDA_ARCH__
    *out = TUNED;
#endif
}

extern "C" int first() {
#ifndef __CUDA_ARCH__
    return HOST_ONLY + SHARED;
#else
    return 0;
#endif
}
