"""The nightly: what is newer than what was published, what has to be built of it, and how it is shown.

``settings`` is what a person wrote, ``ask`` what is so now, ``decide`` what follows; ``shelf`` and ``lease`` talk to
the registry, ``publish`` says how a night looks there, ``prune`` what of it goes, ``page`` what people see. Cells are
built by ``commands.cells``.
"""
