"""The table of CUDA releases: its rows as they are known, and what is asked of it."""

from __future__ import annotations

import pytest

from xfdev import cuda_releases
from xfdev.cuda_releases import numbers, release, releases

#: release: first driver, PTX, gcc, clang, number of archs, one arch that came with it or went before it
GOLDEN = {
    "11.8": ("520.61.05", "7.8", 11, 14, 16, "sm_35"),
    "12.0": ("525.60.13", "8.0", 12, 14, 14, "sm_50"),
    "12.1": ("530.30.02", "8.1", 12, 15, 14, "sm_50"),
    "12.2": ("535.54.03", "8.2", 12, 16, 14, "sm_50"),
    "12.3": ("545.23.06", "8.3", 12, 16, 14, "sm_50"),
    "12.4": ("550.54.14", "8.4", 13, 17, 14, "sm_50"),
    "12.5": ("555.42.02", "8.5", 13, 17, 14, "sm_50"),
    "12.6": ("560.28.03", "8.5", 13, 18, 14, "sm_50"),
    "12.8": ("570.26", "8.7", 14, 19, 17, "sm_120"),
    "12.9": ("575.51.03", "8.8", 14, 19, 19, "sm_103"),
    "13.0": ("580.65.06", "9.0", 15, 20, 12, "sm_110"),
    "13.1": ("590.44.01", "9.1", 15, 21, 12, "sm_88"),
    "13.2": ("595.45.04", "9.2", 15, 21, 12, "sm_88"),
    "13.3": ("610.43.02", "9.3", 15, 21, 12, "sm_88"),
    "13.4": ("615", "9.4", 16, 21, 13, "sm_107"),
    "13.5": (None, "9.5", 16, 21, 13, "sm_107"),
}


def test_every_row() -> None:
    assert set(releases()) == set(GOLDEN)
    for version, (driver, ptx, gcc, clang, count, arch) in GOLDEN.items():
        entry = releases()[version]
        assert (entry.driver, entry.ptx, entry.gcc, entry.clang) == (driver, ptx, gcc, clang), version
        assert len(set(entry.archs)) == len(entry.archs) == count, version
        assert arch in entry.archs, version


def test_rows_are_in_order_and_agree_with_each_other() -> None:
    entries = list(releases().values())
    assert [numbers(entry.version) for entry in entries] == sorted(numbers(entry.version) for entry in entries)
    drivers = [numbers(entry.driver) for entry in entries if entry.driver]
    assert drivers == sorted(set(drivers))
    assert [numbers(entry.ptx) for entry in entries] == sorted(numbers(entry.ptx) for entry in entries)
    for entry in entries:
        # A feature variant is one of an arch that the release has, and every arch from 9.0 on has an `a` since 12.0.
        bases = {name.rstrip("af") for name in entry.features}
        assert bases <= set(entry.archs), entry.version
        if entry.major >= 12:
            assert {name for name in entry.archs if int(name[3:]) >= 90} == bases, entry.version
        assert entry.driver is None or numbers(entry.driver) >= numbers(entry.least_driver)
    assert {entry.major: entry.least_driver for entry in entries} == {
        11: "450.80.02",
        12: "525.60.13",
        13: "580.65.06",
    }


@pytest.mark.parametrize(
    ("asked", "version"),
    [("13.0", "13.0"), ("13.0.88", "13.0"), ("12.8", "12.8"), ("12.7", None), ("10.2", None), ("", None), ("x", None)],
)
def test_release(asked: str, version: str | None) -> None:
    found = release(asked)
    assert (found and found.version) == version


@pytest.mark.parametrize(
    ("driver", "version"),
    [
        ("580.65.06", "13.0"),
        ("580.65.05", "12.9"),
        ("580.159.04", "13.0"),
        ("565.57.01", "12.6"),
        ("590.48.01", "13.1"),
        ("999", "13.4"),
        ("470.82.01", None),
    ],
)
def test_newest_for_driver(driver: str, version: str | None) -> None:
    found = cuda_releases.newest_for_driver(driver)
    assert (found and found.version) == version


@pytest.mark.parametrize(
    ("driver", "cuda", "ptx"),
    [
        ("580.95.05", "13.0", "9.0"),
        (None, "12.7", "8.5"),
        (None, "99.0", "9.5"),
        ("575.57.08", None, "8.8"),
        ("575.57.08", "13.0", "9.0"),  # a compatibility package: the driver's word counts
        (None, None, None),
        ("390.48", None, None),
    ],
)
def test_newest_ptx(driver: str | None, cuda: str | None, ptx: str | None) -> None:
    assert cuda_releases.newest_ptx(driver=driver, cuda=cuda) == ptx


@pytest.mark.parametrize(
    ("version", "driver", "runs"),
    [("13.3", "580.65.06", True), ("13.0", "575.57.08", False), ("12.9", "525.60.13", True), ("11.8", "450.51", False)],
)
def test_minor_version_compatibility(version: str, driver: str, runs: bool) -> None:
    assert cuda_releases.runs_with(releases()[version], driver) is runs


def test_who_wrote_a_ptx() -> None:
    for ptx, version in (("9.0", "13.0"), ("8.5", "12.5"), ("8.6", "12.8"), ("6.4", "11.8")):
        found = cuda_releases.first_to_write(ptx)
        assert found is not None
        assert found.version == version
    assert cuda_releases.first_to_write("99.0") is None


@pytest.mark.parametrize(
    ("text", "value"), [("580.65.06", (580, 65, 6)), ("13.0", (13, 0)), ("", ()), ("615", (615,)), ("N/A", ())]
)
def test_numbers(text: str, value: tuple[int, ...]) -> None:
    assert numbers(text) == value
