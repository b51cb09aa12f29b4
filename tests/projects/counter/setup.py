"""A small extension project: what the tests edit. Two extensions, two include folders in which headers can shadow
each other, a generated header, a file that is globbed, a submodule, and a flag that comes from a variable."""

import glob
import os

from setuptools import Extension, setup

with open("csrc/constants.in") as template, open("csrc/generated.h", "w") as header:
    header.write("#pragma once\n")
    for line in template:
        if line.strip():
            name, value = line.split()
            header.write(f"#define {name} {value}\n")

flags = ["-O1", "-std=c++17", *os.environ.get("COUNTER_FLAGS", "").split()]
include = ["include", "csrc/inner", "vendor/tally/include"]

setup(
    name="counter",
    version="1.0",
    packages=["counter"],
    ext_modules=[
        Extension("counter._first", sorted(glob.glob("csrc/*.cpp")), include_dirs=include, extra_compile_args=flags),
        Extension("counter._second", ["csrc/inner/second.cpp"], include_dirs=include, extra_compile_args=flags),
    ],
)
