"""`sinfo`: partitions and nodes. sinfo(1)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from agent.api import program
from agent.api.errors import ApiError
from agent.api.hostlist import compress
from agent.api.queue import Drain, Partition, Reservation
from tui.slurm import ask, columns, job, nodes, times
from tui.slurm.argv import Options, ToolError, Words
from tui.slurm.nodes import Host

HELP = """\
Usage: sinfo [OPTIONS]
  -N, --Node  -l, --long  -s, --summarize  -R, --list-reasons  -T, --reservation  -h, --noheader  --json
  -p, --partition=NAMES  -n, --nodes=NAMES  -t, --states=STATES  -d, --dead  -r, --responding  -i, --iterate=SECONDS
  -o, --format=FORMAT     "%9P %.5a %.10l %.6D %.6t %N"
  -O, --Format=FIELDS     "nodelist:10,partition,gres,gresused,statelong"
"""
OPTIONS = Options(
    "Format:O= Node:N all:a cluster! clusters:M=! dead:d exact:e federation:F! format:o= future help hide iterate:i= "
    "json? list-reasons:R local long:l noconvert nodes:n= noheader:h partition:p= reservation:T responding:r "
    "states:t= summarize:s usage verbose:v version:V yaml!"
)
DEFAULT = "%9P %.5a %.10l %.6D %.6t %N"
LONG = "%9P %.5a %.10l %.10s %.4r %.8h %.10g %.6D %.11T %N"
SUMMARY = "%9P %.5a %.10l %.16F %N"
BY_NODE = "%{}N %.6D %.9P %6t"
BY_NODE_LONG = "%{}N %.6D %.9P %.11T %4c %.8z %.6m %.8d %.6w %.8f %20E"
REASONS = "%20E %9u %19H %N"
REASONS_LONG = "%20E %12U %19H %6t %N"


class Row(msgspec.Struct, frozen=True):
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


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if words.rest:
        raise ToolError(f"Unrecognized option: {program.printable(words.rest[0])}")
    pause = words.last("iterate")
    if pause is not None and not (pause.isascii() and pause.isdigit() and 0 < int(pause) < 10**6):
        raise ToolError(f"--iterate={program.printable(pause)} is not a number of seconds; write 1 or more")
    queue = ask.Queue.open(environ)
    while True:
        _list(queue, words, environ)
        if pause is None:
            return 0
        print(flush=True)
        time.sleep(int(pause))


def _list(queue: ask.Queue, words: Words, environ: Mapping[str, str]) -> None:
    now = time.time()
    hosts = nodes.hosts(queue.nodes(), queue.jobs(nodes.HOLDING), now, _reservations(queue))
    if "reservation" in words:
        _list_reservations(words, _reservations(queue), compress([host.name for host in hosts]), now)
        return
    rules = queue.rules()
    default = environ.get("SINFO_PARTITION", "")
    wanted = words.listed("partition") or [name for name in default.split(",") if name]
    partitions = [each for each in rules.partitions if not wanted or each.name in wanted]
    rows = _rows(words, partitions, [host for host in hosts if _fits(host, words)])
    if "json" in words:
        from tui.slurm import shapes

        shapes.print_json({"sinfo": [_shape(row) for row in rows], "meta": shapes.meta(sys.argv), "errors": []})
        return
    header = "noheader" not in words
    if "long" in words and header and "summarize" not in words:
        print(times.headline(now))
    widest = max((len(host.name) for host in hosts), default=0)
    for line in columns.lines(_columns(words, environ, max(9, widest)), rows, header=header):
        print(line)


def _list_reservations(words: Words, found: Sequence[Reservation], where: str, now: float) -> None:
    """`-T`: what is reserved, in place of the nodes; sinfo.c `print_sinfo_reservation`."""
    if not found:
        print("No reservations in the system")
        return
    width = max(10, *(len(each.name) for each in found))
    titles = ("RESV_NAME", "STATE", "START_TIME", "END_TIME", "DURATION", "NODELIST")
    rows = [
        (each.name, "ACTIVE" if each.start_at <= now < each.end_at else "INACTIVE", times.stamp(each.start_at),
         times.stamp(each.end_at), times.full(each.end_at - each.start_at), where)
        for each in found
    ]  # fmt: skip
    for name, state, start, end, span, host in rows if "noheader" in words else [titles, *rows]:
        print(f"{name:<{width}}  {state:>8}  {start:>19}  {end:>19}  {span:>11}  {host}")


def _columns(words: Words, environ: Mapping[str, str], name_width: int) -> list[columns.Column[Row]]:
    if "Format" in words:
        return columns.by_names("sinfo", words.last("Format") or "", NAMED, "node")
    long = "long" in words
    plain = environ.get("SINFO_FORMAT") or DEFAULT
    if "list-reasons" in words:
        plain = REASONS_LONG if long else REASONS
    elif "summarize" in words:
        plain = SUMMARY
    elif "Node" in words:
        plain = (BY_NODE_LONG if long else BY_NODE).format(name_width)
    elif long:
        plain = LONG
    return columns.by_letters("sinfo", words.last("format") or plain, LETTERS, "node")


def _rows(words: Words, partitions: Sequence[Partition], hosts: Sequence[Host]) -> list[Row]:
    if "list-reasons" in words:
        default = partitions[0] if partitions else Partition(name="main")
        return [Row(default, (host,), drain) for host in hosts for drain in host.drains]
    if "Node" in words:
        return [Row(each, (host,)) for host in hosts for each in partitions]
    if "summarize" in words:
        return [Row(each, tuple(hosts)) for each in partitions]
    rows = []
    for each in partitions:
        alike: dict[object, list[Host]] = {}
        for host in hosts:
            alike.setdefault((host.state, host.gres if "Format" in words else None), []).append(host)
        rows += [Row(each, tuple(group)) for group in alike.values()]
        if not hosts:
            rows.append(Row(each, ()))
    return rows


def _fits(host: Host, words: Words) -> bool:
    if "nodes" in words:
        from agent.api.hostlist import HostListError, expand

        try:
            if host.name not in expand(words.last("nodes") or ""):
                return False
        except HostListError as error:
            raise ToolError(f"Invalid node list: {program.printable(words.last('nodes') or '')} {error}") from None
    if ("dead" in words and host.responds) or ("responding" in words and not host.responds):
        return False
    named = [each.lower() for each in words.listed("states")]
    short = host.state.rstrip("*")
    return not named or "all" in named or any(each in (short, host.long_state.rstrip("*")) for each in named)


def _reservations(queue: ask.Queue) -> list[Reservation]:
    try:
        return queue.client.reservations()
    except ApiError:
        return []  # an older server has none


def _shape(row: Row) -> dict[str, object]:
    host = row.host
    states = [] if host is None else [host.long_state.rstrip("*").upper()]
    return {
        "partition": {"name": row.partition.name, "partition": {"state": [row.partition.state]}},
        "node": {"state": states},
        "nodes": {"allocated": row.count("alloc", "mix", "drng"), "idle": row.count("idle", "resv"),
                  "total": len(row.hosts), "nodes": [each.name for each in row.hosts]},
        "cpus": {"allocated": sum(each.cpus_used for each in row.hosts), "total": sum(each.cpus for each in row.hosts)},
        "gres": {"total": host.gres if host else "", "used": f"gpu:{sum(each.gpus_used for each in row.hosts)}"},
        "reason": {"description": row.reason.reason if row.reason else ""},
    }  # fmt: skip


def _of_host(value: object, none: str = "0") -> str:
    return none if value is None else str(value)


def _mebi(count: int | None) -> str:
    return "0" if count is None else str(count // 2**20)


LETTERS: columns.Fields[Row] = {
    "a": ("AVAIL", lambda row: nodes.partition_up(row.partition)),
    "A": ("NODES(A/I)", lambda row: "/".join(row.four.split("/")[:2])),
    "b": ("ACTIVE_FEATURES", lambda row: "(null)"),
    "B": ("MAX_CPUS_PER_NODE", lambda row: "UNLIMITED"),
    "c": ("CPUS", lambda row: _of_host(row.host.cpus if row.host else None)),
    "C": ("CPUS(A/I/O/T)", lambda row: _cpus(row)),
    "d": ("TMP_DISK", lambda row: "0"),
    "D": ("NODES", lambda row: str(len(row.hosts))),
    "e": ("FREE_MEM", lambda row: _mebi(row.host.node.memory_available_bytes if row.host and row.host.node else None)),
    "E": ("REASON", lambda row: _reason(row)),
    "f": ("AVAIL_FEATURES", lambda row: "(null)"),
    "F": ("NODES(A/I/O/T)", lambda row: row.four),
    "g": ("GROUPS", lambda row: "all"),
    "G": ("GRES", lambda row: row.host.gres if row.host else "(null)"),
    "h": ("OVERSUBSCRIBE", lambda row: "NO"),
    "H": ("TIMESTAMP", lambda row: times.stamp(row.reason.at if row.reason else None)),
    "I": ("PRIO_JOB_FACTOR", lambda row: "1"),
    "l": ("TIMELIMIT", lambda row: times.short(row.partition.max_time_s, "infinite")),
    "L": ("DEFAULTTIME", lambda row: times.short(row.partition.default_time_s, "n/a")),
    "m": ("MEMORY", lambda row: _mebi(row.host.node.memory_total_bytes if row.host and row.host.node else None)),
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
    "available": LETTERS["a"],
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
    "statecomplete": LETTERS["T"],
    "time": LETTERS["l"],
    "timestamp": LETTERS["H"],
    "user": LETTERS["u"],
    "userlong": LETTERS["U"],
    "version": LETTERS["v"],
    "weight": LETTERS["w"],
}
"""sinfo(1), `-O`."""
