"""The tables of the site's hardware in `licence.db`."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("hardware")


@migrations()
def m001_first(db: Database) -> None:
    """One row for each commitment that was asked with, one for what does not match now, one for each drift."""
    enrolled = {"bound": str, "commitment": str, "marks": str, "salt": str, "at": int, "signed": str}
    db.table("hardware_enrolled").create(enrolled, pk="bound", not_null=set(enrolled) - {"bound"})
    doubt = {"id": int, "bound": str, "verdict": str, "since": int, "grace_since": int, "doubted": int, "taken": int}
    db.table("hardware_doubt").create(doubt, pk="id", not_null={"bound", "verdict", "since", "doubted", "taken"})
    db.table("hardware_drift").create({"n": int, "at": int, "platform": int}, pk="n", not_null={"at", "platform"})
