"""The form that hands in a job script: a path with a list of what is there, sbatch flags, arguments, and the answer.

Rules kept here: the server parses the script and the flags, and its own sentence is shown, in the form, with the text
still there to mend; one key belongs to one text, so sending the same again after a lost link cannot make two jobs.
"""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from agent.api.errors import ApiError, StokerError
from agent.api.types import Job, Plan, SubmitRequest
from tui import arrays, safe, submit, units
from tui.keymap import Scope
from tui.screens.faults import TellsFaults
from tui.session import Session
from tui.spans import Column, Role, Row, cell, folded
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_LISTED = 500
"""Entries of a folder that are offered; typing narrows them."""
_COLUMNS = (Column(title="FILE", least=20, grow=True), Column(title="SIZE", least=9, right=True))


class SubmitForm(TellsFaults, ModalScreen[Job | None]):
    """Ends with the job that was stored, or with nothing."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.FORM)

    def __init__(self, session: Session, folder: Path) -> None:
        super().__init__()
        self._session = session
        self._folder = folder
        self._sent: SubmitRequest | None = None
        self._key = ""
        self._busy = False

    def compose(self) -> ComposeResult:
        """Three lines to type in, the files under the first."""
        with Vertical(id="box"):
            yield from self._line("script", "path", "path of the job script")
            yield Table(_COLUMNS, empty="nothing here begins so", id="files")
            yield from self._line("flags", "flags", "sbatch options, e.g. --gres=gpu:2 -t 2:00:00")
            yield from self._line("args", "args", "arguments of the script")
            yield from self._line("node", "node", "empty: the server chooses")
            yield Panel(id="answer")

    def _line(self, label: str, name: str, hint: str) -> ComposeResult:
        with Horizontal():
            yield Label(label)
            yield Input(placeholder=hint, id=name, compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        """The path comes first."""
        box = self.query_one("#box")
        box.border_title = "Submit a job"
        box.border_subtitle = "tab next · enter opens or sends · F2 sends · F3 previews · esc"
        path = self.query_one("#path", Input)
        path.value = f"{_shortened(self._folder)}/"
        path.cursor_position = len(path.value)
        path.focus()
        hint = "Choose a script. Its #SBATCH lines are honoured; the flags typed here win over them."
        self.call_after_refresh(self._say, hint, Role.DIM)

    @on(Input.Changed, "#path")
    def list_files(self) -> None:
        """Show what the path may become; a whole path that was typed behind another one takes its place."""
        box = self.query_one("#path", Input)
        if (at := max(box.value.rfind("//"), box.value.rfind("/~/"))) >= 0:
            box.value = box.value[at + 1 :]  # which calls this again
            box.cursor_position = len(box.value)
            return
        self.query_one("#files", Table).show(_entries(self._path()))

    @on(Input.Submitted, "#path")
    def to_flags(self) -> None:
        """Into a folder, or on to the flags."""
        table, path = self.query_one("#files", Table), self._path()
        if not path.is_file() and table.key is not None:
            self._pick(str(table.key))
        elif not path.exists():
            self._say(f"There is no {path}; type on, or choose a script in the list: tab goes there.", Role.WARN)
        else:
            self.query_one("#flags", Input).focus()

    @on(Table.Opened, "#files")
    def pick(self, event: Table.Opened) -> None:
        """Enter on a file of the list."""
        self._pick(str(event.key))

    @on(Input.Submitted, "#flags,#args,#node")
    def send_on_enter(self) -> None:
        """Enter in the other lines sends."""
        self.action_send()

    def action_send(self) -> None:
        """Read the script and hand it in."""
        request = self._ready()
        if request is None:
            return
        if request != self._sent:
            self._sent, self._key = request, secrets.token_hex(16)
        self._busy = True
        self._say("sending …", Role.WARN)
        self._send(request, self._key)

    def action_plan(self) -> None:
        """Ask what a submit would do; nothing is stored."""
        request = self._ready()
        if request is None:
            return
        self._busy = True
        self._say("asking …", Role.WARN)
        self._preview(request)

    def _ready(self) -> SubmitRequest | None:
        """What is to be handed in; `None` while another answer is awaited, or when the form cannot be read."""
        if self._busy:
            return None
        try:
            return self._request()
        except (StokerError, ValueError) as error:
            self._say(str(error), Role.BAD)
            return None

    @work(thread=True, exit_on_error=False)
    def _preview(self, request: SubmitRequest) -> None:
        """Wait for the server, off the screen's thread."""
        try:
            plan = self._session.plan(request)
        except StokerError as error:
            where = f"{error.field}: " if isinstance(error, ApiError) and error.field else ""
            self.app.call_from_thread(self._refused, safe.text(f"{where}{error}"))
        else:
            self.app.call_from_thread(self._planned, plan)

    def _planned(self, plan: Plan) -> None:
        self._busy = False
        starts, why = "when it would start cannot be told", plan.sentence
        if plan.starts_at is not None:
            away = plan.starts_at - self._session.wall()
            starts = f"would start in {units.countdown(away)} at the latest" if away >= 1 else "would start at once"
            why = plan.sentence if away >= 1 else ""  # it says the same in other words
        gpus = f", GPU {arrays.ranges(plan.gpu_indexes)}" if plan.gpu_indexes else ""
        made = f"{units.count(plan.tasks, 'job')} of {units.count(plan.job.gpus, 'GPU')} on {plan.job.node}{gpus}"
        self._say(f"Preview, nothing is stored: {made} {starts}. {why[:1].upper()}{why[1:]}".rstrip(), Role.OK)

    @work(thread=True, exit_on_error=False)
    def _send(self, request: SubmitRequest, key: str) -> None:
        """Wait for the server, off the screen's thread."""
        try:
            reply = self._session.submit(request, key)
        except StokerError as error:
            where = f"{error.field}: " if isinstance(error, ApiError) and error.field else ""
            self.app.call_from_thread(self._refused, safe.text(f"{where}{error}"))
        else:
            self.app.call_from_thread(self._stored, reply.job)

    def tell_fault(self, sentence: str) -> None:
        """In the form, which works on."""
        self._refused(sentence)

    def _refused(self, sentence: str) -> None:
        self._busy = False
        self._say(sentence, Role.BAD)

    def _stored(self, job: Job) -> None:
        if self.is_attached:
            self.dismiss(job)

    def _request(self) -> SubmitRequest:
        """The request the form describes. Raises what `submit.request` and `shlex.split` raise."""
        flags, args = (shlex.split(self.query_one(name, Input).value) for name in ("#flags", "#args"))
        return submit.request(
            [*flags, str(self._path()), *args],
            environ=os.environ,
            work_dir=self._folder,
            umask=submit.current_umask(),
            node=self.query_one("#node", Input).value.strip() or None,
        )

    def _path(self) -> Path:
        typed = self.query_one("#path", Input).value.replace("\0", "")
        path = self._folder / submit.typed_path(typed)
        return path / "" if typed.endswith("/") else path

    def _pick(self, name: str) -> None:
        """Take an entry into the path; a folder goes on, a script goes to the flags."""
        box = self.query_one("#path", Input)
        typed = box.value
        base = typed if typed.endswith("/") else typed[: typed.rfind("/") + 1]
        box.value = f"{base}{name}"
        box.cursor_position = len(box.value)
        (box if name.endswith("/") else self.query_one("#flags", Input)).focus()

    def _say(self, sentence: str, role: Role) -> None:
        width = max(20, self.query_one("#answer", Panel).size.width - 2)
        self.query_one("#answer", Panel).show([[(f" {line}", role)] for line in folded(safe.text(sentence), width)[:4]])


def _entries(path: Path) -> list[Row]:
    """What stands beside a half-typed path and begins like it: folders first, hidden ones only when asked for."""
    typed_folder = str(path).endswith("/") or path.is_dir()
    folder, start = (path, "") if typed_folder else (path.parent, path.name)
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(start) and (start or not entry.name.startswith(".")):
                    found.append((not entry.is_dir(), entry.name, entry))
    except OSError:
        return []
    found.sort(key=lambda each: each[:2])
    return [
        Row(
            key=name if is_file else f"{name}/",
            cells=(
                cell(safe.text(name) + ("" if is_file else "/"), Role.TEXT if is_file else Role.ACCENT),
                cell(units.size(_size(entry)) if is_file else "", Role.DIM),
            ),
        )
        for is_file, name, entry in found[:_LISTED]
    ]


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:
        return None


def _shortened(folder: Path) -> str:
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) and folder != home else str(folder)
