"""Runs inside pip's subprocess, in place of setuptools' build backend; standard library only.

`pip download` wants an sdist's metadata before it keeps the file. The real backend would run the project's
setup.py, which for a CUDA extension imports torch. The answer is in the sdist already: its PKG-INFO.
"""

import email.parser
import os
import re
import shutil


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """Copy PKG-INFO of the sdist (the working folder) into a dist-info folder; return that folder's name."""
    with open("PKG-INFO", encoding="utf-8", errors="replace") as stream:
        fields = email.parser.HeaderParser().parse(stream)
    name = re.sub(r"[-_.]+", "_", fields["Name"].strip())
    folder = f"{name}-{fields['Version'].strip()}.dist-info"
    os.makedirs(os.path.join(metadata_directory, folder), exist_ok=True)
    shutil.copyfile("PKG-INFO", os.path.join(metadata_directory, folder, "METADATA"))
    return folder


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise SystemExit("xfdev downloads source releases with this backend, it cannot build with it")


class _Legacy:
    """What projects without a pyproject.toml name: setuptools.build_meta:__legacy__."""

    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
    build_wheel = staticmethod(build_wheel)


__legacy__ = _Legacy()
