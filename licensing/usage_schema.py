"""The tables of the usage ledger in `licence.db`."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("usage")


@migrations()
def m001_first(db: Database) -> None:
    """Rows by chain, what is known of nodes and seats, what was noticed, and the reports that were made."""
    chain = {"n": int, "node": str, "chain": str, "branch": int, "seq": int, "head": str, "gpu_ms": int}
    chain |= {"began": str, "sent": int}
    db.table("usage_chain").create(chain, pk="n", not_null=set(chain) - {"n"}, defaults={"sent": 0})
    db.table("usage_chain").create_index(["node", "chain", "branch"], unique=True)
    row = {"n": int, "chain_n": int, "seq": int, "line": str, "head": bytes, "job": str, "gpu": str, "sku": str}
    row |= {"start": int, "gpu_ms": int, "counted": int}
    db.table("usage_row").create(row, pk="n", not_null=set(row) - {"n"})
    db.table("usage_row").create_index(["chain_n", "seq"], unique=True)
    db.table("usage_row").create_index(["job", "gpu", "start"])
    db.table("usage_node").create({"node": str, "heard_at": int, "open_gpu_ms": int}, pk="node")
    db.table("usage_leased").create({"node": str, "gpu": str, "last_at": int}, pk=("node", "gpu"))
    db.table("usage_peak").create({"day": int, "seats": int, "at": int}, pk="day")
    db.table("usage_event").create({"n": int, "at": int, "event": str, "subject": str, "detail": str}, pk="n")
    db.table("usage_licence").create({"licence": str, "since_ms": int}, pk="licence", not_null={"since_ms"})
    report = {"number": int, "begins": int, "ends": int, "content": bytes, "nodes": str, "made_at": int}
    db.table("usage_report").create(report, pk="number", not_null=set(report) - {"number"})
    db.table("usage_state").create({"id": int, "head": str, "used": int}, pk="id", not_null={"head", "used"})
    db.table("usage_state").insert({"id": 1, "head": "0" * 64, "used": 0})


@migrations()
def m002_pruned(db: Database) -> None:
    """Which reports the vendor has; from where each chain and the hub's go on, and how many rows before it are gone."""
    db.table("usage_report").add_column("acknowledged", int, not_null_default=0)
    db.table("usage_chain").add_column("pruned", int, not_null_default=0)
    db.table("usage_chain").add_column("pruned_head", str, not_null_default="")
    db.table("usage_state").add_column("pruned", int, not_null_default=0)
    db.table("usage_state").add_column("pruned_head", str, not_null_default="0" * 64)
    db.table("usage_state").add_column("pruned_before", int, not_null_default=0)
