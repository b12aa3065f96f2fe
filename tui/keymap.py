"""All keys in one table: bindings, footers, the help screen and the palette are made from it.

Rules kept here: a lower-case letter only looks or moves, a capital changes something and asks first; no key that tmux,
screen or flow control takes (ctrl+a, ctrl+b, ctrl+z, ctrl+s, ctrl+q) has an action of ours. No Textual in here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """Where a key works."""

    APP = "everywhere"
    LIST = "in a list"
    JOBS = "in a list of jobs"
    MACHINE = "on a node or a GPU"
    LOG = "in a log"
    JOB = "on a job"
    INCIDENT = "in the list of incidents"
    INVENTORY = "in an inventory"
    PROCESSES = "in the list of processes"
    NODE = "on the page of a node"
    GPU = "on the page of a GPU"
    PAST = "over a picture of the past"
    LICENCE = "on the licence"
    USAGE = "in the usage of a month"
    SHEET = "on a page of values"
    FORM = "in the submit form"
    IMPORT = "in the form for licences"
    CODE = "before a QR code"
    ASK = "in a question"
    CHOOSE = "when an array is cancelled"
    TYPED = "in a question with a line to type in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One action and the keys that start it."""

    scope: Scope
    keys: str
    """As Textual names them, joined by commas."""
    action: str
    label: str
    """Two words at most, for the footer."""
    help: str
    """For the help screen and the palette."""
    shown: str = ""
    """How the keys are written for people, where that differs from `keys`."""
    brief: str = ""
    """The label where there is little room."""
    footer: bool = False
    spare: bool = False
    """Left out of the footer first."""
    palette: bool = False

    @property
    def written(self) -> str:
        """The keys for people."""
        return self.shown or self.keys.replace(",", " ")


def _on_jobs(scope: Scope, which: str) -> tuple[Key, ...]:
    """What may be asked of jobs beside cancel: the same keys in lists and on a job's page."""
    named = (
        ("H", "hold", f"keep {which} from starting; asks first"),
        ("U", "release", f"let {which} start again; asks first"),
        ("Q", "requeue", f"stop {which} to run again; asks first"),
        ("T", "top", f"put {which} first; asks first"),
        ("P", "nice", "change the nice value; asks for it"),
    )
    return tuple(
        Key(scope=scope, keys=key, action=f"ask('{name}')", label=name, help=text, palette=True)
        for key, name, text in named
    )


