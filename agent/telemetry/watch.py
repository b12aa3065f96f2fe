"""From what is wrong now to incidents: opened when it was so for a while, cleared when it was not for a while. Pure.

    seen ──for_s──► open ──not seen for clear_s──► cleared        an event (`for_s` 0) opens at once
     └─ not seen ─► forgotten

Rules kept here: nothing sticks and nothing flickers; the same again after it cleared is another incident; a thing that
gets worse while it is open says so in the same incident; what nobody could look at neither opens nor clears.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from agent.api.health import IncidentKind, Severity

Key = tuple[IncidentKind, str | None, int | None]
"""What makes two findings the same: kind, GPU, XID code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong, as one look shows it."""

    kind: IncidentKind
    severity: Severity
    what: str
    advice: str
    gpu_uuid: str | None = None
    gpu_index: int | None = None
    job_id: int | None = None
    user: str | None = None
    pid: int | None = None
    code: int | None = None
    times: int = 1
    """Of an event: how often since the last look; 0: no oftener, more is known of it."""

    @property
    def key(self) -> Key:
        """See `Key`."""
        return self.kind, self.gpu_uuid, self.code


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long something must be so."""

    for_s: float = 0.0
    """Before it is an incident."""
    clear_s: float = 10.0
    """Not to be so any more, before the incident is over."""


PATIENCE: dict[IncidentKind, Patience] = {
    IncidentKind.XID: Patience(clear_s=600),
    IncidentKind.GPU_LOST: Patience(clear_s=30),
    IncidentKind.GPU_HUNG: Patience(clear_s=30),
    IncidentKind.GPU_MISSING: Patience(for_s=10, clear_s=30),
    IncidentKind.GPU_EXCHANGED: Patience(for_s=10, clear_s=30),
    IncidentKind.LINK_DEGRADED: Patience(for_s=60, clear_s=60),
    IncidentKind.ECC: Patience(clear_s=60),
    IncidentKind.ROW_REMAP: Patience(clear_s=60),
    IncidentKind.THERMAL_THROTTLE: Patience(for_s=30, clear_s=60),
    IncidentKind.POWER_THROTTLE: Patience(for_s=60, clear_s=60),
    IncidentKind.NVLINK_ERRORS: Patience(clear_s=600),
    IncidentKind.RECOVERY_ACTION: Patience(for_s=10, clear_s=30),
    IncidentKind.HUNG_COLLECTIVE: Patience(for_s=180, clear_s=30),
    IncidentKind.HELD_IDLE: Patience(for_s=900, clear_s=60),
    IncidentKind.STRAGGLER: Patience(for_s=300, clear_s=120),
    IncidentKind.MEMORY_LEAKED: Patience(for_s=60, clear_s=30),
    IncidentKind.SAMPLER: Patience(for_s=5, clear_s=10),
}
"""An idle GPU is not told of while its job loads data, a hot one not for a spike; an XID stays open for ten minutes."""


_GRAVITY = {severity: rank for rank, severity in enumerate((Severity.INFO, Severity.WARNING, Severity.CRITICAL))}


_OF_A_JOB = frozenset({IncidentKind.HUNG_COLLECTIVE, IncidentKind.HELD_IDLE, IncidentKind.STRAGGLER})
"""What speaks against a job: the next job on that GPU is not told of what lasted before it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one look changed."""

    opened: tuple[Finding, ...] = ()
    again: tuple[Finding, ...] = ()
    """Open already, and seen anew: worse, or an event once more."""
    cleared: tuple[Key, ...] = ()


@dataclass(slots=True)
class _Seen:
    finding: Finding
    since: float
    last: float
    open: bool
    doubted: bool = False
    """The last look could not tell."""


