"""The tables of `licence.db` but for those of the usage ledger; both are brought up to date when it is opened."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("licence")


@migrations()
def m001_first(db: Database) -> None:
    """The tables of the first version."""
    db.table("meta").create({"name": str, "value": str}, pk="name")
    db.table("licence").create(
        {"id": str, "rev": int, "text": str, "activated_at": int, "installed": int}, pk="id", not_null={"text"}
    )
    db.table("hold").create(
        {"unit": str, "subject": str, "node": str, "since": int, "until": int, "gen": int},
        pk=("unit", "subject"),
        not_null={"node", "since", "until", "gen"},
    )
    db.table("hold").create_index(["node"])
    db.table("grant").create(
        {"node": str, "key": str, "seq": int, "wanted": str, "content": bytes}, pk="node", not_null={"content"}
    )
    db.table("audit").create(
        {"n": int, "at": int, "event": str, "subject": str, "detail": str, "prev": str, "hash": str}, pk="n"
    )


@migrations()
def m002_exchange(db: Database) -> None:
    """What travels between site and vendor: requests, tombstones, revocation lists, receipts."""
    for column in ("doubted", "report_by"):
        db.table("licence").add_column(column, int, not_null_default=0)
    db.table("request").create(
        {"id": str, "want": str, "made_at": int, "until": int, "text": str, "answer": str},
        pk="id",
        not_null={"want", "made_at", "until", "text", "answer"},
        defaults={"answer": ""},
    )
    db.table("released").create(
        {"licence": str, "generation": int, "at": int, "text": str},
        pk=("licence", "generation"),
        not_null={"at", "text"},
    )
    db.table("crl").create({"signer": str, "number": int, "text": str}, pk="signer", not_null={"number", "text"})


@migrations()
def m003_seats(db: Database) -> None:
    """What is beside plain counting: borrowed, overdrawn, taken back, resting, pinned."""
    db.table("borrowed").create({"node": str, "since": int, "until": int}, pk="node", not_null={"since", "until"})
    db.table("overdraft").create({"term": str, "since": int}, pk="term", not_null={"since"})
    db.table("reclaimed").create({"n": int, "at": int, "node": str, "seats": int}, pk="n", not_null={"at", "seats"})
    db.table("resting").create({"node": str, "since": int}, pk="node", not_null={"since"})
    db.table("pinned").create({"gpu": str}, pk="gpu")
    db.table("emergency").create({"term": str, "since": int, "until": int}, pk="term", not_null={"since", "until"})


@migrations()
def m004_chains(db: Database) -> None:
    """Each node's chain of leases: what its holder has shown of it, and who shows an old part of it."""
    grant = db.table("grant")
    grant.add_column("taken", int, not_null_default=0)
    grant.add_column("taken_head", str, not_null_default="")
    grant.add_column("back", int, not_null_default=-1)
    grant.create_index(["key"])
    db.table("forked").create(
        {"node": str, "key": str, "of": str, "seq": int, "since": int},
        pk="node",
        not_null={"key", "of", "seq", "since"},
    )


@migrations()
def m005_units(db: Database) -> None:
    """The most nodes and admins of each day; who they are is in `hold`, under their unit."""
    db.table("unit_peak").create(
        {"unit": str, "day": int, "count": int, "at": int}, pk=("unit", "day"), not_null={"count", "at"}
    )
