"""Runs inside pip's subprocess in place of setuptools, see build_meta; standard library only."""
