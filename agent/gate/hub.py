"""The hub's side: the site's licence, its seats and usage, and the machine that it is bound to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.api.types import Licence, LicenceEvent, LicenceFile
from agent.api.usage import UsageHead, UsageRows
from agent.gate.refusals import as_api_error, translated
from agent.gate.wire import as_file, as_licence, plain
from licensing import clock, hardware, nics
from licensing.chains import Ask as Ask
from licensing.errors import LicenceError, UsageError
from licensing.exchange import Want
from licensing.fingerprint import Mark as Mark
from licensing.roots import Roots
from licensing.seats import MAX_BATCH as MAX_BATCH
from licensing.seats import NoSeat as NoSeat
from licensing.usage_rows import Told

if TYPE_CHECKING:
    from licensing.orders import Order


class HubLicence:
    """The site's licence and seats, in `state_dir` (the hub's own). All calls from the one thread that opened it."""

    def __init__(
        self,
        state_dir: Path,
        cluster: str,
        roots: Roots | None = None,
        uptime: clock.UptimeReader = clock.read_uptime,
    ) -> None:
        # Here, because only the hub keeps a ledger: a node's agent is spared the database tools, some 20 MB.
        from licensing.site import Site

        self._site = Site(state_dir, cluster, roots, uptime)

    def open(self) -> None:
        """Open the ledger.

        Raises:
            ApiError: it is in use by another hub, or damaged.
        """
        with translated():
            self._site.open()

    def close(self) -> None:
        """Close the ledger; closing twice is fine."""
        self._site.close()

    def activate(self, text: str, now: int) -> Licence:
        """Take the text of a vendor's file (voucher, licence, answer, receipt, revocation list); lifts a stage at once.

        Raises:
            ApiError: refused; nothing was changed.
        """
        with translated():
            return as_licence(self._site.activate(text, now))

    def request(self, want: str, now: int) -> LicenceFile:
        """Make a request to the vendor; its answer is taken for 90 days, once.

        Raises:
            ApiError: there is nothing that it could be about, or it cannot be kept.
        """
        with translated():
            return as_file(self._site.request(_want(want), now))

    def release(self, to: str | None, now: int) -> LicenceFile:
        """Give the licence back, for the site whose request `to` is.

        Raises:
            ApiError: there is none, or it is a voucher; nothing was changed.
        """
        with translated():
            return as_file(self._site.release(now, to))

    def order(self, verb: str, subject: str, now: int, *, days: int = 0, release: str = "") -> Licence:
        """Do what an operator orders about the seats of a node, or about a GPU (`licensing.orders`).

        Raises:
            ApiError: refused; nothing was changed.
        """
        with translated():
            return as_licence(self._site.order(_order(verb, subject, days, release), now))

    def see_hardware(self, marks: Sequence[Mark], now: int) -> None:
        """Take note of what was read of this machine.

        Raises:
            ApiError: the ledger cannot be used; what was noted before holds.
        """
        with translated():
            self._site.see(marks, now)

    def confirm_clock(self, now: int, *, sure: bool) -> Licence:
        """Take the wall clock for right, on an operator's word.

        Raises:
            ApiError: it is behind what is known, or the word is missing; nothing was changed.
        """
        with translated():
            return as_licence(self._site.confirm_clock(now, sure=sure))

    def status(self, now: int) -> Licence:
        """The licence line and who holds the seats.

        Raises:
            ApiError: the ledger cannot be read.
        """
        with translated():
            return as_licence(self._site.report(now))

    def history(self, limit: int) -> list[LicenceEvent]:
        """What was done with licence and seats, newest first.

        Raises:
            ApiError: the ledger cannot be read.
        """
        with translated():
            entries = self._site.history(limit)
        return [
            LicenceEvent(
                number=each.number, at=each.at, event=each.event, subject=each.subject, detail=plain(each.detail)
            )
            for each in entries
        ]

    def lease(
        self,
        node_name: str,
        node_key_hex: str,
        gpu_uuids: Sequence[str],
        node_seq: int,
        now: int,
        held: str | None = None,
    ) -> str | NoSeat | None:
        """The token to `PUT /v1/lease` of a node; `None` when the lease it has will do; `NoSeat` when there is none.

        Call it with every snapshot of the node: it writes only when something is due. `node_seq` is what the node's
        `GET /v1/lease` said last, and `held` the lease that it showed there.

        Raises:
            ApiError: the node's key is no sound key, or the ledger cannot be written.
        """
        with translated():
            return self._site.lease(node_name, node_key_hex, gpu_uuids, node_seq, now, held)

    def leases(self, asks: Sequence[Ask], now: int) -> list[str | NoSeat | Exception | None]:
        """The same for up to `MAX_BATCH` nodes with one flush of the disk; one that fails costs no other its lease.

        Errors are among the outcomes, as `ApiError` where `lease` would raise one.

        Raises:
            ApiError: the ledger cannot be read, so there is an answer for nobody.
        """
        with translated():
            return [_outcome(each) for each in self._site.leases(asks, now)]

    def hear(self, ask: Ask, now: int) -> None:
        """Count what a node holds, before anybody gets more: the ledger may be an older one that was put back.

        Raises:
            ApiError: the ledger cannot be written.
        """
        with translated():
            self._site.hear(ask, now)

    def usage_wanted(self, node: str, heads: Sequence[UsageHead], now: int) -> list[tuple[str, int]]:
        """Which rows of a node's usage ledger are not here yet: (chain, after); nothing when all are.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with translated():
            return self._site.usage_wanted(node, [_told(each) for each in heads], now)

    def usage_merge(self, node: str, rows: UsageRows, now: int) -> int:
        """Take rows of a node; how many are new. Those that are here already change nothing.

        Raises:
            ApiError: the ledger cannot be used; nothing was stored.
        """
        with translated():
            return self._site.usage_merge(node, rows.chain, rows.first, rows.before, rows.rows, now)

    def usage_seats(self, now: int) -> None:
        """Note who holds a seat now, for the reports; once a minute, and after each change.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with translated():
            self._site.usage_seats(now)

    def note_nodes(self, heard: Collection[str], known: Collection[str], now: int) -> None:
        """Note which nodes' agents are heard, of those that are the hub's: machines are counted beside GPUs.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with translated():
            self._site.note_nodes(heard, known, now)

    def note_admin(self, user: str, now: int, ago_s: int = 0) -> bool:
        """Note that somebody used an admin verb, so many seconds before `now`; whether that was news.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with translated():
            return self._site.note_admin(user, now, ago_s)

    def usage_prune(self, now: int, kept_s: int) -> int:
        """Forget some rows that the vendor acknowledged and that are older than this; how many were.

        Raises:
            ApiError: the ledger cannot be used.
        """
        with translated():
            return self._site.usage_prune(now, kept_s)

    def usage_export(self, begins: int, ends: int, now: int, *, rows: bool) -> tuple[str, str]:
        """The signed report of a time: a name for its file, and the text.

        Raises:
            ApiError: there is none to be made, or the ledger cannot be used.
        """
        with translated():
            return self._site.usage_export(begins, ends, now, rows=rows)


class HardwareReader:
    """Reads what tells this machine from another. Blocks for 3 s at most, and never fails."""

    def __init__(self, run_dir: Path, root: Path = Path("/"), nvml: Callable[[], Iterable[str]] | None = None) -> None:
        """`run_dir` is where the hub listens, and root's own reading lies; `nvml` gives GPUs that /proc does not."""
        self._reader = hardware.Reader(
            root,
            run_dir / hardware.COLLECTED,
            permanent=nics.permanent_address if root == Path("/") else None,
            nvml=nvml,
        )

    def read(self) -> list[Mark]:
        """What could be read now."""
        return self._reader.read()


def collect_hardware(run_dir: Path, owner: int, root: Path = Path("/")) -> tuple[Path, int]:
    """Write what only root can read of this machine, for `owner` alone; the file, and how many marks.

    Raises:
        OSError: it cannot be written.
    """
    path = run_dir / hardware.COLLECTED
    return path, hardware.collect(path, owner, root)


def _outcome(found: str | NoSeat | Exception | None) -> str | NoSeat | Exception | None:
    return as_api_error(found) if isinstance(found, LicenceError) else found


def _told(head: UsageHead) -> Told:
    return Told(chain=head.chain, seq=head.seq, head=head.head, gpu_ms=head.gpu_ms, open_gpu_ms=head.open_gpu_ms)


def _want(word: str) -> Want:
    try:
        return Want(word)
    except ValueError as error:
        raise UsageError(f"{word!r} is nothing to ask a vendor for; ask for {', '.join(Want)}") from error


def _order(verb: str, subject: str, days: int, release: str) -> Order:
    from licensing.orders import Order, Verb

    try:
        return Order(verb=Verb(verb), subject=subject, days=days, release=release)
    except ValueError as error:
        raise UsageError(f"{verb!r} is nothing to order; order {', '.join(Verb)}") from error