KEYS: tuple[Key, ...] = (
    Key(scope=Scope.APP, keys="1", action="show('overview')", label="Overview", brief="Over",
        help="nodes, GPUs and queue at a glance", footer=True, palette=True),
    Key(scope=Scope.APP, keys="2", action="show('nodes')", label="Nodes", help="all nodes, and the GPUs of one",
        footer=True, palette=True),
    Key(scope=Scope.APP, keys="3", action="show('jobs')", label="Jobs",
        help="the queue, and the jobs that have ended", footer=True, palette=True),
    Key(scope=Scope.APP, keys="4", action="show('incidents')", label="Incidents", brief="Incid",
        help="what is wrong with GPUs and nodes, and what to do", footer=True, palette=True),
    Key(scope=Scope.APP, keys="5", action="show('processes')", label="Processes", brief="Proc",
        help="who uses the GPUs of all nodes, and which job", footer=True, palette=True),
    Key(scope=Scope.APP, keys="6", action="show('licence')", label="Licence", brief="Lic",
        help="stage, seats and who holds them, history", footer=True, palette=True),
    Key(scope=Scope.APP, keys="7", action="usage", label="Usage", footer=True, palette=True,
        help="the month's GPU time by user and model; prepaid hours left"),
    Key(scope=Scope.LIST, keys="enter", action="open", label="open", help="open the row under the cursor",
        footer=True),
    Key(scope=Scope.LIST, keys="j,down", action="move(1)", label="down", help="one row down", shown="j ↓"),
    Key(scope=Scope.LIST, keys="k,up", action="move(-1)", label="up", help="one row up", shown="k ↑"),
    Key(scope=Scope.LIST, keys="ctrl+d,pagedown", action="page(1)", label="page down", help="half a page down",
        shown="ctrl+d"),
    Key(scope=Scope.LIST, keys="ctrl+u,pageup", action="page(-1)", label="page up", help="half a page up",
        shown="ctrl+u"),
    Key(scope=Scope.LIST, keys="g,home", action="move_to(0)", label="first", help="to the first row", shown="g"),
    Key(scope=Scope.LIST, keys="G,end", action="move_to(-1)", label="last", help="to the last row", shown="G"),
    Key(scope=Scope.LIST, keys="slash", action="filter", label="filter",
        help="show only rows with a word; esc clears it", shown="/", footer=True),
    Key(scope=Scope.JOBS, keys="L", action="open", label="log",
        help="open the log of the job, or the tasks of the array"),
    Key(scope=Scope.JOBS, keys="space", action="mark", label="mark",
        help="mark a job, to do the same to several at once"),
    Key(scope=Scope.JOBS, keys="u", action="unmark", label="unmark", help="forget all marks"),
    Key(scope=Scope.JOBS, keys="X", action="cancel", label="cancel",
        help="cancel it, or the marked ones; asks first", footer=True, palette=True),
    *_on_jobs(Scope.JOBS, "it, or the marked ones,"),
    Key(scope=Scope.MACHINE, keys="D", action="drain", label="drain", footer=True, palette=True,
        help="give it no new job; asks for the reason"),
    Key(scope=Scope.MACHINE, keys="U", action="resume", label="resume", palette=True,
        help="let jobs start there again; asks first"),
    Key(scope=Scope.INCIDENT, keys="A", action="acknowledge", label="acknowledge", brief="seen", footer=True,
        palette=True, help="say that you have seen it, or the marked ones; asks first"),
    Key(scope=Scope.INCIDENT, keys="C", action="clear", label="clear", footer=True, palette=True,
        help="say that it is over, or the marked ones; asks first"),
    Key(scope=Scope.INCIDENT, keys="D", action="drain", label="drain", palette=True,
        help="give its GPU, or the node, no new job; asks for the reason"),
    Key(scope=Scope.INCIDENT, keys="U", action="resume", label="resume", palette=True, footer=True, spare=True,
        help="let jobs start on its GPU again; asks first"),
    Key(scope=Scope.INCIDENT, keys="b", action="job", label="job", footer=True, palette=True,
        help="open the job that it hit"),
    Key(scope=Scope.INCIDENT, keys="n", action="node", label="node", footer=True, spare=True, palette=True,
        help="open its node"),
    Key(scope=Scope.INCIDENT, keys="i", action="inventory", label="inventory", brief="invent.", footer=True,
        spare=True, palette=True, help="the GPUs that its node is known to have"),
    Key(scope=Scope.INCIDENT, keys="o", action="over", label="over too", brief="over", footer=True, palette=True,
        help="show those that are over as well, or hide them"),
    Key(scope=Scope.INCIDENT, keys="space", action="mark", label="mark",
        help="mark an incident, to do the same to several at once"),
    Key(scope=Scope.INCIDENT, keys="asterisk", action="mark_all", label="mark all", shown="*",
        help="mark all that the filter shows"),
    Key(scope=Scope.INCIDENT, keys="u", action="unmark", label="unmark", help="forget all marks"),
    Key(scope=Scope.INVENTORY, keys="A", action="accept", label="accept", footer=True, palette=True,
        help="take the GPUs that are there now for right; asks first"),
    Key(scope=Scope.PROCESSES, keys="s", action="sort", label="sort", footer=True, palette=True,
        help="sort by the next: memory, SM, user, node, job, since, pid"),
    Key(scope=Scope.PROCESSES, keys="o", action="turn", label="turn", palette=True, help="turn the order round"),
    Key(scope=Scope.PROCESSES, keys="b", action="job", label="job", footer=True, palette=True, help="open its job"),
    Key(scope=Scope.PROCESSES, keys="n", action="node", label="node", palette=True, help="open its node"),
    Key(scope=Scope.PROCESSES, keys="X", action="cancel", label="end job", footer=True, palette=True,
        help="cancel its job; asks first"),
    Key(scope=Scope.NODE, keys="i", action="host", label="host", footer=True, palette=True,
        help="CPU, memory, disk, network, and how the GPUs are linked"),
    Key(scope=Scope.NODE, keys="v", action="inventory", label="inventory", palette=True,
        help="the GPUs that it is known to have"),
    Key(scope=Scope.GPU, keys="left_square_bracket", action="other(-1)", label="GPU before", shown="[",
        help="the GPU before"),
    Key(scope=Scope.GPU, keys="right_square_bracket", action="other(1)", label="next GPU", shown="]", footer=True,
        help="the next GPU of the node"),
    Key(scope=Scope.GPU, keys="b", action="job", label="job", footer=True, palette=True, help="open its job"),
    Key(scope=Scope.GPU, keys="n", action="node", label="node", palette=True, help="open its node"),
    Key(scope=Scope.GPU, keys="D", action="drain", label="drain", footer=True, palette=True,
        help="give it no new job; asks for the reason"),
    Key(scope=Scope.GPU, keys="U", action="resume", label="resume", palette=True,
        help="let jobs start on it again; asks first"),
    Key(scope=Scope.PAST, keys="l,right", action="metric(1)", label="metric", shown="l →", footer=True, palette=True,
        help="the next metric"),
    Key(scope=Scope.PAST, keys="h,left", action="metric(-1)", label="before", shown="h ←", help="the metric before"),
    Key(scope=Scope.PAST, keys="plus,equals_sign", action="span(1)", label="span", shown="+", footer=True,
        palette=True, help="look further back: 10 min, 1 h, 6 h, 2 d, 30 d, 1 y"),
    Key(scope=Scope.PAST, keys="minus", action="span(-1)", label="less", shown="-", help="look less far back"),
    Key(scope=Scope.LICENCE, keys="u", action="app.usage", label="usage", footer=True,
        help="the GPU time of the month: by user, account and model"),
    Key(scope=Scope.USAGE, keys="s", action="next_by", label="next list", brief="next", footer=True, palette=True,
        help="the next of users, accounts and models"),
    Key(scope=Scope.USAGE, keys="h,left", action="month(-1)", label="month before", brief="before", shown="h ←",
        footer=True, palette=True, help="the month before"),
    Key(scope=Scope.USAGE, keys="l,right", action="month(1)", label="month after", brief="after", shown="l →",
        footer=True, spare=True, help="the month after"),
    Key(scope=Scope.SHEET, keys="j,down", action="scroll(1)", label="down", help="one line down", shown="j ↓"),
    Key(scope=Scope.SHEET, keys="k,up", action="scroll(-1)", label="up", help="one line up", shown="k ↑"),
    Key(scope=Scope.SHEET, keys="ctrl+d,pagedown", action="page(1)", label="page down", help="half a page down",
        shown="ctrl+d"),
    Key(scope=Scope.SHEET, keys="ctrl+u,pageup", action="page(-1)", label="page up", help="half a page up",
        shown="ctrl+u"),
    Key(scope=Scope.SHEET, keys="g,home", action="top", label="top", help="to the first line", shown="g"),
    Key(scope=Scope.SHEET, keys="G,end", action="bottom", label="end", help="to the last line", shown="G"),
    Key(scope=Scope.LOG, keys="f", action="follow", label="follow", help="stay at the end as the log grows",
        footer=True),
    Key(scope=Scope.LOG, keys="w", action="wrap", label="wrap", help="fold long lines, or let them run off",
        footer=True),
    Key(scope=Scope.LOG, keys="slash", action="search", label="search", help="search the log", shown="/",
        footer=True),
    Key(scope=Scope.LOG, keys="n", action="match(1)", label="next", help="next match"),
    Key(scope=Scope.LOG, keys="N", action="match(-1)", label="previous", help="previous match"),
    Key(scope=Scope.LOG, keys="j,down", action="scroll(1)", label="down", help="one line down", shown="j ↓"),
    Key(scope=Scope.LOG, keys="k,up", action="scroll(-1)", label="up", help="one line up", shown="k ↑"),
    Key(scope=Scope.LOG, keys="l,right", action="shift(8)", label="right", help="to the right in long lines",
        shown="l →"),
    Key(scope=Scope.LOG, keys="h,left", action="shift(-8)", label="left", help="to the left in long lines",
        shown="h ←"),
    Key(scope=Scope.LOG, keys="ctrl+d,pagedown", action="page(1)", label="page down", help="half a page down",
        shown="ctrl+d"),
    Key(scope=Scope.LOG, keys="ctrl+u,pageup", action="page(-1)", label="page up", help="half a page up",
        shown="ctrl+u"),
    Key(scope=Scope.LOG, keys="g,home", action="top", label="top", help="to the first line", shown="g"),
    Key(scope=Scope.LOG, keys="G,end", action="bottom", label="end", help="to the last line, and follow", shown="G"),
    Key(scope=Scope.JOB, keys="i", action="story", label="details", footer=True, palette=True,
        help="why it waits, what it used, its history; again: the log"),
    Key(scope=Scope.JOB, keys="X", action="cancel", label="cancel", help="cancel this job; asks first", footer=True,
        palette=True),
    *_on_jobs(Scope.JOB, "it"),
    Key(scope=Scope.FORM, keys="f2", action="send", label="submit", help="hand the script to the queue", shown="F2",
        footer=True),
    Key(scope=Scope.FORM, keys="f3", action="plan", label="preview",
        help="ask when and where it would start; nothing is stored", shown="F3", footer=True),
    Key(scope=Scope.FORM, keys="escape", action="dismiss", label="close", help="close without submitting",
        shown="esc", footer=True),
    Key(scope=Scope.IMPORT, keys="f2", action="way('file')", label="file", help="choose the vendor's file", shown="F2",
        footer=True),
    Key(scope=Scope.IMPORT, keys="f3", action="way('paste')", label="paste", help="paste the vendor's file",
        shown="F3", footer=True),
    Key(scope=Scope.IMPORT, keys="f4", action="way('request')", label="ask", help="make a request to the vendor",
        shown="F4", footer=True),
    Key(scope=Scope.IMPORT, keys="f5", action="go", label="go", help="take the file or the text; make the request",
        shown="F5", footer=True),
    Key(scope=Scope.IMPORT, keys="f6", action="code", label="QR", help="show the request as a QR code", shown="F6",
        footer=True),
    Key(scope=Scope.IMPORT, keys="escape", action="dismiss", label="close",
        help="close; what was pasted or made is kept", shown="esc", footer=True),
    Key(scope=Scope.CODE, keys="escape,q", action="dismiss", label="close", help="back to the form", shown="esc q",
        footer=True),
    Key(scope=Scope.ASK, keys="y", action="answer(True)", label="yes", help="do it", footer=True),
    Key(scope=Scope.ASK, keys="n,escape", action="answer(False)", label="no", help="leave it as it is", shown="n esc",
        footer=True),
    Key(scope=Scope.CHOOSE, keys="a", action="choose('all')", label="all", help="all tasks that have not ended",
        footer=True),
    Key(scope=Scope.CHOOSE, keys="w", action="choose('waiting')", label="waiting", help="those that have not begun",
        footer=True),
    Key(scope=Scope.CHOOSE, keys="n,escape", action="choose('')", label="none", help="leave the array as it is",
        shown="n esc", footer=True),
    Key(scope=Scope.TYPED, keys="escape", action="leave_it", label="leave", help="leave it as it is; enter does it",
        shown="esc", footer=True),
    Key(scope=Scope.APP, keys="S", action="submit", label="submit", help="submit a job script", footer=True,
        spare=True, palette=True),
    Key(scope=Scope.APP, keys="I", action="activate", label="import licence", palette=True,
        help="activate a licence: file, paste, or a request to the vendor"),
    Key(scope=Scope.APP, keys="tab", action="focus_next", label="next pane", help="to the next pane"),
    Key(scope=Scope.APP, keys="escape", action="leave", label="back", help="back to where you came from",
        shown="esc"),
    Key(scope=Scope.APP, keys="r", action="retry", label="retry", help="try the link again now", palette=True),
    Key(scope=Scope.APP, keys="ctrl+t", action="other_theme", label="theme", help="change between dark and light",
        palette=True),
    Key(scope=Scope.APP, keys="ctrl+p", action="command_palette", label="palette", help="find a command by its name"),
    Key(scope=Scope.APP, keys="question_mark", action="help", label="help", help="this list", shown="?", footer=True,
        palette=True),
    Key(scope=Scope.APP, keys="q", action="quit", label="quit", help="leave; jobs go on", footer=True, palette=True),
)  # fmt: skip


