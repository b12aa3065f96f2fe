"""A site over a real ledger of its own, and the leases that it gives.

from tests.fakes.site import bound, boot as boot, site as site, token
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import verify
from licensing.keys import public_hex
from licensing.paseto import split
from licensing.site import Site
from tests.fakes import vendor
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file

KEYS = {node: public_hex(vendor.seeded(node)) for node in ("n1", "n2", "n3", "n9")}
"""Each node has a key of its own: two names under one are a clone."""
NODE_KEY = KEYS["n1"]
EVALUATION = changed(VOUCHER, id="lic-evaluation", plan="evaluation", term_s=14 * DAY)


@pytest.fixture
def boot() -> Boot:
    return Boot()


@pytest.fixture
def site(tmp_path: Path, boot: Boot) -> Iterator[Site]:
    site = Site(tmp_path, "test", ROOTS, boot)
    site.open()
    yield site
    site.close()


def token(site: Site, node: str = "n1", gpus: tuple[str, ...] = ("GPU-0",), seq: int = 0, now: int = NOW) -> str:
    """A lease that must be granted."""
    answer = site.lease(node, KEYS[node], gpus, seq, now)
    assert isinstance(answer, str)
    return answer


def read(text: str) -> verify.LeaseChain:
    """A lease as its node reads it."""
    node = next(name for name in KEYS if f'"node":"{name}"'.encode() in split(text.split("~")[-1]).payload)
    return verify.lease_chain(text, ROOTS, KEYS[node])


def bound(site: Site, **fields: object) -> str:
    """A licence bound to this site."""
    return file(changed(VOUCHER, site=site.key_hex, **fields))
