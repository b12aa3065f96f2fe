"""What `sinfo -o` and `-O` can show of nodes that are alike: letter or name → title and text.

Titles as recorded in tests/data/slurm/sinfo_o.txt and sinfo_names.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.api.hostlist import compress
from agent.api.queue import Drain, Partition
from tui.slurm import columns, job, nodes, times
from tui.slurm.nodes import Host


@dataclass(frozen=True, slots=True)
class Row:
    """Nodes of one partition that are alike."""

    partition: Partition
    hosts: tuple[Host, ...]
    drain: Drain | None = None
    """What `-R` tells of."""

    @property
    def host(self) -> Host | None:
        """The first one."""
        return self.hosts[0] if self.hosts else None

    @property
    def reason(self) -> Drain | None:
        """Why it takes no job."""
        if self.drain is not None:
            return self.drain
        return self.host.node.drain if self.host and self.host.node else None

    def count(self, *states: str) -> int:
        """How many are in these states."""
        return sum(host.state.rstrip("*") in states for host in self.hosts)

    @property
    def four(self) -> str:
        """NODES(A/I/O/T)."""
        used, idle = self.count("alloc", "mix", "drng"), self.count("idle", "resv")
        return f"{used}/{idle}/{len(self.hosts) - used - idle}/{len(self.hosts)}"


def _of_host(value: object, none: str = "0") -> str:
    return none if value is None else str(value)


def _mebi(count: int | None) -> str:
    return "0" if count is None else str(count // 2**20)


def memory_bytes(host: Host) -> int:
    """What it has; 0 when that is not known."""
    return (host.node.memory_total_bytes or 0) if host.node else 0


def _least(numbers: Sequence[int]) -> str:
    """The lowest of the nodes', with `+` where some have more."""
    return str(min(numbers)) + "+" * (min(numbers) < max(numbers)) if numbers else "0"


