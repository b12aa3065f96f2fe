"""Licences: how long each bad file's refusal takes, documents made and read per CPU-second, checkouts, `status`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from licensing import armour, keys, paseto, revocation, usage_check, verify
from licensing.armour import LINK, Label
from licensing.document import Lease, open_token, sign
from licensing.errors import LicenceError
from licensing.exchange import Release, Request
from tests.bench import checkouts
from tests.bench.table import Row, compiled_once, row_of
from tests.fakes import papers
from tests.fakes.daemons import box
from tests.fakes.vendor import FOLDER, LEASE, NODE, ROOTS, SITE, VOUCHER

REPEATS = 7
STARTS = 9
SPAN_S = 0.2
NODE_KEY = keys.public_hex(NODE)

_READ: dict[str, Callable[[str], object]] = {
    "licence": lambda text: verify.licence_file(text, ROOTS),
    "lease": lambda text: verify.lease_chain(text, ROOTS, NODE_KEY),
    "cert": lambda text: verify.issuer_file(text, ROOTS),
    "request": lambda text: verify.site_paper(Request, armour.bare(Label.REQUEST, text)),
    "release": lambda text: verify.site_paper(Release, armour.bare(Label.RELEASE, text)),
    "usage": usage_check.read,
    "receipt": lambda text: verify.receipt_chain(armour.unwrap(Label.RECEIPT, text), ROOTS),
    "crl": lambda text: revocation.lists_in(text, ROOTS),
}


def rows() -> list[Row]:
    """The slowest refusal of each kind, then the rates beside the floors of the design."""
    return [*_refusals(), *_rates(), *checkouts.rows(), *_status()]


def _refusals() -> Iterator[Row]:
    for kind, read in _READ.items():
        times = {
            path.stem: min(_refusal_ms(read, path.read_text("utf-8")) for _ in range(3))
            for path in sorted(FOLDER.glob(f"*.{kind}"))
            if path.stem != "good"
        }
        slowest = max(times, key=lambda name: times[name])
        yield row_of(f"bad .{kind}: {len(times)} files, slowest {slowest}", list(times.values()), "ms", "each < 100")


def _rates() -> Iterator[Row]:
    token, key = sign(SITE, LEASE), SITE.public
    chain = LINK.join((papers.reseller_chain(VOUCHER), token))
    parts = paseto.split(token)
    signed = paseto.pae(paseto.HEADER.encode(), parts.payload, parts.footer, b"lease")
    bare = _per_cpu_s(lambda: key.has_signed(parts.signature, signed))
    yield row_of("bare Ed25519 verification, for comparison", bare, "/CPU-s")
    for what, aim, work in (
        ("token made", 0, lambda: sign(SITE, LEASE)),
        ("token verified and read", 8000, lambda: open_token(Lease, token, key)),
        ("chain of four verified, its keys known", 2000, lambda: verify.lease_chain(chain, ROOTS, NODE_KEY)),
        ("chain of four verified, all keys new", 2000, lambda: _cold(chain)),
    ):
        yield row_of(what, _per_cpu_s(work), "/CPU-s", f"≥ {aim}" if aim else "")


def _status() -> Iterator[Row]:
    """The command as it is typed, in a new interpreter, with a hub that answers."""
    words = ["-c", "import sys; from agent.__main__ import license_main; sys.exit(license_main())", "status"]
    with compiled_once(), tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder, box(Path(folder)) as made:
        env = {**os.environ, "STOKER_CONFIG": str(made.config)}
        times = [_child_cpu_ms(words, env) for _ in range(STARTS + 1)][1:]
    yield row_of("stoker-license status, cold: CPU", times, "ms", "≤ 300")


def _child_cpu_ms(words: list[str], env: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], env=env, stdout=subprocess.DEVNULL, timeout=30)
    assert done.returncode in (0, 3), "the evaluation is ACTIVE or in NOTICE"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def _refusal_ms(read: Callable[[str], object], text: str) -> float:
    keys.public_key.cache_clear()
    begin = time.perf_counter()
    with suppress(LicenceError):
        read(text)
    return (time.perf_counter() - begin) * 1000


def _cold(chain: str) -> None:
    keys.public_key.cache_clear()
    keys.verifying_key.cache_clear()
    verify.lease_chain(chain, ROOTS, NODE_KEY)


def _per_cpu_s(work: Callable[[], object]) -> list[float]:
    rates = []
    for _ in range(REPEATS):
        begin, count = time.process_time(), 0
        while time.process_time() - begin < SPAN_S:
            work()
            count += 1
        rates.append(count / (time.process_time() - begin))
    return rates
