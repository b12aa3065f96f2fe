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


@migrations()
def m002_taken(db: Database) -> None:
    """One row for each binding under which a standby took its 14 days: they are given once."""
    db.table("hardware_taken").create({"bound": str, "since": int, "doubted": int}, pk="bound", not_null={"since"})
    db.execute(
        "INSERT INTO hardware_taken (bound, since, doubted) SELECT bound, grace_since, doubted FROM hardware_doubt "
        "WHERE taken = 1 AND grace_since IS NOT NULL"
    )
