"""New jobs held by what only the hub knows: since when, and its signed word of it to every node in contact.

    LIC-409  the licence was given back      LIC-430  it was revoked      LIC-434  its prepaid hours are spent

A node knows by itself what ends by a date; these three it cannot know, and without a word it would start new jobs until
its lease ends, up to four days later. The word is the next lease of its chain (`Lease.held`): signed by the site key as
any lease is, for the same GPUs and no longer than the one before, so it gives nothing, and an older lease cannot be put
in its place. Any later lease lifts it. Used from the thread that owns the ledger.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from licensing import armour, chains, stage, verify
from licensing.chains import Ask, Place
from licensing.document import Held, Lease, decode, encode, sign_content
from licensing.ed25519 import PrivateKey
from licensing.errors import LicenceError, StoreError
from licensing.leases import Outcome
from licensing.roots import Roots
from licensing.seats import NoSeat
from licensing.stage import LEASE_TOLERANCE_S, Standing
from licensing.store import Grant, Ledger

log = logging.getLogger(__name__)

CODES = ("LIC-409", "LIC-430", "LIC-434")
_SINCE = "held_since"


class Restrictions:
    """What the hub tells its nodes of a stage that they cannot see. `at` is the time to sign, Unix seconds."""

    def __init__(self, ledger: Ledger, key: PrivateKey, roots: Roots) -> None:
        self._ledger = ledger
        self._key = key
        self._roots = roots
        self._noted: tuple[str, str, int] | None = None
        """Licence, code, and since when; as it is on disk."""

    def load(self) -> None:
        """What was noted before the hub was restarted."""
        row = self._ledger.one("SELECT value FROM meta WHERE name = ?", (_SINCE,))
        self._noted = tuple(json.loads(row[0])) if row else None

    def dated(self, standing: Standing, licence_id: str | None, at: int) -> Standing:
        """The same with the moment from which new jobs are held; noted, with a row of the trail, when it begins."""
        told = standing.code is not None and standing.code in CODES and licence_id is not None
        now = (licence_id, standing.code) if told else None
        if now != (self._noted[:2] if self._noted else None):
            try:
                self._note(now, at)
            except StoreError as error:
                log.warning("since when new jobs are held cannot be noted: %s", error)
        if not told:
            return standing
        return stage.since(standing, self._noted[2] if self._noted and self._noted[:2] == now else at)

    def answer_all(self, asks: Sequence[Ask], standing: Standing, at: int) -> list[Outcome]:
        """The word for each node that may hold a lease; `NoSeat` where it has it, or holds new jobs by itself."""
        # What a node is told beside its lease is the reason alone: it starts new jobs while that lease runs.
        words = standing.message if standing.code in CODES else f"{stage.why(standing).rstrip('.')}."
        none = NoSeat(code=standing.code or "LIC-404", message=words, fix=standing.fix)
        if standing.code not in CODES or self._ledger.epoch_heard() > self._ledger.epoch():
            return [none for _ in asks]  # a hub that another one took over from has nothing to say
        return [self._apart(each, standing, at) or none for each in asks]

    # --- underneath ---

    def _apart(self, ask: Ask, standing: Standing, at: int) -> Outcome:
        try:
            return self._answer(ask, standing, at)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one node must not cost the others their word
            return error

    def _answer(self, ask: Ask, standing: Standing, at: int) -> Outcome:
        place, last = chains.place(ask, self._ledger.grants(ask.node, ask.key))
        if last is None or place is Place.FORKED or ask.node in self._ledger.resting():
            return None
        ahead = chains.shown(ask, self._key) if place is Place.AHEAD else None
        lease = ahead or decode(Lease, last.content)
        if lease.held is not None and lease.held.code == standing.code and place not in (Place.AHEAD, Place.RENAMED):
            return None if place is Place.AT_END else self._chained(lease, last.content)
        if at > lease.exp + LEASE_TOLERANCE_S or lease.epoch > self._ledger.epoch():
            return None
        return self._give(ask, last, lease, standing, at, is_news=ahead is not None)

    def _note(self, now: tuple[str | None, str | None] | None, at: int) -> None:
        with self._ledger.transaction():
            if self._noted is not None:
                self._ledger.audit(at, "lifted", self._noted[0], code=self._noted[1])
                self._ledger.run("DELETE FROM meta WHERE name = ?", (_SINCE,))
            if now is not None:
                self._ledger.audit(at, "restricted", str(now[0]), code=now[1])
                self._ledger.run("INSERT INTO meta (name, value) VALUES (?, ?)", (_SINCE, json.dumps([*now, at])))
        self.load()

    def _give(self, ask: Ask, last: Grant, lease: Lease, standing: Standing, at: int, *, is_news: bool) -> str | None:
        """`is_news`: this ledger is an older one that was put back, and does not remember the lease."""
        known = self._ledger.known(lease.licence)
        if known is None:
            return None
        seq, epoch = max(ask.seq, last.seq) + 1, self._ledger.epoch()
        held = Held(code=standing.code or "", since=standing.restricted_at or at, why=stage.why(standing)[:400])
        word = msgspec.structs.replace(
            lease,
            id=f"lease-{ask.node}-{epoch}-{seq}",
            node=ask.node,
            iat=max(at, lease.activated_at),
            rev=known.rev,
            epoch=epoch,
            seq=seq,
            prev=last.head,
            resets=self._ledger.clock_resets(),
            held=held,
        )
        content = encode(word)
        text = self._chained(word, content)
        if text is None:
            return None
        taken, head = (ask.seq, ask.head or "") if ask.seq > last.taken else (last.taken, last.taken_head)
        with self._ledger.transaction():
            if is_news:
                self._recall(ask, lease, at)
            if last.node != ask.node:
                self._rename(last.node, word, at)
            new = replace(
                last, node=ask.node, seq=seq, wanted=ask.gpus, content=content, taken=taken, taken_head=head, back=-1
            )
            self._ledger.put_grant(new)
            self._ledger.audit(at, "held", ask.node, lease=word.id, code=held.code, since=held.since)
        log.info("node=%s held seq=%d code=%s", ask.node, seq, held.code)
        return text

    def _rename(self, was: str, word: Lease, at: int) -> None:
        """The seats of its old name come along, as they do with a lease: the word covers the same GPUs."""
        moving = [each.gpu for each in self._ledger.holds(at) if each.node == was and each.gpu in word.gpus]
        if moving:
            self._ledger.hold(word.node, moving, since=word.iat, until=word.exp, gen=word.seq)
        self._ledger.audit(at, "renamed", word.node, was=was, key=word.key[:16])

    def _recall(self, ask: Ask, lease: Lease, at: int) -> None:
        """Its seats count, as `Leases.hear` has it: should this word get lost, new jobs start on them to its end."""
        elsewhere = {each.gpu for each in self._ledger.holds(at) if each.node != ask.node}
        gpus = [gpu for gpu in lease.gpus if gpu not in elsewhere or gpu in ask.gpus]
        self._ledger.hold(ask.node, gpus, since=lease.iat, until=lease.exp, gen=lease.seq)
        self._ledger.audit(at, "recalled", ask.node, lease=lease.id, gpus=gpus, until=lease.exp)

    def _chained(self, lease: Lease, content: bytes) -> str | None:
        """The word behind its licence; `None` where that licence proves it no more to this node."""
        known = self._ledger.known(lease.licence)
        if known is None:
            return None
        text = armour.LINK.join((known.text, sign_content(self._key, Lease, content)))
        try:
            verify.lease_chain(text, self._roots, lease.key)
        except LicenceError as error:
            log.warning("node=%s cannot be told that new jobs are held, and goes on to its lease's end: %s", lease.node,
                        error)  # fmt: skip
            return None
        return text
