"""What CUDA's tools print, read: the texts are theirs, of release 13."""

from __future__ import annotations

from dataclasses import replace

from xfdev import kernels
from xfdev.kernels import Pair, Usage

CUOBJDUMP = """
Fatbin elf code:
================
arch = sm_80
code version = [1,7]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:30 CONSTANT[4]:240
 Function _Z1kPf:
  REG:8 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:360 CONSTANT[2]:8 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _Z1kPf:
  REG:10 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z1lv:
  REG:4 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:528 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin ptx code:
================
arch = sm_90
code version = [9,0]
"""
PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1kPf' for 'sm_90a'
ptxas info    : Function properties for _Z1kPf
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem, 536 bytes cmem[0]
ptxas info    : Compile time = 3.003 ms
ptxas info    : Function properties for _Z6helperv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '_Z1lv' for 'sm_90a'
ptxas info    : Function properties for _Z1lv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 4 registers, used 0 barriers, 528 bytes cmem[0], 8 bytes cmem[2]
"""

K80 = Usage("_Z1kPf", "sm_80", 8, 0, 1024, 0, 368)
K90 = Usage("_Z1kPf", "sm_90a", 10, 16, 0, 0, 536)
L90 = Usage("_Z1lv", "sm_90a", 4, 0, 0, 0, 528)


def test_cuobjdump() -> None:
    assert kernels.from_cuobjdump(CUOBJDUMP) == [K80, K90, L90]
    assert kernels.from_cuobjdump("") == []


def test_ptxas() -> None:
    assert kernels.from_ptxas(PTXAS) == [
        replace(K90, shared=2048, spills=(12, 20)),
        replace(L90, constant=536, spills=(0, 0)),
    ]
    assert kernels.with_spills([K80, K90], kernels.from_ptxas(PTXAS)) == [K80, replace(K90, spills=(12, 20))]


def test_side_by_side() -> None:
    more = replace(K90, registers=14)
    pairs = kernels.side_by_side([more, L90], [K80, K90])
    assert pairs == [Pair(more, K90), Pair(L90, None), Pair(None, K80)]
    assert [pair.differs for pair in pairs] == [True, True, True]
    assert not Pair(K80, K80).differs
    names = {"_Z1kPf": "k(float*)"}
    assert kernels.lines(pairs, names, compared=True) == [
        "sm_90a   registers 14 (was 10)  stack 16  constant 536  k(float*)",
        "sm_90a   registers 4  stack 0  constant 528  new: _Z1lv",
        "sm_80    registers 8  stack 0  shared 1024  constant 368  gone: k(float*)",
    ]
    alone = kernels.side_by_side([replace(K90, spills=(12, 20))], [])
    assert kernels.lines(alone, names, compared=False) == [
        "sm_90a   registers 10  stack 16  constant 536  spills 12/20  k(float*)"
    ]


def test_which_kernels() -> None:
    pairs = [Pair(K90, None), Pair(L90, None)]
    names = {"_Z1kPf": "k(float*)"}
    assert kernels.chosen(pairs, "float", names) == [pairs[0]]
    assert kernels.chosen(pairs, "k(*", names) == [pairs[0]]
    assert kernels.chosen(pairs, "_Z1?v", names) == [pairs[1]]
    assert kernels.chosen(pairs, "other", names) == []
