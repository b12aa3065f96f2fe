"""The questions: cancel these jobs? trust this host key? And the list of keys.

Rules kept here: a question names everything it is about; its default is no, and so is esc; the letters y and n answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button

from agent.api.hostkeys import UnknownHostError
from agent.api.types import Job, JobState
from tui import rows, safe, units
from tui.keymap import Scope, keys_of
from tui.spans import Role, Span
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel

_LISTED = 12
"""Jobs named one by one in a question; the rest is counted."""


class Question(ModalScreen[bool]):
    """Lines of text and two buttons; no is the default."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.ASK)

    def __init__(self, title: str, lines: Sequence[Sequence[Span]], *, yes: str, no: str) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._yes = yes
        self._no = no

    def compose(self) -> ComposeResult:
        """A framed box in the middle."""
        with Vertical(id="box"):
            yield Panel(id="words")
            with Horizontal(id="buttons"):
                yield Button(self._no, id="no", variant="primary", compact=True)
                yield Button(self._yes, id="yes", variant="error", compact=True)

    def on_mount(self) -> None:
        """The safe answer has the focus."""
        words = self.query_one("#words", Panel)
        box = self.query_one("#box", Vertical)
        box.border_title, box.border_subtitle = Content(self._title), "y yes · n no · tab moves"
        words.show(self._lines)
        self.query_one("#no", Button).focus()

    def action_answer(self, answer: bool) -> None:
        """Answer by key."""
        self.dismiss(answer)

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        """Answer by button."""
        self.dismiss(event.button.id == "yes")


def ask_cancel(jobs: Sequence[Job], wall: float) -> Question:
    """The question before jobs are cancelled: every one is named, with what it has done so far."""
    lines: list[list[Span]] = [[]]
    for job in jobs[:_LISTED]:
        ran = rows.run_time_s(job, wall)
        done = f" {units.elapsed(ran)}" if ran is not None else ""
        who = f"{safe.fit(job.name, 20)} {safe.fit(job.user, 10)} "
        lines.append([(f"  {job.id:>6} ", Role.STRONG), (who, Role.TEXT)])
        lines[-1].append((f"{job.state.value}{done} on {job.node}", Role.DIM))
    if len(jobs) > _LISTED:
        lines.append([(f"         and {len(jobs) - _LISTED} more", Role.STRONG)])
    lines.append([])
    running = sum(job.state is not JobState.PENDING for job in jobs)
    if running:
        verb = "gets" if running == 1 else "get"
        words = f"  {units.count(running, 'running job')} {verb} SIGTERM, and after a while SIGKILL"
        lines.append([(words, Role.WARN)])
        lines.append([("  with every process started. What is not saved by then is lost.", Role.WARN)])
    if running < len(jobs):
        lines.append([(f"  {units.count(len(jobs) - running, 'waiting job')} will not start.", Role.WARN)])
    lines.append([])
    what = f"job {jobs[0].id}" if len(jobs) == 1 else units.count(len(jobs), "job")
    return Question(f"Cancel {what}?", lines, yes=f"Cancel {what}", no="Leave as it is")


def ask_host_key(question: UnknownHostError) -> Question:
    """The question about a host that was never seen."""
    lines: list[list[Span]] = [
        [],
        [("  ", Role.TEXT), (safe.text(question.host), Role.STRONG), (" is not in known_hosts.", Role.TEXT)],
        [],
        [(f"  {safe.text(question.key_type)}", Role.DIM)],
        [("  ", Role.TEXT), (safe.text(question.fingerprint), Role.ACCENT)],
        [],
        [("  Compare it on the host itself: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", Role.DIM)],
        [("  If it differs, somebody stands between: answer no.", Role.WARN)],
        [],
    ]
    return Question("Unknown host key", lines, yes="It is the same: trust and save", no="Do not connect")


class Help(ModalScreen[None]):
    """All keys, from the one table, and what the signs mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "dismiss", "close"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
    ]

    def compose(self) -> ComposeResult:
        """A framed list that scrolls."""
        with VerticalScroll(id="box"):
            yield Panel(id="words")

    def on_mount(self) -> None:
        """Fill it."""
        words = self.query_one("#words", Panel)
        self.query_one("#box").border_title = "Keys and signs"
        self.query_one("#box").border_subtitle = "j k scroll, esc closes"
        words.show(help_lines())
        self.query_one("#box").focus()

    def action_scroll(self, lines: int) -> None:
        """Scroll the list."""
        self.query_one("#box").scroll_relative(y=lines, animate=False)


_SIGNS = (
    ("●", "up, running", "~", "stale: last heard 3 s ago or more"),
    ("x", "lost, failed", "!", "wants attention: hung, hot, not a job"),
    ("○", "pending", "◌", "starting or ending"),
    ("✓", "completed", "-", "cancelled; dashes: nothing known"),
)


def help_lines() -> list[list[Span]]:
    """The keys by where they work, then the signs."""
    lines: list[list[Span]] = []
    for scope in Scope:
        lines.append([(f" {scope.value}", Role.HEAD)])
        lines += [[(f"   {safe.fit(key.written, 10)}", Role.ACCENT), (key.help, Role.TEXT)] for key in keys_of(scope)]
        lines.append([])
    lines.append([(" signs", Role.HEAD)])
    for one, means, other, other_means in _SIGNS:
        lines.append(
            [
                (f"   {one} ", Role.ACCENT),
                (f"{means:<16}", Role.TEXT),
                (f"{other} ", Role.ACCENT),
                (other_means, Role.TEXT),
            ]
        )
    return lines
