"""The shapes of questions: yes or no, a choice, a line to type. And the list of keys.

Rules kept here: a question names everything it is about; its default is no, and so is esc; the letters y and n answer.
What is asked about jobs is in `questions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label

from agent.api.hostkeys import UnknownHostError
from tui import safe
from tui.keymap import Scope, keys_of
from tui.spans import Role, Span
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel


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


class Choice(ModalScreen[str | None]):
    """Lines of text and more than one way to say yes; ends with the way, or with nothing."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.CHOOSE)

    def __init__(
        self, title: str, lines: Sequence[Sequence[Span]], choices: Sequence[tuple[str, str]], no: str
    ) -> None:
        """`choices` are names and labels of the ways."""
        super().__init__()
        self._title = title
        self._lines = lines
        self._choices = choices
        self._no = no

    def compose(self) -> ComposeResult:
        """A framed box in the middle."""
        with Vertical(id="box"):
            yield Panel(id="words")
            with Horizontal(id="buttons"):
                yield Button(Content(self._no), id="no", variant="primary", compact=True)
                for name, label in self._choices:
                    yield Button(Content(label), id=name, variant="error", compact=True)

    def on_mount(self) -> None:
        """The safe answer has the focus."""
        box = self.query_one("#box", Vertical)
        keys = " · ".join(f"{name[0]} {name}" for name, _ in self._choices)
        box.border_title, box.border_subtitle = Content(self._title), f"{keys} · n none · tab moves"
        self.query_one("#words", Panel).show(self._lines)
        self.query_one("#no", Button).focus()

    def action_choose(self, name: str) -> None:
        """Answer by key."""
        if not name or name in [each for each, _ in self._choices]:
            self.dismiss(name or None)

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        """Answer by button."""
        self.dismiss(None if event.button.id == "no" else event.button.id)


class Typed(ModalScreen[str | None]):
    """Lines of text and one to type in; ends with what was typed, or with nothing. Empty is no answer."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.TYPED)

    def __init__(
        self,
        title: str,
        lines: Sequence[Sequence[Span]],
        *,
        label: str,
        hint: str,
        check: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`check` says what is wrong with an answer."""
        super().__init__()
        self._title = title
        self._lines = lines
        self._label = label
        self._hint = hint
        self._check = check

    def compose(self) -> ComposeResult:
        """A framed box in the middle."""
        with Vertical(id="box"):
            yield Panel(id="words")
            with Horizontal():
                yield Label(Content(self._label))
                yield Input(placeholder=self._hint, id="typed", compact=True, select_on_focus=False)
            yield Panel(id="wrong")

    def on_mount(self) -> None:
        """Typing goes to the line."""
        box = self.query_one("#box", Vertical)
        box.border_title, box.border_subtitle = Content(self._title), "enter does it · esc leaves it"
        self.query_one("#words", Panel).show(self._lines)
        self.query_one("#typed", Input).focus()

    def action_leave_it(self) -> None:
        """No answer."""
        self.dismiss(None)

    @on(Input.Submitted, "#typed")
    def typed(self, event: Input.Submitted) -> None:
        """Take the answer, or say what is wrong with it."""
        answer = event.value.strip()
        wrong = f"type a {self._label}, or esc" if not answer else self._check(answer)
        if wrong is None:
            self.dismiss(answer)
        else:
            self.query_one("#wrong", Panel).show([[(f" {wrong}", Role.BAD)]])


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
        Binding("ctrl+d", "page(1)", show=False),
        Binding("ctrl+u", "page(-1)", show=False),
        Binding("g,home", "end(False)", show=False),
        Binding("G,end", "end(True)", show=False),
    ]

    def compose(self) -> ComposeResult:
        """A framed list that scrolls."""
        with VerticalScroll(id="box"):
            yield Panel(id="words")

    def on_mount(self) -> None:
        """Fill it."""
        words = self.query_one("#words", Panel)
        self.query_one("#box").border_title = "Keys and signs"
        self.query_one("#box").border_subtitle = "j k, ctrl+d ctrl+u, g G scroll; esc closes"
        words.show(help_lines())
        self.query_one("#box").focus()

    def action_scroll(self, lines: int) -> None:
        """Scroll the list."""
        self.query_one("#box").scroll_relative(y=lines, animate=False)

    def action_page(self, direction: int) -> None:
        """Scroll by half a page, as in lists."""
        box = self.query_one("#box")
        box.scroll_relative(y=direction * max(1, box.size.height // 2), animate=False)

    def action_end(self, last: bool) -> None:
        """To the first or the last line."""
        box = self.query_one("#box")
        box.scroll_to(y=box.max_scroll_y if last else 0, animate=False)


_SIGNS = (
    ("●", "up, running", "~", "stale: last heard 3 s ago or more"),
    ("x", "lost, failed", "!", "wants attention: hung, hot, idle, not a job"),
    ("○", "pending", "◌", "starting or ending"),
    ("*", "marked, or drained", "%", "in 17_[0-9%2]: most tasks at a time"),
    ("!2", "2 of them critical", "~", "of an incident: a warning; i: worth knowing"),
    ("█", "always at least", "▓", "up to the mean, ░ up to the most, · a gap"),
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
                (f"   {one:<2} ", Role.ACCENT),
                (f"{means:<19}", Role.TEXT),
                (f"{other} ", Role.ACCENT),
                (other_means, Role.TEXT),
            ]
        )
    return lines
