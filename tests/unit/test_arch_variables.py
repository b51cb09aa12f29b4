"""Arch lists in the spelling of projects that do not read torch's."""

from __future__ import annotations

import pytest

from xfdev import arch
from xfdev.arch_variables import translated
from xfdev.errors import UnknownArch
from xfdev.profile import profiles


@pytest.mark.parametrize(
    ("profile", "archs", "expected"),
    [
        ("flash-attention", "8.0;9.0", {"FLASH_ATTN_CUDA_ARCHS": "80;90"}),
        ("flash-attention", "9.0a;12.0+PTX", {"FLASH_ATTN_CUDA_ARCHS": "90;120"}),
        ("flash-attention", "8.0;8.6;8.9", {"FLASH_ATTN_CUDA_ARCHS": "80"}),  # it passes over 86 and 89 in silence
        ("flash-attention", "12.1", {"FLASH_ATTN_CUDA_ARCHS": "120"}),
        ("flash-attention", "", {}),
        ("default", "8.0;9.0+PTX", {"CUDAARCHS": "80-real;90"}),
        ("default", "9.0a", {"CUDAARCHS": "90a-real"}),
        ("xformers", "9.0", {}),
    ],
)
def test_translated(profile: str, archs: str, expected: dict[str, str]) -> None:
    assert translated(arch.parse(archs), profiles()[profile].arch_variables) == expected


@pytest.mark.parametrize("archs", ["7.5", "9.0;8.7", "11.0"])
def test_an_arch_that_the_project_cannot_be_compiled_for(archs: str) -> None:
    with pytest.raises(UnknownArch) as caught:
        translated(arch.parse(archs), profiles()["flash-attention"].arch_variables)
    assert archs.split(";")[-1] in str(caught.value)
    assert "8.0, 9.0, 10.0, 12.0" in caught.value.why


def test_they_are_no_variables_that_a_bundle_is_refused_for() -> None:
    assert profiles()["flash-attention"].names_of_archs == {"TORCH_CUDA_ARCH_LIST", "FLASH_ATTN_CUDA_ARCHS"}
