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
    footer: bool = False
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
    Key(scope=Scope.APP, keys="1", action="show('overview')", label="Overview",
        help="nodes, GPUs and queue at a glance", footer=True, palette=True),
    Key(scope=Scope.APP, keys="2", action="show('nodes')", label="Nodes", help="all nodes, and the GPUs of one",
        footer=True, palette=True),
    Key(scope=Scope.APP, keys="3", action="show('jobs')", label="Jobs",
        help="the queue, and the jobs that have ended", footer=True, palette=True),
    Key(scope=Scope.APP, keys="5", action="show('licence')", label="Licence",
        help="stage, seats and who holds them, history", palette=True),
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
        help="why it waits or was warned, what it used, its history; again: the log"),
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
        palette=True),
    Key(scope=Scope.APP, keys="A", action="activate", label="activate", palette=True,
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


def footer(scopes: Iterable[Scope], *, detail: bool = False) -> list[tuple[str, str]]:
    """Key and label of what the bottom line shows; a `detail` screen tells the way back and not the main screens."""
    wanted = [key for key in KEYS if key.scope in (*scopes, Scope.APP)]
    shown = [key for key in wanted if (key.action == "leave" and detail) or (key.footer and not _is_main(key, detail))]
    return [(key.written, key.label) for key in shown]


def _is_main(key: Key, detail: bool) -> bool:
    return detail and key.action.startswith("show(")


def as_markdown() -> str:
    """The table for the documentation."""
    lines = ["| where | key | does |", "|---|---|---|"]
    for scope in Scope:
        lines += [f"| {scope.value} | `{key.written}` | {key.help} |" for key in keys_of(scope)]
    return "\n".join(lines) + "\n"
