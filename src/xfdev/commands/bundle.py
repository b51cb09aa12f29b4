"""``xfdev bundle``"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from xfdev.cli import add_options
from xfdev.commands.session import local_store, resolve_options, with_cache
from xfdev.commands.trusting import Trust
from xfdev.console import duration, size
from xfdev.errors import BadBundle, UsageError
from xfdev.files import explained, locked
from xfdev.stores.local import LocalStore

EXAMPLE = "xfdev bundle prune --max-size 2GB --max-age 30d"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all bundles, the newest first")
    show = actions.add_parser("show", help="what one bundle is, was made from and needs")
    show.add_argument("id", help="the start of its id")
    verify = actions.add_parser("verify", help="read every byte and compare it with the manifests")
    verify.add_argument("id", nargs="?", help="the start of an id (default: all)")
    verify.add_argument("--remove", action="store_true", help="throw damaged bundles away")
    prune = actions.add_parser("prune", help="remove bundles by size and age")
    prune.add_argument("--max-size", metavar="SIZE", help="keep the last used ones up to this: 500MB, 2GB")
    prune.add_argument("--max-age", metavar="AGE", help="remove those not used for this long: 12h, 30d")
    prune.add_argument("--all", action="store_true", help="remove all, those that cannot be read too")
    push = actions.add_parser("push", help="send a bundle to a registry, for everybody who may read there")
    push.add_argument("id", help="the start of its id")
    push.add_argument("--to", metavar="REF", required=True, help="the repository: ghcr.io/team/bundles")
    push.add_argument(
        "--sign", metavar="KEY", help="sign it: a private key in PEM form, or one of cosign's own (then by cosign)"
    )
    pull = actions.add_parser("pull", help="fetch bundles from a registry, with their compiler-cache entries")
    pull.add_argument(
        "ref",
        help="REPOSITORY@sha256:... or REPOSITORY:bundle-ID for one bundle, REPOSITORY:TAG for the newest of a list",
    )
    add_options(pull, "signatures", "keys")
    for action in (listing, show, verify, prune, push, pull):
        add_options(action, "cache")
        for flags in (("--json",), ("-v", "--verbose"), ("-q", "--quiet")):
            action.add_argument(*flags, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    chosen = resolve_options(args, None, environ)
    environ = with_cache(chosen, environ)
    store = local_store(environ)
    match args.action:
        case "list":
            return _list(store)
        case "show":
            return _show(store, args.id)
        case "verify":
            return _verify(store, args.id, args.remove)
        case "push":
            return _push(store, args.id, args.to, args.sign, environ)
        case "pull":
            return _pull(store, args.ref, Trust(chosen, None, store), environ)
        case _:
            return _prune(store, args)


def _list(store: LocalStore) -> Mapping[str, Any]:
    entries = list(store.summaries())
    now = time.time()
    lines = [
        f"{entry.id[:12]}  {entry.project} {entry.version}  {entry.kind}  {entry.arch or 'no device code'}  "
        f"torch {entry.torch}  {size(entry.size)}  used {duration(max(now - entry.used, 0))} ago"
        for entry in entries
    ]
    return {
        "store": str(store.folder),
        "bundles": [asdict(entry) for entry in entries],
        "lines": lines or [f"no bundles in {store.folder}"],
    }


def _show(store: LocalStore, prefix: str) -> Mapping[str, Any]:
    name = store.resolve(prefix)
    manifest = store.manifest(name)
    needs = asdict(manifest.needs)
    lines = [f"{name}", f"{manifest.kind} of {manifest.project} {manifest.version}"]
    lines += [f"  needs {key}: {value}" for key, value in needs.items() if value]
    lines += [f"  made with {key}: {value}" for key, value in manifest.facts.items()]
    lines += [f"  variable {key}={value}" for key, value in manifest.variables.items()]
    lines += [f"  {key}: {value}" for key, value in manifest.origin.items() if key != "outputs"]
    lines += [f"  output {output.place}, {size(output.size)}" for output in manifest.outputs.values()]
    lines += [
        f"  unit {unit.source}: {len(unit.inputs or ())} inputs"
        + (f", {duration(unit.seconds)}" if unit.seconds else "")
        + (f", {size(unit.peak)}" if unit.peak else "")
        for unit in manifest.units
    ]
    return {"id": name, "manifest": asdict(manifest), "lines": lines}


def _verify(store: LocalStore, prefix: str | None, remove: bool) -> Mapping[str, Any]:
    bad = {}
    names = [store.resolve(prefix)] if prefix else store.ids()
    for name in names:
        try:
            store.verify(name)
        except BadBundle as error:
            bad[name] = str(error)
            if remove:
                store.remove(name)
    lines = [f"{len(names) - len(bad)} of {len(names)} bundles are whole", *bad.values()]
    if bad and remove:
        lines.append(f"{len(bad)} thrown away")
    status = BadBundle.exit_code if bad and not remove else 0
    return {"verified": len(names), "bad": bad, "removed": sorted(bad) if remove else [], "lines": lines,
            "exit_code": status}  # fmt: skip


def _prune(store: LocalStore, args: argparse.Namespace) -> Mapping[str, Any]:
    if args.all:
        names = store.ids()
        for name in names:
            store.remove(name)
        return {"removed": names, "lines": [f"removed {len(names)} bundles"]}
    if args.max_size is None and args.max_age is None:
        raise UsageError("prune what?", hint="give --max-size 2GB, --max-age 30d, or --all")
    removed = store.prune(
        max_size=None if args.max_size is None else parse_size(args.max_size),
        max_age=None if args.max_age is None else parse_age(args.max_age),
        now=time.time(),
    )
    freed = sum(entry.size for entry in removed)
    return {
        "removed": [entry.id for entry in removed],
        "freed_bytes": freed,
        "lines": [f"removed {len(removed)} bundles, {size(freed)}"],
    }


def _push(store: LocalStore, prefix: str, to: str, key: str | None, environ: Mapping[str, str]) -> Mapping[str, Any]:
    from xfdev.commands import cosign
    from xfdev.stores import afar, artifact, oci

    name = store.resolve(prefix)
    (place,) = afar.repositories([to])
    if store.lacks_objects(name):
        raise BadBundle(
            f"bundle {name[:12]} is here without its compiler-cache entries",
            why="it was fetched to be linked",
            hint="xfdev bundle pull fetches all of it; or push it from where it was made",
        )
    manifest = store.manifest(name)
    repository = oci.OciStore(place, environ, store.folder / "afar" / "blobs", push=True)
    sign = cosign.signer(repository, key, environ) if key is not None else None
    digest = repository.push(store, name, sign=sign)
    afar.forget(store, place)
    tag = artifact.tag_of(manifest)
    return {
        "id": name,
        "digest": digest,
        "reference": f"{place}@{digest}",
        "tag": artifact.own_tag(name),
        "list": tag,
        "signed": key is not None,
        "lines": [
            f"{place}@{digest}",
            f"  bundle {name[:12]}, {'signed, ' if key is not None else ''}listed in {place}:{tag}",
        ],
    }


def _pull(store: LocalStore, ref: str, trust: Trust, environ: Mapping[str, str]) -> Mapping[str, Any]:
    import os

    from xfdev.stores import afar, oci, reference

    place = reference.reference(ref)
    source = oci.OciStore(place, environ, store.folder / "afar" / "blobs", patient=True)
    before = {*store.ids()}
    with explained(str(store.folder)):
        store.folder.mkdir(parents=True, exist_ok=True)
    with locked(store.folder / "afar" / "pull.lock", f"what is fetched from {source}", wait=600.0):
        found = source.pulled(store, os.uname().machine, lambda digest: trust.of_artifact(source, digest))
    for name, (digest, recipe) in found.items():
        if name not in before or afar.origin(store, name):  # one that was made here stays one
            afar.note_origin(store, name, str(source), digest, recipe)
    names = list(found)
    afar.forget(store, place)
    new = [name for name in names if name not in before]
    return {
        "bundles": names,
        "new": new,
        "lines": [f"{name[:12]}  {'new' if name in new else 'was here'}" for name in names],
    }


def parse_size(text: str) -> int:
    """Bytes of ``500MB``, ``2GB``, ``1.5 GB``, ``1000``; powers of 1000. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)i?[bB]?", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="for example 500MB or 2GB")
    return int(float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]])


def parse_age(text: str) -> float:
    """Seconds of ``30d``, ``12h``, ``90m``, ``45s``. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an age", hint="for example 12h or 30d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
