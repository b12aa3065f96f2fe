"""The form that takes a vendor's file, chosen or pasted, and makes a request to the vendor, as a file or a QR code.

Rules kept here: the hub judges what a file says, and its own sentence is shown in the form; what was typed, pasted or
made is still there after a refusal, and when the form is opened again; nothing waits on the screen's thread, neither
for the hub nor for a disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
from rich.segment import Segment
from rich.style import Style
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import DirectoryTree, Input, Label, TextArea

from agent.api.errors import StokerError
from agent.api.types import Licence, LicenceFile
from tui import papers, safe
from tui.keymap import Scope
from tui.screens.faults import TellsFaults
from tui.session import Session
from tui.spans import Role, Span, folded
from tui.widgets.files import FileTree
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel

_MODES = {"file": ("F2", "a file"), "paste": ("F3", "paste"), "request": ("F4", "ask the vendor")}
_HINTS = {
    "file": "Choose what your vendor sent: voucher, licence, answer, receipt or revocation list. Enter takes it.",
    "paste": "Paste the text of the vendor's file; blanks and line ends do not matter. F5 takes it.",
    "request": "F5 makes a request. Your vendor answers it with a file; no network is needed.",
}
_ANSWER_LINES = 6
_PATH_BEGINS = ("/", "~", ".")
_WHITE_ON_BLACK = Style(color="#ffffff", bgcolor="#000000")


@dataclass
class Draft:
    """What was begun in the form, kept while the program runs."""

    mode: str = "file"
    path: str = ""
    pasted: str = ""
    request: LicenceFile | None = None
    want: str = ""


class PasteArea(TextArea):
    """Takes what is pasted as plain text: no more of it than a file may have, and nothing that acts on a terminal."""

    async def _on_paste(self, event: events.Paste) -> None:
        """Textual's hook, before its own: that one then inserts what is left."""
        lines = event.text[: papers.LIMIT].splitlines()
        event.text = "\n".join(safe.text(line, papers.LIMIT) for line in lines)


class PathTree(FileTree):
    """Who begins to type a path on it, or pastes one, means the line above it."""

    def _forward_event(self, event: events.Event) -> None:
        """Textual's hook, where a key is given to whom it is for: whatever comes behind it then goes to the line."""
        if isinstance(event, events.Paste) or (isinstance(event, events.Key) and event.character in _PATH_BEGINS):
            line = self.screen.query_one("#path", Input)
            line.value = ""
            self.screen.set_focus(line)
            line._forward_event(event)
        else:
            super()._forward_event(event)


class Ways(Panel):
    """The three ways in one line: each with its key, and taken by a click too."""

    def mark(self, name: str) -> None:
        """Show which one is open."""
        line: list[Span] = []
        for each, (key, label) in _MODES.items():
            line += [(f" {key} ", Role.ACCENT), (f"{label}  ", Role.STRONG if each == name else Role.DIM)]
        self.show([line])

    async def on_click(self, event: events.Click) -> None:
        """Open the way that was clicked."""
        end = 0
        for each, (key, label) in _MODES.items():
            end += len(f" {key} {label}  ")
            if event.x < end:
                await self.run_action(f"screen.way('{each}')")
                return


