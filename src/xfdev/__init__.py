"""Open the folder and it runs; edit, and only what you changed compiles.

The words used throughout this package (``docs/explanation/words.md`` has them at more length):

project     a PyTorch extension under development; what is particular to one is a *profile*, a data file
checkout    the developer's working tree of a project
toolchain   what compiles and loads: CUDA, nvcc, host compiler, torch, Python, the variables that reach them
unit        one translation unit: a source file and the object the compiler makes of it
bundle      an immutable, content-addressed pack of compiled outputs and how they were made
store       where bundles live
verdict     ``reuse``, ``partial`` or ``full``: what of a bundle serves a checkout
"""

__version__ = "0.1.0"
