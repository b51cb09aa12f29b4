"""The errors: one exit code each, all documented, all different."""

from __future__ import annotations

import ast
import inspect

import pytest

from xfdev import errors
from xfdev.errors import XfdevError


def all_classes(base: type[XfdevError] = XfdevError) -> list[type[XfdevError]]:
    return [base, *(found for cls in base.__subclasses__() for found in all_classes(cls))]


CLASSES = all_classes()


def test_exit_codes_are_unique_and_none_is_one_that_others_use() -> None:
    codes = [cls.exit_code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    reserved = {0, errors.INTERNAL, errors.INTERRUPTED, *range(126, 256)}
    assert not reserved & set(codes)
    assert errors.INTERNAL != errors.INTERRUPTED


def test_every_class_has_its_own_code_and_meaning() -> None:
    for cls in CLASSES:
        assert "exit_code" in vars(cls), f"{cls.__name__} inherits its exit code"
        assert "meaning" in vars(cls), f"{cls.__name__} inherits its meaning"
        assert len(cls.meaning) > 10
        assert not cls.meaning.endswith(".")
    assert len({cls.meaning for cls in CLASSES}) == len(CLASSES)


def test_by_exit_code_knows_every_class() -> None:
    assert errors.by_exit_code() == {cls.exit_code: cls for cls in CLASSES}
    assert all(cls in errors.by_exit_code().values() for cls in CLASSES)


def test_all_classes_are_in_the_module_and_nowhere_else() -> None:
    tree = ast.parse(inspect.getsource(errors))
    named = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert named == {cls.__name__ for cls in CLASSES}


def test_an_error_keeps_its_four_parts() -> None:
    error = errors.DiskFull("what", why="why", hint="do", details="more")
    assert (str(error), error.why, error.hint, error.details) == ("what", "why", "do", "more")
    bare = XfdevError("what")
    assert (bare.why, bare.hint, bare.details) == ("", "", "")


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_can_be_caught_as_one(cls: type[XfdevError]) -> None:
    with pytest.raises(XfdevError) as caught:
        raise cls("it")
    assert caught.value.exit_code == cls.exit_code