class ActivationForm(TellsFaults, ModalScreen[Licence | None]):
    """Ends with the licence as it stands after a file was taken, or with nothing."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.IMPORT)

    def __init__(self, session: Session, folder: Path, draft: Draft) -> None:
        super().__init__()
        self._session = session
        self._folder = folder
        self._draft = draft
        self._busy = False

    def compose(self) -> ComposeResult:
        """One of three ways, and the answer."""
        with Vertical(id="box"):
            yield Ways(id="ways")
            with Vertical(id="file", classes="way"):
                with Horizontal():
                    yield Label("file")
                    hint = "path, or choose below"
                    yield Input(self._draft.path, hint, id="path", compact=True, select_on_focus=False)
                yield PathTree(self._folder, id="tree")
            with Vertical(id="paste", classes="way"):
                yield PasteArea(self._draft.pasted, id="pasted", compact=True, soft_wrap=False)
            with Vertical(id="request", classes="way"):
                yield Panel(id="made")
                with Horizontal(id="saving"):
                    yield Label("save as")
                    yield Input(placeholder="enter writes it to this file", id="save", compact=True)
            yield Panel(id="answer")

    def on_mount(self) -> None:
        """Where it was left."""
        box = self.query_one("#box")
        box.border_title = "Activate a licence"
        box.border_subtitle = Content("F2 file · F3 paste · F4 ask the vendor · esc")
        self.action_way(self._draft.mode)

    def action_way(self, name: str) -> None:
        """Show one of the three ways."""
        self._draft.mode = name
        for each in _MODES:
            self.query_one(f"#{each}").display = each == name
        self.query_one(Ways).mark(name)
        self._show_request()
        made = self._draft.request is not None
        where = {"file": "#tree", "paste": "#pasted", "request": "#save" if made else None}[name]
        self.set_focus(self.query_one(where) if where else None)
        self.call_after_refresh(self._say, _HINTS[name], Role.DIM)

    # --- taking a file ------------------------------------------------------------------------------------------------

    @on(DirectoryTree.FileSelected, "#tree")
    def choose(self, event: DirectoryTree.FileSelected) -> None:
        """Enter on a file of the tree."""
        self._take_file(event.path)

    @on(Input.Changed, "#path")
    def keep_path(self, event: Input.Changed) -> None:
        """For when the form is opened again."""
        self._draft.path = event.value

    @on(TextArea.Changed, "#pasted")
    def keep_text(self, event: TextArea.Changed) -> None:
        """For when the form is opened again."""
        self._draft.pasted = event.text_area.text

    @on(Input.Submitted, "#path")
    def typed(self) -> None:
        """Enter in the line with the path."""
        self.action_go()

    def action_go(self) -> None:
        """Do what the way in sight is for."""
        if self._draft.mode == "request":
            self._make_request()
        elif self._draft.mode == "paste":
            self._take_text(papers.tidy(self._draft.pasted))
        elif typed := self._draft.path.strip():
            self._take_file(papers.place(self._folder, typed))
        else:
            self._say("Type a path, or choose a file in the tree: tab goes there.", Role.WARN)

    def _take_file(self, path: Path) -> None:
        if self._begin(f"reading {path} …"):
            self._read(path)

    def _take_text(self, text: str) -> None:
        if not text:
            self._say("Nothing was pasted yet.", Role.WARN)
        elif self._begin("sending …"):
            self._send(text)

    @work(thread=True, exit_on_error=False)
    def _read(self, path: Path) -> None:
        """Wait for the disk, and then for the hub, off the screen's thread."""
        try:
            installed = self._activate(papers.read(path))
        except StokerError as error:
            self.app.call_from_thread(self._refused, str(error))
        else:
            self.app.call_from_thread(self._taken, installed)

    @work(thread=True, exit_on_error=False)
    def _send(self, text: str) -> None:
        """Wait for the hub, off the screen's thread."""
        try:
            installed = self._activate(text)
        except StokerError as error:
            self.app.call_from_thread(self._refused, str(error))
        else:
            self.app.call_from_thread(self._taken, installed)

    def _activate(self, text: str) -> Licence:
        return self._session.ask(lambda client: client.activate(text))

    def _taken(self, installed: Licence) -> None:
        self._draft.path = self._draft.pasted = ""
        if self.is_attached:
            self.dismiss(installed)

    # --- asking the vendor --------------------------------------------------------------------------------------------

    def _make_request(self) -> None:
        held = self._session.cluster.licence
        want = "renew" if held is not None and held.bound else "activate"
        if self._begin(f"asking the hub for a request to {want} …"):
            self._ask(want)

    @work(thread=True, exit_on_error=False)
    def _ask(self, want: str) -> None:
        """Wait for the hub, off the screen's thread. The text of the file is kept as it came: it is never drawn."""
        held: list[str] = []

        def ask(client: object) -> LicenceFile:
            made: LicenceFile = client.licence_request(want)  # type: ignore[attr-defined]
            held.append(made.document)
            return made

        try:
            made = self._session.ask(ask)
        except StokerError as error:
            self.app.call_from_thread(self._refused, str(error))
        else:
            self.app.call_from_thread(self._made, made, held[0], want)

    def _made(self, made: LicenceFile, document: str, want: str) -> None:
        self._busy = False
        self._draft.request, self._draft.want = msgspec.structs.replace(made, document=document), want
        if self.is_attached:
            self.action_way("request")

    def _show_request(self) -> None:
        made, line = self._draft.request, self.query_one("#save", Input)
        self.query_one("#saving").display = made is not None
        if made is None:
            self.query_one("#made", Panel).show([[(" No request was made yet: F5 makes one.", Role.DIM)]])
            return
        if not line.value:
            line.value = str(self._folder / f"stoker-{made.id[:12]}.request")
        self.call_after_refresh(self._tell_request, made)

    def on_resize(self) -> None:
        """What is told of a request is folded to the form's width."""
        if self._draft.request is not None:
            self.call_after_refresh(self._tell_request, self._draft.request)

    def _tell_request(self, made: LicenceFile) -> None:
        """Once the form has its width."""
        until = self._session.clock.date(made.until) if made.until else "it is used"
        code = f" F6 shows it as a QR code of {len(made.qr[0])}×{len(made.qr)} cells." if made.qr else ""
        words = f"Request {made.id} to {self._draft.want}. Its answer is taken until {until}, once, by F2 or F3."
        room = max(20, self.query_one("#box").size.width - 4)
        lines = [*folded(words, room), *folded(f"Save it to send it to your vendor.{code}", room)]
        self.query_one("#made", Panel).show([[(f" {each}", Role.TEXT)] for each in lines])

    @on(Input.Submitted, "#save")
    def save(self, event: Input.Submitted) -> None:
        """Enter in the line with the file's name."""
        made, name = self._draft.request, event.value.strip().replace("\0", "")
        if made is None or not name:
            self._say("Type the name of a file.", Role.WARN)
        elif self._begin("writing …"):
            self._write(papers.place(self._folder, name), made.document)

    @work(thread=True, exit_on_error=False)
    def _write(self, path: Path, document: str) -> None:
        """Wait for the disk, off the screen's thread."""
        try:
            papers.write_new(path, document)
        except StokerError as error:
            self.app.call_from_thread(self._refused, str(error))
        else:
            self.app.call_from_thread(self._saved, path)

    def _saved(self, path: Path) -> None:
        self._busy = False
        self._say(f"Written: {path}", Role.OK)

    def action_code(self) -> None:
        """The request as a QR code, on the whole screen."""
        made = self._draft.request
        if made is None:
            self._say("No request was made yet: F4, then F5 makes one.", Role.WARN)
        elif not made.qr:
            self._say("The request is too long for a QR code; save it as a file.", Role.WARN)
        else:
            self.app.push_screen(CodeScreen(made.qr))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, words: str) -> bool:
        """One thing at a time."""
        if self._busy:
            return False
        self._busy = True
        self._say(words, Role.WARN)
        return True

    def tell_fault(self, sentence: str) -> None:
        """In the form, which works on."""
        self._refused(sentence)

    def _refused(self, sentence: str) -> None:
        self._busy = False
        self._say(sentence, Role.BAD)

    def _say(self, sentence: str, role: Role) -> None:
        if not self.is_mounted:
            return
        panel = self.query_one("#answer", Panel)
        room = max(20, panel.size.width - 2)
        panel.show([[(f" {line}", role)] for line in folded(safe.text(sentence), room)[:_ANSWER_LINES]])