@dataclass(slots=True)
class Watch:
    """The findings that are being watched, open or not yet."""

    _seen: dict[Key, _Seen] = field(default_factory=dict)
    _at: float = 0.0
    """Of the last look."""
    for_s: Mapping[str, float] = field(default_factory=dict)
    """Kind → how long it must be so, where the site has it otherwise than `PATIENCE`."""
    clear_s: Mapping[str, float] = field(default_factory=dict)
    """Kind → how long it must not be so any more, likewise."""

    def resume(self, finding: Finding, at: float) -> None:
        """Take up an incident that was open when the agent stopped."""
        self._seen[finding.key] = _Seen(finding, at, at, open=True)

    def copy(self) -> Watch:
        """As it is now: a look whose changes could not be kept is made again."""
        kept = {key: dataclasses.replace(seen) for key, seen in self._seen.items()}
        return Watch(kept, self._at, self.for_s, self.clear_s)

    def is_so(self, key: Key) -> bool:
        """Whether the last look showed it; an event never lasts."""
        seen = self._seen.get(key)
        return seen is not None and key[0] is not IncidentKind.XID and seen.last == self._at and not seen.doubted

    def drop(self, key: Key) -> None:
        """Forget an incident that somebody cleared."""
        self._seen.pop(key, None)

    def look(
        self,
        findings: Iterable[Finding],
        now: float,
        *,
        blind: Collection[str | None] = (),
        unsure: Collection[tuple[IncidentKind, str]] = (),
    ) -> Changes:
        """Take in what one look showed.

        Args:
            findings: all that is wrong now; of one key the gravest counts, and of those the first.
            now: seconds of a clock that never jumps.
            blind: GPUs that could not be looked at; `None` among them stands for the node.
            unsure: what could not be told, of which GPU: that it is not found does not mean that it is over.
        """
        self._at = now
        opened, again = [], []
        cleared = self._part_with_jobs(findings := list(findings))
        found: dict[Key, Finding] = {}
        for finding in findings:
            other = found.setdefault(finding.key, finding)
            if _GRAVITY[finding.severity] > _GRAVITY[other.severity]:
                found[finding.key] = finding
        for key, finding in found.items():
            if key in cleared:
                continue  # it begins with the next look
            seen = self._seen.setdefault(key, _Seen(finding, now, now, open=False))
            worse = seen.open and (finding.severity, finding.job_id) != (seen.finding.severity, seen.finding.job_id)
            seen.finding, seen.last, seen.doubted = finding, now, False
            if not seen.open and now - seen.since >= self.for_s.get(finding.kind, PATIENCE[finding.kind].for_s):
                seen.open = True
                opened.append(finding)
            elif worse or (seen.open and finding.kind is IncidentKind.XID):
                again.append(finding)
        gone = [key for key in self._seen if key not in found]
        for key in gone:
            if doubted := key[:2] in unsure:
                self._seen[key].last = now
            self._seen[key].doubted = doubted
        cleared += [key for key in gone if not self._seen[key].doubted and self._is_over(key, now, blind)]
        return Changes(opened=tuple(opened), again=tuple(again), cleared=tuple(cleared))

    def _part_with_jobs(self, findings: Iterable[Finding]) -> list[Key]:
        """What was a job's ends with it, where another job has its GPU now; those that were open."""
        ended = []
        for finding in findings:
            seen = self._seen.get(finding.key)
            if seen is not None and finding.kind in _OF_A_JOB and seen.finding.job_id != finding.job_id:
                del self._seen[finding.key]
                ended += [finding.key] if seen.open else []
        return ended

    def _is_over(self, key: Key, now: float, blind: Collection[str | None]) -> bool:
        """Whether an incident ends; one that was never open is forgotten without a word."""
        seen = self._seen[key]
        if key[1] in blind:
            seen.last = now if seen.open else seen.last
            return False
        if not seen.open:
            del self._seen[key]
            return False
        if now - seen.last < self.clear_s.get(key[0], PATIENCE[key[0]].clear_s):
            return False
        del self._seen[key]
        return True