LETTERS: columns.Fields[Row] = {
    "a": ("AVAIL", lambda row: nodes.partition_up(row.partition)),
    "A": ("NODES(A/I)", lambda row: "/".join(row.four.split("/")[:2])),
    "b": ("ACTIVE_FEATURES", lambda row: row.host.features if row.host else "(null)"),
    "B": ("MAX_CPUS_PER_NODE", lambda row: "UNLIMITED"),
    "c": ("CPUS", lambda row: _least([host.cpus or 0 for host in row.hosts])),
    "C": ("CPUS(A/I/O/T)", lambda row: _cpus(row)),
    "d": ("TMP_DISK", lambda row: "0"),
    "D": ("NODES", lambda row: str(len(row.hosts))),
    "e": ("FREE_MEM", lambda row: _mebi(row.host.node.memory_available_bytes if row.host and row.host.node else None)),
    "E": ("REASON", lambda row: _reason(row)),
    "f": ("AVAIL_FEATURES", lambda row: row.host.features if row.host else "(null)"),
    "F": ("NODES(A/I/O/T)", lambda row: row.four),
    "g": ("GROUPS", lambda row: "all"),
    "G": ("GRES", lambda row: row.host.gres if row.host else "(null)"),
    "h": ("OVERSUBSCRIBE", lambda row: "NO"),
    "H": ("TIMESTAMP", lambda row: times.stamp(row.reason.at if row.reason else None)),
    "I": ("PRIO_JOB_FACTOR", lambda row: "1"),
    "l": ("TIMELIMIT", lambda row: times.short(row.partition.max_time_s, "infinite")),
    "L": ("DEFAULTTIME", lambda row: times.short(row.partition.default_time_s, "n/a")),
    "m": ("MEMORY", lambda row: _least([memory_bytes(host) // 2**20 for host in row.hosts])),
    "M": ("PREEMPT_MODE", lambda row: "OFF"),
    "n": ("HOSTNAMES", lambda row: compress([host.name for host in row.hosts])),
    "N": ("NODELIST", lambda row: compress([host.name for host in row.hosts])),
    "o": ("NODE_ADDR", lambda row: compress([host.name for host in row.hosts])),
    "O": ("CPU_LOAD", lambda row: _load(row)),
    "p": ("PRIO_TIER", lambda row: str(row.partition.priority_tier)),
    "P": ("PARTITION", lambda row: row.partition.name + "*" * row.partition.default),
    "r": ("ROOT", lambda row: "no"),
    "R": ("PARTITION", lambda row: row.partition.name),
    "s": ("JOB_SIZE", lambda row: "1"),
    "S": ("ALLOCNODES", lambda row: "all"),
    "t": ("STATE", lambda row: row.host.state if row.host else "n/a"),
    "T": ("STATE", lambda row: row.host.long_state if row.host else "n/a"),
    "u": ("USER", lambda row: row.reason.by if row.reason else "Unknown"),
    "U": ("USER", lambda row: f"{row.reason.by}({job.uid(row.reason.by)})" if row.reason else "Unknown"),
    "v": ("VERSION", lambda row: row.host.node.version if row.host and row.host.node else ""),
    "V": ("CLUSTER", lambda row: "N/A"),
    "w": ("WEIGHT", lambda row: "1"),
    "X": ("SOCKETS", lambda row: _of_host(row.host.cpus if row.host else None)),
    "Y": ("CORES", lambda row: "1"),
    "z": ("S:C:T", lambda row: f"{row.host.cpus if row.host else 0}:1:1"),
    "Z": ("THREADS", lambda row: "1"),
}
"""sinfo(1), `-o`: titles as recorded in tests/data/slurm/sinfo_o.txt."""


def _cpus(row: Row) -> str:
    parts = [[int(number) for number in host.cpu_states.split("/")] for host in row.hosts]
    return "/".join(str(sum(each)) for each in zip(*parts, strict=True)) if parts else "0/0/0/0"


def _reason(row: Row) -> str:
    if row.reason is None:
        return "none"
    gpu = row.reason.gpu_uuid
    if gpu is None or row.host is None or row.host.node is None:
        return row.reason.reason
    index = next((each.index for each in row.host.node.gpus if each.uuid == gpu), gpu)
    return f"gpu {index}: {row.reason.reason}"


def _load(row: Row) -> str:
    load = row.host.node.load_1m if row.host and row.host.node else None
    return "N/A" if load is None else f"{load:.2f}"


NAMED: columns.Fields[Row] = {
    "allocnodes": LETTERS["S"],
    "available": LETTERS["a"],
    "cluster": LETTERS["V"],
    "comment": ("COMMENT", lambda row: "(null)"),
    "cores": LETTERS["Y"],
    "extra": ("EXTRA", lambda row: "(null)"),
    "maxcpuspernode": LETTERS["B"],
    "oversubscribe": LETTERS["h"],
    "port": ("PORT", lambda row: "0"),
    "preemptmode": LETTERS["M"],
    "priorityjobfactor": LETTERS["I"],
    "socketcorethread": LETTERS["z"],
    "sockets": LETTERS["X"],
    "threads": LETTERS["Z"],
    "cpus": LETTERS["c"],
    "cpusload": LETTERS["O"],
    "cpusstate": LETTERS["C"],
    "defaulttime": LETTERS["L"],
    "disk": LETTERS["d"],
    "features": LETTERS["f"],
    "featuresact": LETTERS["b"],
    "freemem": LETTERS["e"],
    "gres": LETTERS["G"],
    "gresused": ("GRES_USED", lambda row: f"gpu:{sum(host.gpus_used for host in row.hosts)}"),
    "groups": LETTERS["g"],
    "memory": LETTERS["m"],
    "allocmem": ("ALLOCMEM", lambda row: _mebi(sum(host.memory_used_bytes for host in row.hosts))),
    "nodeaddr": ("NODE_ADDR", lambda row: LETTERS["N"][1](row)),
    "nodehost": LETTERS["n"],
    "nodelist": LETTERS["N"],
    "nodes": LETTERS["D"],
    "nodeai": LETTERS["A"],
    "nodeaiot": LETTERS["F"],
    "partition": LETTERS["P"],
    "partitionname": LETTERS["R"],
    "prioritytier": LETTERS["p"],
    "reason": LETTERS["E"],
    "root": LETTERS["r"],
    "size": LETTERS["s"],
    "statecompact": LETTERS["t"],
    "statelong": LETTERS["T"],
    "statecomplete": ("STATECOMPLETE", LETTERS["T"][1]),
    "time": LETTERS["l"],
    "timestamp": LETTERS["H"],
    "user": LETTERS["u"],
    "userlong": LETTERS["U"],
    "version": LETTERS["v"],
    "weight": LETTERS["w"],
}
"""sinfo(1), `-O`, without dashes and underscores."""

PARTING = frozenset((
    "ALLOCMEM", "ACTIVE_FEATURES", "AVAIL", "AVAIL_FEATURES", "DEFAULTTIME", "GRES", "GRES_USED", "HOSTNAMES",
    "NODE_ADDR", "PARTITION", "PRIO_TIER", "REASON", "STATE", "STATECOMPLETE", "TIMELIMIT", "TIMESTAMP", "USER",
))  # fmt: skip
"""Titles of what nodes must have in common to stand on one line. Counts are added up, of sizes the least is shown."""

ALL = "abcdefghlmnoprstuvwzABCDEFGHILMNOPRSTUVXYZ"
"""`%all`: every letter, in sinfo's order."""
