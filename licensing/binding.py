"""Whether this is the machine that the licence is bound to; what is enrolled of it, and what is noted when it changes.

Rules kept here: a commitment is on disk before a request names it; a licence that names none and is not for machines
without marks (`vm`) is held to what is first seen under it; a match with changes enrols them, signed by the site, and
is never refused; what does not match is dated by the site's own time. Until the first reading after a start what was
last noted holds. The salt never leaves this folder: not in a request, a log line or the trail.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from licensing import clock, files, fingerprint
from licensing.document import Licence, open_token, sign
from licensing.ed25519 import PrivateKey
from licensing.errors import LicenceError, OtherSiteError
from licensing.exchange import Drift
from licensing.fingerprint import SALT_BYTES, Group, Hardware, Mark, Match, Mode, Print, Verdict, in_order
from licensing.plans import DAY_S
from licensing.store import Ledger
from licensing.store_hardware import Doubt, Enrolled, HardwareRows

log = logging.getLogger(__name__)

GRACE_S = 14 * DAY_S
_DRIFTS_S, _PLATFORMS_S = 365 * DAY_S, 90 * DAY_S
_AGAIN_S = 3600
"""After which drifts are counted again."""


class Binding:
    """The hardware of one site. Used from the ledger's thread."""

    def __init__(self, ledger: Ledger, salt_file: Path) -> None:
        self._ledger = ledger
        self._rows = HardwareRows(ledger)
        self._salt_file = salt_file
        self._salt: bytes | None = None
        self._seen: Print | None = None
        self._match: Match | None = None
        self._doubt: Doubt | None = None
        self._drifts: list[tuple[int, bool]] = []
        self._names: dict[str, tuple[tuple[Group, ...], str]] = {}
        """Groups and salt of what is enrolled."""
        self._standing: tuple[tuple[object, ...], Hardware | None] | None = None
        """What `hardware` said last, and of what: each lease asks, and it changes with a reading."""

    def open(self, key: PrivateKey) -> None:
        """Take up what the ledger holds."""
        self._key = key
        self._doubt = self._rows.doubt()
        self._drifts = self._rows.drifts(0)

    # --- seeing ---

    def see(self, marks: Iterable[Mark]) -> None:
        """Note what was read of the machine just now; `judge` comes next."""
        if not self._is_salt_kept():
            self._salt = None  # the file was put back, or can be read again
        self._seen, self._standing = fingerprint.salted(marks, self._have_salt()), None

    def judge(self, licence: Licence | None, at: int, *, doubted: bool) -> bool:
        """Hold the machine against what the licence is bound to; gives whether it is another one only since now.

        Raises:
            StoreError: what is new could not be written; what was noted before holds.
        """
        if licence is None:
            return False
        self._match = self._standing = None
        if mode_of(licence) is not Mode.HARDWARE:
            self._clear(licence, at)
            return False
        if self._seen is None:
            return False
        verdict = self._verdict(licence, self._seen, at)
        if verdict is Verdict.MATCH:
            self._clear(licence, at)
            return False
        return self._note(licence, verdict, at, doubted=doubted)

    def _verdict(self, licence: Licence, seen: Print, at: int) -> Verdict:
        enrolled = self._enrolled(_bound(licence))
        if enrolled is None and licence.fingerprint is None:
            if len(seen) < fingerprint.LEAST or not self._is_salt_kept():
                return Verdict.UNMARKED
            self._enrol(licence, seen, in_order(seen), at)
            enrolled = seen
        if enrolled is None:
            return Verdict.OTHER
        self._match = match = fingerprint.compare(enrolled, seen)
        if match.verdict is Verdict.MATCH and match.changed:
            self._enrol(licence, fingerprint.renewed(enrolled, seen), in_order(match.changed), at, is_drift=True)
        return match.verdict

    def _enrol(
        self, licence: Licence, new: Print, changed: tuple[Group, ...], at: int, *, is_drift: bool = False
    ) -> None:
        """Enrol what is seen, under the site's signature, in one transaction with the trail's row."""
        bound, after = _bound(licence), fingerprint.commitment(new)
        names = tuple(group.value for group in changed)
        paper = Drift(
            id=f"drift-{secrets.token_hex(8)}", iat=at, licence=licence.id, bound=bound, after=after, changed=names
        )
        signed = sign(self._key, paper)
        with self._ledger.transaction():
            self._rows.put_enrolled(self._row(bound, new, at, signed))
            if is_drift:
                self._rows.put_drift(at, platform=Group.PLATFORM in changed)
            event = "drift" if is_drift else "enrolled"
            self._ledger.audit(at, event, licence.id, changed=names, commitment=after, signed=signed)
        self._names.pop(bound, None)
        self._standing = None
        if is_drift:
            self._drifts.append((at, Group.PLATFORM in changed))
        log.warning("licence=%s hardware: %s %s", licence.id, "changed," if is_drift else "enrolled,", ", ".join(names))

    def _note(self, licence: Licence, verdict: Verdict, at: int, *, doubted: bool) -> bool:
        before = self._doubt if self._doubt is not None and self._doubt.bound == _bound(licence) else None
        if before is not None and before.verdict == verdict:
            return False
        taken = self._rows.taken_since(_bound(licence))
        new = Doubt(
            bound=_bound(licence),
            verdict=verdict,
            since=before.since if before else at,
            grace_since=self._grace_since(verdict, before, taken, at),
            doubted=before.doubted if before else doubted,
            taken=taken is not None,
        )
        matching = [group.value for group in in_order(self._match.matching)] if self._match else []
        self._put(new, licence, at, matching=matching, seen=[group.value for group in in_order(self._seen or {})])
        log.warning("licence=%s hardware: %s, matching: %s", licence.id, verdict, ", ".join(matching) or "nothing")
        return before is None

    @staticmethod
    def _grace_since(verdict: Verdict, before: Doubt | None, taken: int | None, at: int) -> int | None:
        """A standby's days on wholly other hardware are given once, also where all was well in between."""
        if verdict is Verdict.OTHER and taken is not None:
            return taken
        if before is not None and before.grace_since is not None:
            return before.grace_since
        return at if verdict is not Verdict.OTHER else None

    def _clear(self, licence: Licence, at: int) -> None:
        """All is well: nothing is noted any more."""
        if self._doubt is not None:
            self._put(None, licence, at)
            log.info("licence=%s hardware: as it is bound", licence.id)

    def _put(self, doubt: Doubt | None, licence: Licence, at: int, **detail: object) -> None:
        with self._ledger.transaction():
            self._rows.put_doubt(doubt)
            self._ledger.audit(at, "hardware", licence.id, verdict=doubt.verdict if doubt else Verdict.MATCH, **detail)
        self._doubt = doubt

    # --- asking, and being answered ---

    def commitment(self) -> str | None:
        """The commitment to the machine as it is; `None` where it cannot be told from others."""
        seen = self._seen
        if seen is None or len(seen) < fingerprint.LEAST or not self._is_salt_kept():
            return None
        return fingerprint.commitment(seen)

    def offer(self, at: int) -> None:
        """Keep what the machine is now, for the answer to a request that names it.

        Raises:
            StoreError: it cannot be kept.
        """
        named, seen = self.commitment(), self._seen
        if named is None or seen is None:
            return
        known = self._rows.enrolled(named)
        if known is None or known.commitment != named:
            with self._ledger.transaction():
                self._rows.put_enrolled(self._row(named, seen, at))
                self._ledger.audit(at, "commitment", named, groups=[group.value for group in in_order(seen)])
            self._names.pop(named, None)
            self._standing = None

    def refuse(self, licence: Licence) -> None:
        """Let only a licence pass that names hardware which this site named, and which is here.

        Raises:
            OtherSiteError: it does not.
        """
        if licence.site is None or licence.fingerprint is None:
            return
        new = "send a new request to your vendor and import its answer: stoker-license export-request"
        enrolled = self._enrolled(licence.fingerprint)
        if enrolled is None:
            raise OtherSiteError(
                f"the licence {licence.id} is bound to hardware that this site never named "
                f"({licence.fingerprint}); {new}"
            )
        if self._seen is None:
            return
        match = fingerprint.compare(enrolled, self._seen)
        if match.verdict is Verdict.OTHER:
            raise OtherSiteError(
                f"the licence {licence.id} is bound to other hardware than this: {len(match.matching)} of "
                f"{len(enrolled)} groups of its marks are seen here, {fingerprint.needed(len(enrolled))} must be; {new}"
            )

    def take_over(self, licence: Licence, at: int) -> None:
        """A standby takes over on another machine than the licence is bound to: it has 14 days, once.

        Belongs inside the transaction in which it takes over, `reload` after it.

        Raises:
            StoreError: it could not be written.
        """
        doubt = self._doubt
        if doubt is None or doubt.bound != _bound(licence) or doubt.verdict != Verdict.OTHER or doubt.taken:
            return
        self._rows.put_taken(doubt.bound, at, doubted=doubt.doubted)
        self._rows.put_doubt(replace(doubt, taken=True, grace_since=at))
        self._ledger.audit(at, "hardware", licence.id, verdict=doubt.verdict, taken_over=True)

    # --- how it stands ---

    def hardware(self, licence: Licence | None, mark: clock.HighWater, at: int) -> Hardware | None:
        """How the machine stands to the licence; `None` while nothing is known of either."""
        of = (licence.id, licence.rev, licence.fingerprint) if licence is not None else ()
        about = (*of, at - mark.time if self.is_doubted else 0, mark.time // _AGAIN_S, self._doubt)
        if self._standing is None or self._standing[0] != about:
            self._standing = about, self._hardware(licence, mark, at)
        return self._standing[1]

    def _hardware(self, licence: Licence | None, mark: clock.HighWater, at: int) -> Hardware | None:
        if self._seen is None and self._doubt is None:
            return None
        found = Hardware(
            mode=mode_of(licence),
            seen=in_order(self._seen or {}),
            drifts=sum(when > mark.time - _DRIFTS_S for when, _ in self._drifts),
            platform_changes=sum(platform and when > mark.time - _PLATFORMS_S for when, platform in self._drifts),
        )
        if licence is None or found.mode is not Mode.HARDWARE:
            return found
        groups, salt = self._names_of(_bound(licence))
        lost = self._salt is not None and salt not in ("", fingerprint.salt_id(self._salt))
        found = replace(found, enrolled=groups, is_salt_lost=lost)
        if self._match is not None:
            found = replace(found, matching=in_order(self._match.matching))
        doubt = self._doubt
        if doubt is None or doubt.bound != _bound(licence):
            return found
        later = at - mark.time if doubt.doubted else 0
        until = None
        if doubt.grace_since is not None and (doubt.verdict != Verdict.OTHER or doubt.taken):
            until = doubt.grace_since + later + GRACE_S
        return replace(found, verdict=Verdict(doubt.verdict), since=doubt.since + later, grace_until=until)

    @property
    def is_another(self) -> bool:
        """Whether something does not match now."""
        return self._doubt is not None

    @property
    def is_doubted(self) -> bool:
        """Whether something here was dated by a clock that certainly stood too early."""
        return self._doubt is not None and self._doubt.doubted

    def settle(self, shift_s: int, *, right: bool) -> None:
        """The clock jumped; belongs inside a transaction, `reload` after it."""
        self._rows.settle(shift_s, right=right)

    def reload(self) -> None:
        """What is noted, as the ledger has it now."""
        self._doubt = self._rows.doubt()

    # --- underneath ---

    def _row(self, bound: str, marks: Print, at: int, signed: str = "") -> Enrolled:
        return Enrolled(
            bound=bound,
            commitment=fingerprint.commitment(marks),
            marks=fingerprint.dump(marks),
            salt=fingerprint.salt_id(self._salt or b""),
            at=at,
            signed=signed,
        )

    def _names_of(self, bound: str) -> tuple[tuple[Group, ...], str]:
        if bound not in self._names:
            row = self._rows.enrolled(bound)
            self._names[bound] = (in_order(_loaded(row.marks) or {}), row.salt) if row is not None else ((), "")
        return self._names[bound]

    def _enrolled(self, bound: str) -> Print | None:
        """What is enrolled; nothing where it is neither what the licence names nor what the site signed."""
        row = self._rows.enrolled(bound)
        marks = _loaded(row.marks) if row is not None else None
        if row is None or marks is None:
            return None
        if fingerprint.commitment(marks) != row.commitment or not (row.commitment == bound or self._is_signed(row)):
            log.error("hardware: what is enrolled for %s was changed, and is not used", bound)
            return None
        return marks

    def _is_signed(self, row: Enrolled) -> bool:
        try:
            paper = open_token(Drift, row.signed, self._key.public)
        except LicenceError:
            return False
        return (paper.bound, paper.after) == (row.bound, row.commitment)

    def _have_salt(self) -> bytes:
        """The site's salt, made where none is. One that cannot be read is replaced in memory: nothing matches then."""
        if self._salt is None:
            self._salt = self._read_salt() or self._make_salt()
        return self._salt

    def _read_salt(self) -> bytes | None:
        try:
            salt = bytes.fromhex(self._salt_file.read_text(encoding="ascii").strip())
            if len(salt) == SALT_BYTES:
                return salt
            raise ValueError(f"{len(salt)} bytes")
        except FileNotFoundError:
            return None
        except ValueError:
            log.error("%s is damaged and moved aside; put it back from the backup and restart", self._salt_file)
            try:
                files.set_aside(self._salt_file)
            except OSError as error:
                log.error("%s cannot be moved: %s", self._salt_file, error.strerror)
        except OSError as error:
            log.error("%s cannot be read: %s", self._salt_file, error.strerror)
        return None

    def _make_salt(self) -> bytes:
        salt = secrets.token_bytes(SALT_BYTES)
        try:
            files.create_new(self._salt_file, salt.hex().encode(), mode=0o600)
        except OSError as error:
            log.error("%s cannot be made: %s; no request can name this hardware", self._salt_file, error.strerror)
        return salt

    def _is_salt_kept(self) -> bool:
        """Whether what is named now can be known again after a restart."""
        return self._salt is not None and os.access(self._salt_file, os.R_OK) and self._read_salt() == self._salt


def mode_of(licence: Licence | None) -> Mode:
    """What holds the licence to its site."""
    if licence is None or licence.site is None:
        return Mode.NONE
    return Mode.KEY if licence.fingerprint is None and licence.vm else Mode.HARDWARE


def _bound(licence: Licence) -> str:
    return licence.fingerprint or licence.id


def _loaded(text: str) -> Print | None:
    try:
        return fingerprint.load(text)
    except (ValueError, TypeError):
        return None
