"""`sinfo`: partitions and nodes. sinfo(1)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from agent.api import program
from agent.api.hostlist import compress
from agent.api.queue import Partition, Reservation
from tui.slurm import ask, columns, nodes, times
from tui.slurm.argv import Options, ToolError, Words
from tui.slurm.nodes import Host
from tui.slurm.sinfo_fields import ALL, LETTERS, NAMED, PARTING, Row, memory_bytes

HELP = """\
Usage: sinfo [OPTIONS]
  -N, --Node  -l, --long  -s, --summarize  -R, --list-reasons  -T, --reservation  -h, --noheader  --json
  -e, --exact: nodes that differ in CPUs, memory, features or GPUs each on a line of their own
  -p, --partition=NAMES  -n, --nodes=NAMES  -t, --states=STATES  -d, --dead  -r, --responding  -i, --iterate=SECONDS
  -o, --format=FORMAT     "%9P %.5a %.10l %.6D %.6t %N"
  -O, --Format=FIELDS     "nodelist:10,partition,gres,gresused,statelong"
"""
_STATES = (
    "all", "alloc", "allocated", "cloud", "comp", "completing", "down", "drain", "drained", "draining", "drng", "fail",
    "failing", "future", "futr", "idle", "maint", "mix", "mixed", "no_respond", "npc", "perfctrs", "planned", "plnd",
    "power_down", "power_up", "powered_down", "powering_down", "powering_up", "reboot", "reserved", "resv", "unk",
    "unknown",
)  # fmt: skip
"""What `-t` takes, in any case."""
OPTIONS = Options(
    "Format:O= Node:N all:a cluster= clusters:M= dead:d exact:e federation:F! format:o= future help hide iterate:i= "
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


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if words.rest:
        raise ToolError(f"Unrecognized option: {program.printable(words.rest[0])}")
    pause = words.last("iterate")
    if pause is not None and not (pause.isascii() and pause.isdigit() and 0 < int(pause) < 10**6):
        raise ToolError(f"--iterate={program.printable(pause)} is not a number of seconds; write 1 or more")
    queue = ask.Queue.open(environ)
    queue.check_clusters(words, header=not {"noheader", "json"} & words.said.keys())
    while True:
        _list(queue, words, environ)
        if pause is None:
            return 0
        print(flush=True)
        time.sleep(int(pause))


def _list(queue: ask.Queue, words: Words, environ: Mapping[str, str]) -> None:
    now = time.time()
    statuses = queue.nodes()
    reservations = queue.reservations([each.name for each in statuses])
    hosts = nodes.hosts(statuses, queue.jobs(nodes.HOLDING), now, reservations)
    if "reservation" in words:
        _list_reservations(words, nodes.reserved(hosts), now)
        return
    rules = queue.rules()
    default = environ.get("SINFO_PARTITION", "")
    for state in words.listed("states"):
        if state.lower() not in _STATES:
            known = f"sinfo: error: valid states: {','.join(_STATES)}"
            raise ToolError(f'sinfo: error: Bad state string: "{program.printable(state)}"\n{known}', bare=True)
    wanted = words.listed("partition") or [name for name in default.split(",") if name]
    partitions = [each for each in rules.partitions if not wanted or each.name in wanted]
    widest = max((len(host.name) for host in hosts), default=0)
    shown = _columns(words, environ, max(9, widest))
    rows = _rows(words, partitions, [host for host in hosts if _fits(host, words)], shown)
    if "json" in words:
        from tui.slurm import shapes

        shapes.print_json(shapes.nodes(rows, sys.argv, queue.cluster()))
        return
    header = "noheader" not in words
    if header and (("long" in words and "summarize" not in words) or "iterate" in words):
        print(times.headline(now))
    for line in columns.lines(shown, rows, header=header):
        print(line)


def _list_reservations(words: Words, found: Sequence[tuple[Reservation, list[Host]]], now: float) -> None:
    """`-T`: what is reserved, in place of the nodes; as recorded in tests/data/slurm/sinfo_T.txt."""
    if not found:
        print("No reservations in the system")
        return
    if "long" in words and "noheader" not in words:
        print(times.headline(now))
    width = max(len("RESV_NAME"), *(len(each.name) for each, _ in found))
    titles = ("RESV_NAME", "STATE", "START_TIME", "END_TIME", "DURATION", "NODELIST")
    rows = [
        (each.name, "ACTIVE" if each.start_at <= now < each.end_at else "INACTIVE", times.stamp(each.start_at),
         times.stamp(each.end_at), times.full(each.end_at - each.start_at), compress([host.name for host in where]))
        for each, where in found
    ]  # fmt: skip
    for name, state, start, end, span, host in rows if "noheader" in words else [titles, *rows]:
        print(f"{name:<{width}}  {state:>8}  {start:>19}  {end:>19}  {span:>11}  {host}")


def _columns(words: Words, environ: Mapping[str, str], name_width: int) -> list[columns.Column[Row]]:
    if "json" in words:
        return columns.by_letters("sinfo", "%P%T%G", LETTERS, "node")
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
    text = (words.last("format") or plain).replace("%all", "|".join(f"%{letter}" for letter in ALL))
    return columns.by_letters("sinfo", text, LETTERS, "node")


def _rows(
    words: Words, partitions: Sequence[Partition], hosts: Sequence[Host], shown: Sequence[columns.Column[Row]]
) -> list[Row]:
    """A line each for nodes alike in all that is shown; a node of two partitions is one where neither is shown."""
    if "list-reasons" in words:
        default = partitions[0] if partitions else Partition(name="main")
        return [Row(default, (host,), drain) for host in hosts for drain in host.drains]
    if "Node" in words:
        return [Row(each, (host,)) for host in hosts for each in partitions]
    if "summarize" in words:
        return [Row(each, tuple(hosts)) for each in partitions]
    found: dict[tuple[object, ...], Row] = {}
    for each in partitions:
        for host in hosts or (None,):
            alone = Row(each, () if host is None else (host,))
            same = _parting(alone, words, shown)
            known = found.setdefault(same, alone)
            if host is not None and all(one is not host for one in known.hosts):
                found[same] = Row(known.partition, (*known.hosts, host))
    return list(found.values())


def _parting(alone: Row, words: Words, shown: Sequence[columns.Column[Row]]) -> tuple[object, ...]:
    """What a node of a partition has in common with all that stand on its line."""
    said = [each.value(alone) for each in shown if each.value is not None and each.title in PARTING]
    host = alone.host
    if host is None or "exact" not in words:
        return tuple(said)
    return (*said, host.cpus, memory_bytes(host), host.features, host.gres)


def _fits(host: Host, words: Words) -> bool:
    if "nodes" in words:
        from agent.api.hostlist import HostListError

        try:
            if host.name not in ask.expand_nodes(words.last("nodes") or ""):
                return False
        except HostListError as error:
            raise ToolError(f"Invalid node list: {program.printable(words.last('nodes') or '')} {error}") from None
    if ("dead" in words and host.responds) or ("responding" in words and not host.responds):
        return False
    named = [each.lower() for each in words.listed("states")]
    short = host.state.rstrip("*")
    words_of = {short, host.long_state.rstrip("*"), *(("drain",) if short == "drng" else ())}
    return not named or "all" in named or any(each in words_of for each in named)