class CodeScreen(ModalScreen[None]):
    """A QR code on the whole screen, or how large a terminal it needs."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.CODE)

    def __init__(self, rows: tuple[str, ...]) -> None:
        super().__init__()
        self._rows = rows

    def compose(self) -> ComposeResult:
        """The code alone: a phone needs light around it."""
        yield Panel(id="words")
        yield Code(self._rows)

    def on_resize(self, event: events.Resize) -> None:
        """Shown whole, or not at all: half a code reads as nothing."""
        wide, high = len(self._rows[0]), len(self._rows)
        fits = event.size.width >= wide and event.size.height >= high
        self.query_one(Code).display = fits
        words = self.query_one("#words", Panel)
        words.display = not fits
        size = f"{event.size.width}×{event.size.height}"
        words.show(
            [
                [(f" The code has {wide}×{high} cells, and this terminal {size}.", Role.WARN)],
                [(" Make the window larger or its font smaller; the code then appears.", Role.TEXT)],
                [(" Or go back (esc) and save the request as a file: it says the same.", Role.TEXT)],
            ]
        )


class Code(Widget):
    """White on black in either theme: that is how a camera reads it."""

    def __init__(self, rows: tuple[str, ...]) -> None:
        super().__init__()
        self._rows = rows
        self.styles.width, self.styles.height = len(rows[0]), len(rows)

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one row."""
        row = self._rows[y] if y < len(self._rows) else ""
        return Strip([Segment(row, _WHITE_ON_BLACK)], len(row))
