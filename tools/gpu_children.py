"""What gpu_proof.py compiles, and what it has fresh processes do: each prints one JSON object."""

from __future__ import annotations

KERNEL = """
#include <cuda_runtime.h>
__global__ void answer(int *to, int of) { *to = of * 6 + threadIdx.x; }
extern "C" int probe(int *value) {
  int *there = nullptr;
  cudaError_t error = cudaMalloc(&there, sizeof(int));
  if (error != cudaSuccess) return error;
  answer<<<1, 1>>>(there, 7);
  error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaMemcpy(value, there, sizeof(int), cudaMemcpyDeviceToHost);
  cudaFree(there);
  return error;
}
extern "C" const char *name(int error) { return cudaGetErrorName((cudaError_t)error); }
"""
RUN = """
import ctypes, json, sys, time
library = ctypes.CDLL(sys.argv[1])
library.name.restype = ctypes.c_char_p
value = ctypes.c_int(0)
started = time.perf_counter()
error = library.probe(ctypes.byref(value))
seconds = time.perf_counter() - started
print(json.dumps({"error": library.name(error).decode(), "right": value.value == 42, "seconds": seconds}))
"""
LOAD_PTX = """
import ctypes, json, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context, module = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
assert cuda.cuCtxSetCurrent(context) == 0
found = {}
for version in sys.argv[1:]:
    text = ".version %s\\n.target sm_75\\n.address_size 64\\n.visible .entry k() { ret; }\\n" % version
    found[version] = cuda.cuModuleLoadData(ctypes.byref(module), text.encode())
print(json.dumps(found))
"""
LOOK = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
started = time.perf_counter()
from xfdev import gpu
found = (gpu._smi if sys.argv[2] == "nvidia-smi" else gpu.detect)(os.environ) or gpu.Found()
print(json.dumps({"how": found.how, "driver": found.driver, "cuda": found.cuda, "notes": found.notes, "seconds":
    time.perf_counter() - started, "devices": [[d.name, str(d.capability), d.uuid, d.memory] for d in found.devices]}))
"""
ASK_TORCH = """
import json, torch
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "git": torch.version.git_version,
    "devices": ["%d.%d" % torch.cuda.get_device_capability(at) for at in range(torch.cuda.device_count())],
    "uuids": ["GPU-" + str(torch.cuda.get_device_properties(at).uuid) for at in range(torch.cuda.device_count())],
    "archs": torch.cuda.get_arch_list()}))
"""
