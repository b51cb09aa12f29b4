"""Proxies, certificates, the package index, the registry of images."""

from __future__ import annotations

import shlex

from xfdev.doctor.facts import Engine, Facts, Index, Login, Registry, Settings
from xfdev.doctor.finding import Finding, error, not_applicable, ok, unknown, warning


def proxy(facts: Facts) -> Finding:
    found, engine = facts.get(Settings), facts.find(Engine)
    if not found.proxies:
        return ok("none is set")
    values: dict[str, dict[str, str]] = {}
    for name, value in found.proxies:
        values.setdefault(name.lower(), {})[name] = value
    for variants in values.values():
        if len(set(variants.values())) > 1:
            said = " but ".join(f"{name} is {value}" for name, value in variants.items())
            return warning(f"{said}: programs take one or the other", f"unset {min(variants)}")
    bad = [f"{name}={value}" for name, value in found.proxies if name.lower() != "no_proxy" and "://" not in value]
    if bad:
        return warning(f"{bad[0]} is no URL", f"export {bad[0].replace('=', '=http://', 1)}")
    text = ", ".join(f"{name}={value}" for name, value in found.proxies)
    if engine is not None and engine.running and not found.engine_proxy:
        said = f"{text}; containers do not get it"
        fix = 'in ~/.docker/config.json: "proxies": {"default": {"httpsProxy": "...", "noProxy": "..."}}'
        return warning(said, fix)
    return ok(text)


def certificates(facts: Facts) -> Finding:
    found = facts.get(Settings)
    missing = [(name, path) for name, path, there in found.certificates if not there]
    if missing:
        name, path = missing[0]
        return error(f"{name} is {path}, which is not there: every TLS connection fails", f"unset {name}")
    if not found.certificates:
        return not_applicable("no variable names certificates")
    return ok(f"there: {', '.join(name for name, _, _ in found.certificates)}")


def tls(facts: Facts) -> Finding:
    index, settings = facts.get(Index), facts.get(Settings)
    if index.public is None and index.trusted is None:
        if index.status is not None:
            return not_applicable(f"{index.url} is not asked by TLS")
        return unknown(f"{index.url} was not reached: {index.said}")
    issuer = index.issuer or "an unknown authority"
    if index.public:
        return ok(f"{index.url}: a public certificate, by {issuer}")
    build = 'export XFDEV_BUILD_CA="$(cat corp-ca.pem)" for image builds'
    if not index.trusted:
        return error(
            f"{index.url}: its certificate is by {issuer}, an authority that this machine does not trust",
            "get the CA's certificate (PEM) from whoever runs the proxy: "
            f"export PIP_CERT=corp-ca.pem SSL_CERT_FILE=corp-ca.pem GIT_SSL_CAINFO=corp-ca.pem; {build}",
        )
    if index.public is None:
        return unknown(f"{index.url}: a certificate by {issuer}, trusted here; whether others trust it is not known")
    if not settings.build_ca:
        said = f"{index.url}: its certificate is by {issuer}, a private CA; trusted here, not in an image build"
        return warning(said, build)
    return ok(f"{index.url}: a private CA, {issuer}; trusted here, and given to image builds (XFDEV_BUILD_CA)")


def index(facts: Facts) -> Finding:
    found = facts.get(Index)
    by = f" by the proxy {found.proxy}" if found.proxy else ""
    if found.status is None:
        return error(f"{found.url} does not answer{by}: {found.said}", "pip config list; is HTTPS_PROXY right?")
    if found.status in (401, 403, 407):
        who = "the proxy" if found.status == 407 else found.url
        return error(f"{who} wants a login (HTTP {found.status})", "put it into ~/.netrc, or into the index's URL")
    if found.status >= 400:
        return warning(f"{found.url} answers HTTP {found.status}", "pip config list: is that the index you mean?")
    return ok(f"{found.url} answers{by}, {found.seconds:.1f} s")


def login(facts: Facts) -> Finding:
    found = facts.get(Login)
    if not found.registry:
        return not_applicable("no image of a registry is named here")
    if found.helper and not found.there:
        return error(
            f"{found.config} names docker-credential-{found.helper}, which is not installed: every pull fails",
            f"install it, or take it out of {found.config}",
        )
    if found.said:
        return unknown(f"docker-credential-{found.helper}: {found.said}")
    if found.known:
        return ok(f"{found.registry}: logged in" + (f", by docker-credential-{found.helper}" if found.helper else ""))
    asked = facts.find(Registry)
    if asked is None or asked.status is None:
        return unknown(f"not logged in to {found.registry}; whether {found.image} needs it, --network tells")
    if asked.pull == 200:
        return ok(f"{found.image} can be pulled without a login")
    fix = f"docker login {shlex.quote(found.registry)}"
    return warning(f"not logged in to {found.registry}, and {found.image} is not public or not there", fix)


def registry(facts: Facts) -> Finding:
    named = facts.get(Login)
    if not named.registry:
        return not_applicable("no image of a registry is named here")
    found = facts.get(Registry)
    if found.status is None:
        fix = f"curl -v https://{found.host}/v2/ shows why; a mirror or another image: xfdev init --image REF"
        return error(f"{found.host} does not answer: {found.said}", fix)
    if found.status == 401 or found.status < 400:
        return ok(f"{found.host} answers" + (", and asks for a login" if found.status == 401 else ""))
    return warning(f"{found.host} answers HTTP {found.status}", f"is it a registry? curl -i https://{found.host}/v2/")
