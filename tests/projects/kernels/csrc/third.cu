#ifndef THIRD
#define THIRD 3
#endif

__global__ void third_kernel(int *out) { *out = 0x5eed2000; }

extern "C" int third() { return THIRD; }