def keys_of(*scopes: Scope) -> list[Key]:
    """The keys of some scopes, in the order of the table."""
    return [key for key in KEYS if key.scope in scopes]


def footer(scopes: Iterable[Scope], *, detail: bool = False) -> list[list[tuple[str, str]]]:
    """Key and label of what the bottom line shows, in forms from the longest to the shortest.

    A `detail` screen tells the way back and not the main screens.
    """
    wanted = [key for key in KEYS if key.scope in (*scopes, Scope.APP)]
    shown = [key for key in wanted if (key.action == "leave" and detail) or (key.footer and not _is_main(key, detail))]
    mains = [key for key in shown if _is_main(key, True)]
    rest = [key for key in shown if key not in mains]
    few = [key for key in rest if not key.spare]
    numbers = [(f"{mains[0].keys}-{mains[-1].keys}", "screens")] if mains else []
    return [
        _labelled(shown),
        _labelled(mains, brief=True) + _labelled(rest, brief=True),
        _labelled(mains, brief=True) + _labelled(few, brief=True),
        numbers + _labelled(rest, brief=True),
        numbers + _labelled(few, brief=True),
    ]


def _labelled(keys: Iterable[Key], *, brief: bool = False) -> list[tuple[str, str]]:
    return [(key.written, (brief and key.brief) or key.label) for key in keys]


def _is_main(key: Key, detail: bool) -> bool:
    return detail and (key.action.startswith("show(") or key.action == "usage")


def as_markdown() -> str:
    """The table for the documentation."""
    lines = ["| where | key | does |", "|---|---|---|"]
    for scope in Scope:
        lines += [f"| {scope.value} | `{key.written}` | {key.help} |" for key in keys_of(scope)]
    return "\n".join(lines) + "\n"
