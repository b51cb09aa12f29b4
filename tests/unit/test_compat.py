"""What runs where, one case a rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfdev import arch, compat, gpu_families
from xfdev.compat import Code, Machine, nvcc_gaps, outcomes, torch_gaps

H100 = arch.parse("9.0")
R580 = {"driver": "580.95.05", "supported": "13.0"}


def code(sass: str = "", ptx: str = "", isa: str | None = "9.0", cuda: str | None = "13") -> Code:
    return compat.code_of(sass.split(), ptx.split(), isa if ptx else None, cuda)


@pytest.mark.parametrize(
    ("made", "device", "how", "words"),
    [
        # The outcomes that a machine with an H100 has to show.
        (code("9.0"), "9.0", "native", "machine code for 9.0"),
        (code("8.0"), "9.0", "no", "machine code for 8.0 and no PTX"),
        (code("8.0", "8.0"), "9.0", "jit", "PTX of 8.0"),
        (code("12.0"), "9.0", "no", "machine code for 12.0"),
        (code("9.0a"), "9.0", "native", "9.0a"),
        # Within a generation, and with features.
        (code("8.0"), "8.6", "native", "later GPUs of 8.x"),
        (code("8.6"), "8.0", "no", "does not run on an earlier one"),
        (code("10.0a"), "10.3", "no", "its own capability alone"),
        (code("10.3f"), "10.0", "no", "its own family alone"),
        (code("10.0f"), "10.3", "native", "10.0f"),
        (code("", "9.0a"), "10.0", "no", "no machine code and PTX of 9.0a"),
        (code("9.0 8.0"), "8.9", "native", "8.0"),
        (code("8.0 8.6 9.0"), "8.6", "native", "machine code for 8.6"),
        (code("8.0"), "8.7", "no", "machine code for 8.0"),
        (code("8.0", "8.0"), "8.7", "jit", "PTX of 8.0"),
        (code("", "7.0 8.0"), "9.0", "jit", "PTX of 8.0"),
        (code("", "12.0"), "9.0", "no", "later GPU"),
    ],
)
def test_by_arch(made: Code, device: str, how: str, words: str) -> None:
    (outcome,) = outcomes(made, Machine(arch.parse(device), **R580))
    assert (outcome.how, outcome.because) == (how, "arch" if how == "no" else "")
    assert words in outcome.why
    assert str(outcome.device) in str(outcome)


@pytest.mark.parametrize(
    ("driver", "supported", "isa", "how", "words"),
    [
        ("580.95.05", "13.0", "9.0", "jit", ""),
        ("580.95.05", "13.0", "9.1", "no", "driver 590.44.01 or newer does"),
        ("580.95.05", None, "9.1", "no", "(9.0 at most)"),
        ("590.48.01", "13.1", "9.1", "jit", ""),
        ("580.95.05", "13.2", "9.2", "jit", ""),  # a compatibility package
        (None, None, "9.9", "jit", ""),  # nobody knows the driver
        ("580.95.05", "13.0", None, "jit", ""),  # nobody knows the PTX
        ("580.95.05", "13.0", "9.5", "no", "does not know PTX 9.5 (9.0 at most)"),
        ("580.95.05", "13.0", "99.0", "no", "PTX 99.0"),
    ],
)
def test_ptx_that_is_newer_than_the_driver(
    driver: str | None, supported: str | None, isa: str | None, how: str, words: str
) -> None:
    made = Code(ptx=arch.parse("8.0"), isa=isa, cuda="13")
    (outcome,) = outcomes(made, Machine(H100, driver, supported))
    assert outcome.how == how
    assert outcome.because == ("ptx" if how == "no" else "")
    assert words in outcome.why


@pytest.mark.parametrize(
    ("driver", "supported", "cuda", "runs"),
    [
        ("580.65.06", "13.0", "13", True),
        ("575.57.08", "12.9", "13", False),
        ("575.57.08", None, "13", False),
        ("575.57.08", "13.0", "13", True),  # a compatibility package
        ("535.54.03", "12.2", "12", True),  # of the same major version
        ("470.82.01", None, "12", False),
        ("615.71", "13.4", "12", True),
        (None, None, "13", True),
        ("575.57.08", "12.9", None, True),  # a static runtime: not known
        ("300.1", None, "99", True),  # a CUDA that is not in the table
    ],
)
def test_a_driver_for_another_cuda(driver: str | None, supported: str | None, cuda: str | None, runs: bool) -> None:
    (outcome,) = outcomes(code("9.0", cuda=cuda), Machine(H100, driver, supported))
    assert (outcome.how == "native") is runs
    assert outcome.because == ("" if runs else "driver")
    if not runs:
        assert "525.60.13" in outcome.why or "580.65.06" in outcome.why


@pytest.mark.parametrize(
    ("devices", "nvcc", "grave"),
    [
        ("9.0", "13.0.88", []),
        ("9.0 12.1", "12.8.93", [False]),
        ("12.0", "12.6.85", [False]),
        ("7.0", "13.0.88", [True]),
        ("7.0 12.0", "99.0", []),
    ],
)
def test_gpus_that_nvcc_does_not_know(devices: str, nvcc: str, grave: list[bool]) -> None:
    assert [gap.grave for gap in nvcc_gaps(nvcc, arch.parse(devices))] == grave


@pytest.mark.parametrize(
    ("devices", "cuda", "count"),
    [("7.0", "13.0", 1), ("7.0", "12.6", 0), ("12.0", "12.6", 1), ("8.9", "13.0", 0), ("7.0", "99.0", 0)],
)
def test_gpus_that_torch_has_no_code_for(devices: str, cuda: str, count: int) -> None:
    assert [gap.grave for gap in torch_gaps(cuda, "x86_64", arch.parse(devices))] == [True] * count


def test_a_gap_names_the_gpu_and_the_way_out() -> None:
    (gap,) = nvcc_gaps("12.6.85", arch.parse("12.0"))
    assert "RTX 50xx" in gap.text
    assert gap.hint == "CUDA 12.8 was the first to know it"


ROWS = st.sampled_from(sorted(gpu_families.rows()))
MADE = st.builds(
    lambda sass, ptx: Code(arch.parse(" ".join(sass)), arch.parse(" ".join(ptx)), "9.0"),
    st.lists(ROWS, max_size=4),
    st.lists(ROWS, max_size=3),
)


@given(MADE, ROWS)
def test_more_code_never_runs_worse(made: Code, device: str) -> None:
    (there,) = arch.parse(device)
    order = ("no", "jit", "native")
    less = Code(made.sass[1:], made.ptx[1:], made.isa)
    machine = Machine((there,), **R580)
    assert order.index(compat.outcome(less, there, machine).how) <= order.index(
        compat.outcome(made, there, machine).how
    )
    own = Code((*made.sass, there), made.ptx, made.isa)
    assert compat.outcome(own, there, machine).how == "native"
