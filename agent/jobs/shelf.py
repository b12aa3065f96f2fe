"""The shelf: small durable things beside the jobs, each known by kind and key: reservations, drains, recurring jobs.

Nothing of them is in the job folders: after a lost database they come back as they were in the last verified backup.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import msgspec

from agent.api.decode import decode
from agent.jobs.database import Database

logger = logging.getLogger(__name__)

_T = TypeVar("_T", bound=msgspec.Struct)


class Shelf(Database):
    """Puts, finds and drops what stands on the shelf."""

    def put(self, kind: str, key: str | int, value: msgspec.Struct) -> None:
        """Store a thing, in place of the one with the same kind and key.

        Raises:
            StoreError: not stored.
        """
        body = msgspec.json.encode(value).decode()
        with self.whole():
            self._execute(
                "INSERT INTO shelf (kind, key, body) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
                (kind, str(key), body),
            )

    def all(self, kind: str, type: type[_T]) -> dict[str, _T]:
        """All things of a kind by their keys, in the order in which they were first put there.

        One that this version cannot read is left out, and said so: it stays on the shelf for the version that can.
        """
        return self._read("SELECT key, body FROM shelf WHERE kind = ? ORDER BY rowid", (kind,), type)

    def one(self, kind: str, key: str | int, type: type[_T]) -> _T | None:
        """The thing of a kind and key; `None` where there is none, or none that can be read: see `all`."""
        found = self._read("SELECT key, body FROM shelf WHERE kind = ? AND key = ?", (kind, str(key)), type)
        return found.get(str(key))

    def _read(self, sql: str, values: tuple[str, ...], type: type[_T]) -> dict[str, _T]:
        found: dict[str, _T] = {}
        for key, body in self._execute(sql, values):
            try:
                found[key] = decode(body, type)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.error("the stored %s %r cannot be read and is left out: %s", values[0], key, error)
        return found

    def drop(self, kind: str, key: str | int) -> bool:
        """Take a thing away; whether it was there.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            return self._execute("DELETE FROM shelf WHERE kind = ? AND key = ?", (kind, str(key))).rowcount > 0

    def next_number(self, kind: str) -> int:
        """A number for a new thing of a kind; never the same again, whatever was dropped.

        Raises:
            StoreError: not stored.
        """
        with self.whole():
            return self._count_up(f"shelf-{kind}")

    def _count_up(self, name: str, by: int = 1) -> int:
        """Raise a mark and return what it is then; a mark never falls."""
        self._execute(
            "INSERT INTO marks (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (name, by),
        )
        return int(self._execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()[0])

    def _count_to(self, name: str, value: int) -> None:
        """Raise a mark to `value` at least."""
        self._execute(
            "INSERT INTO marks (name, value) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (name, value),
        )
