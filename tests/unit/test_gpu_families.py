"""The table of GPUs, and what machine code runs on which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfdev import arch, gpu_families
from xfdev.arch import Arch
from xfdev.gpu_families import rows

#: The table that stood in a README before there was this program: number, generation, GPUs.
NINE = {
    "5.2": ("Maxwell", "GTX 9xx"),
    "6.1": ("Pascal", "GTX 10xx"),
    "7.0": ("Volta", "V100"),
    "7.5": ("Turing", "RTX 20xx"),
    "8.0": ("Ampere", "A100"),
    "8.6": ("Ampere", "RTX 30xx"),
    "8.9": ("Ada Lovelace", "RTX 40xx"),
    "9.0": ("Hopper", "H100"),
    "12.0": ("Blackwell", "RTX 50xx"),
}
OTHERS = {
    "3.5": ("Kepler", "K40"),
    "3.7": ("Kepler", "K80"),
    "5.0": ("Maxwell", "GTX 750"),
    "5.3": ("Maxwell", "Jetson Nano"),
    "6.0": ("Pascal", "P100"),
    "6.2": ("Pascal", "Jetson TX2"),
    "7.2": ("Volta", "Jetson Xavier"),
    "8.7": ("Ampere", "Jetson Orin"),
    "8.8": ("Ampere", "none"),
    "10.0": ("Blackwell", "B200"),
    "10.3": ("Blackwell", "B300"),
    "10.7": ("Rubin", "none"),
    "11.0": ("Blackwell", "Jetson Thor"),
    "12.1": ("Blackwell", "GB10"),
}


def one(text: str) -> Arch:
    (entry,) = arch.parse(text)
    return entry


def test_every_row() -> None:
    assert set(rows()) == {*NINE, *OTHERS}
    for capability, (family, known) in {**NINE, **OTHERS}.items():
        row = rows()[capability]
        assert row.family == family
        assert known in row.gpus
        assert row.note
        assert row.integrated is (row.note == "embedded")
    numbers = [one(capability) for capability in rows()]
    assert numbers == sorted(numbers)


def test_every_name_stands_for_archs_of_the_table() -> None:
    for name, archs in gpu_families.names().items():
        assert arch.parse(name) == arch.parse(archs)
        assert {entry.base for entry in arch.parse(archs)} <= set(rows()), name


def test_torch_wheels() -> None:
    assert gpu_families.torch_wheel("13.0", "x86_64") == ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
    assert "11.0" in gpu_families.torch_wheel("13.0", "aarch64")
    assert "5.0" in gpu_families.torch_wheel("12.6", "x86_64")
    assert gpu_families.torch_wheel("10.2", "x86_64") == gpu_families.torch_wheel("13.0", "riscv64") == ()


def test_described() -> None:
    assert gpu_families.described("9.0a") == "9.0a (Hopper: H100, H200, GH200)"
    assert gpu_families.described("99.0") == "99.0"


@pytest.mark.parametrize(
    ("code", "device", "runs"),
    [
        ("8.0", "8.0", True),
        ("8.0", "8.6", True),
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("9.0", "8.0", False),
        ("9.0a", "9.0", True),
        ("9.0", "9.0", True),
        ("10.0a", "10.3", False),
        ("10.0", "10.3", True),
        ("10.0f", "10.3", True),
        ("10.3f", "10.0", False),
        ("10.0f", "10.7", False),  # not in the table of families
        ("10.7f", "10.7", True),
        ("12.0f", "12.1", True),
        ("12.1f", "12.0", False),
        ("12.0a", "12.1", False),
        ("12.0", "10.0", False),
        ("11.0", "12.0", False),
        # Discrete and integrated GPUs do not run each other's code.
        ("8.0", "8.7", False),
        ("8.7", "8.7", True),
        ("8.7", "8.9", False),
        ("5.0", "5.3", False),
        ("5.2", "5.2", True),
        ("7.0", "7.2", False),
        ("7.0", "7.5", True),
        # Thor was called 10.1 before CUDA 13.
        ("10.1", "11.0", True),
        ("10.0", "10.1", False),
        ("8.6", "8.9", True),
    ],
)
def test_which_code_runs_on_which_device(code: str, device: str, runs: bool) -> None:
    assert gpu_families.serves(one(code), one(device)) is runs


@pytest.mark.parametrize(
    ("ptx", "device", "can"),
    [
        ("8.0", "9.0", True),
        ("8.0", "8.0", True),
        ("8.6", "8.0", False),
        ("5.2", "12.1", True),
        ("9.0a", "9.0", True),
        ("9.0a", "10.0", False),
        ("10.0f", "10.3", True),
        ("10.0f", "12.0", False),
        ("8.0", "8.7", True),  # PTX knows no difference between discrete and integrated
    ],
)
def test_which_ptx_is_compiled_for_which_device(ptx: str, device: str, can: bool) -> None:
    assert gpu_families.compiles(one(ptx), one(device)) is can


@pytest.mark.parametrize(
    ("device", "known", "expected"),
    [
        ("9.0", "8.0 9.0 9.0a", "9.0"),
        ("8.9", "8.0 8.6", "8.6"),
        ("12.1", "9.0 12.0", "12.0"),
        ("12.0", "8.0 9.0", "9.0+PTX"),
        ("8.7", "8.0 8.6", "8.6+PTX"),
        ("6.1", "7.5 8.0", None),
        ("9.0", "", None),
        ("9.0", "9.0a", None),
    ],
)
def test_what_to_compile_for_a_device(device: str, known: str, expected: str | None) -> None:
    found = gpu_families.best(one(device), arch.parse(known))
    assert (found and str(found)) == expected


ROWS = st.sampled_from(sorted(rows())).map(one)


@given(ROWS, ROWS)
def test_machine_code_never_runs_on_an_earlier_gpu(code: Arch, device: Arch) -> None:
    if gpu_families.serves(code, device):
        assert code.major == device.major
        assert code.minor <= device.minor
    assert gpu_families.serves(code, code)
    assert gpu_families.compiles(code, device) is (code <= device)


@given(ROWS, ROWS)
def test_features_only_narrow(code: Arch, device: Arch) -> None:
    for suffix in "af":
        narrowed = Arch(code.major, code.minor, suffix)
        if gpu_families.serves(narrowed, device):
            assert gpu_families.serves(code, device)
        assert gpu_families.serves(narrowed, code)


@given(ROWS, st.lists(ROWS, max_size=8))
def test_what_is_compiled_for_a_device_runs_on_it(device: Arch, known: list[Arch]) -> None:
    found = gpu_families.best(device, known)
    if found is None:
        assert not any(gpu_families.compiles(entry, device) for entry in known)
    elif found.ptx:
        assert gpu_families.compiles(found, device)
        assert not any(gpu_families.serves(entry, device) for entry in known)
    else:
        assert gpu_families.serves(found, device)
