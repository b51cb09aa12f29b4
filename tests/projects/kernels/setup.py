"""A small CUDA project: what the tests edit. Three units with kernels and one without, built as most projects with
kernels are, by torch.utils.cpp_extension; none includes a header of torch, so that each compiles in seconds."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension

root = Path(__file__).parent.resolve()
extension = CUDAExtension(
    "kernels._C",
    ["csrc/first.cu", "csrc/second.cu", "csrc/third.cu", "csrc/module.cpp"],
    include_dirs=[str(root / "include" / "early"), str(root / "include")],
    extra_compile_args={
        "cxx": ["-O1"],
        # Objects and device code that can be compared byte for byte: nothing random, nothing compressed.
        "nvcc": ["-O1", "-no-compress", "-frandom-seed=7"],
    },
)
# Loads without torch, so that a test can ask many builds what they are.
extension.libraries = ["cudart_static", "dl", "rt", "pthread"]

setup(
    name="kernels",
    version="1.0",
    packages=["kernels"],
    ext_modules=[extension],
    cmdclass={"build_ext": BuildExtension},
)
