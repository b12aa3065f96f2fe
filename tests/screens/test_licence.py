"""The licence screen and the activation form before a real hub, with a vendor's real documents."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from textual import events
from textual.widgets import Input

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.types import LicenceFile, LicenceStage
from agent.api.unix import UnixTransport
from agent.server.peer import USER_HEADER
from licensing import keys, verify
from licensing.document import Licence as Terms
from licensing.exchange import Request
from tests.fakes import vendor
from tests.fakes.cluster import FakeCluster
from tests.fakes.head import HEAD, TWIN, Machine
from tests.fakes.hub import hub_config, running_hub
from tests.fakes.hub_cluster import Cluster, cluster, wait_until
from tests.screens.stage import LARGE, SMALL, Hands, Stage
from tui import papers
from tui.app import StokerApp
from tui.screens.activation import CodeScreen
from tui.widgets.files import FileTree
from tui.widgets.table import Table

__all__ = ["cluster"]

BARE = Machine(uuid=None, board=None, chassis=None, macs=(), gpus=(), disk=None)
Scene = Callable[[Stage], Awaitable[None]]


def paper(*, ago_s: int = 5, **fields: object) -> str:
    """A licence file of today."""
    now = int(time.time())
    issuer = vendor.changed(vendor.ISSUER_TERMS, iat=now - 90 * vendor.DAY, nbf=now - 90 * vendor.DAY,
                            exp=now + 500 * vendor.DAY)  # fmt: skip
    terms = {"iat": now - ago_s, "nbf": now - ago_s, "exp": now + 300 * vendor.DAY, "seats": 12}
    return vendor.file(cast("Terms", vendor.changed(vendor.VOUCHER, **(terms | fields))), issuer=issuer)


@asynccontextmanager
async def before(
    cluster: Cluster, size: tuple[int, int] = SMALL, opener: Callable[[], Client] | None = None
) -> AsyncIterator[Stage]:
    socket = cluster.config.hub_socket
    app = StokerApp(opener or (lambda: Client(UnixTransport(socket))), str(socket))
    async with app.run_test(size=size, notifications=True) as pilot:
        on = Stage(app, pilot, Hands(), cast("FakeCluster", SimpleNamespace()))
        await on.until(lambda: app.session.cluster.licence is not None, "the hub told of the licence")
        yield on


def act(cluster: Cluster, scene: Scene, size: tuple[int, int] = SMALL) -> None:
    async def run() -> None:
        async with before(cluster, size) as on:
            await scene(on)

    asyncio.run(run())


async def give(on: Stage, path: Path | str) -> None:
    """Type a path into the form and take it."""
    line = on.app.screen.query_one("#path", Input)
    line.value = str(path)
    line.focus()
    await on.press("enter")


def said(on: Stage) -> str:
    """What the form answers, in one line."""
    lines = on.lines()
    return " ".join(" ".join(line.strip("│ ") for line in lines[-10:]).split())


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_site_without_licence_is_lifted_at_once_from_a_file_of_the_tree(cluster: Cluster, in_a_folder: Path) -> None:
    (in_a_folder / "acme.voucher").write_text(paper())

    async def scene(on: Stage) -> None:
        assert on.sees("RESTRICTED LIC-401"), "on every screen"
        await on.press("6")
        assert on.sees("new jobs wait in the queue with reason License") and on.sees("stoker-license activate FILE")
        assert on.sees("Running jobs go on to their end")
        await on.press("I")
        tree = on.app.screen.query_one(FileTree)
        await on.until(lambda: len(tree.root.children) == 1, "the folder is listed")
        await on.press("down", "enter")
        await on.until(lambda: on.screen_name == "LicenceScreen", "the form is done")
        await on.until(lambda: on.sees("● ACTIVE"), "the stage is lifted")
        await on.until(lambda: on.sees("12 of 12"), "the seats are there")
        await on.until(lambda: on.sees("activated"), "the history tells it")
        assert not on.sees("RESTRICTED")

    act(cluster, scene, LARGE)


def test_a_path_that_is_typed_on_the_tree_goes_into_the_line_for_it(cluster: Cluster, in_a_folder: Path) -> None:
    (in_a_folder / "acme.voucher").write_text(paper())

    async def scene(on: Stage) -> None:
        await on.press("6", "I")
        tree = on.app.screen.query_one(FileTree)
        await on.until(lambda: len(tree.root.children) == 1, "the folder is listed")
        await on.press(*f"{in_a_folder}/acme.voucher", "enter")
        await on.until(lambda: on.screen_name == "LicenceScreen", "the form is done")
        await on.until(lambda: on.sees("● ACTIVE"), "the stage is lifted")

    act(cluster, scene, LARGE)


@pytest.mark.parametrize("pasted", [False, True], ids=["typed ahead", "pasted"])
def test_a_path_that_comes_all_at_once_is_in_the_line_whole(cluster: Cluster, in_a_folder: Path, pasted: bool) -> None:
    (in_a_folder / "acme.voucher").write_text(paper())
    path = f"{in_a_folder}/acme.voucher"

    async def scene(on: Stage) -> None:
        await on.press("6", "I")
        tree = on.app.screen.query_one(FileTree)
        await on.until(lambda: len(tree.root.children) == 1, "the folder is listed")
        if pasted:
            on.app.post_message(events.Paste(path))
        else:
            for char in path:
                on.app.post_message(events.Key(char, char))
        on.app.post_message(events.Key("enter", None))
        await on.until(lambda: on.screen_name == "LicenceScreen", "the form is done")
        await on.until(lambda: on.sees("● ACTIVE"), "the stage is lifted")

    act(cluster, scene, LARGE)


@pytest.mark.parametrize(
    ("machine", "bind", "words"),
    [
        (HEAD, HEAD, "bound by hardware: 5 of 5 groups match"),
        (TWIN.but(disk=HEAD.disk, machine_id=HEAD.machine_id), HEAD, "2 of 5 groups match, 3 must; new jobs for 13 d"),
        (BARE, BARE, "key only, which is weaker"),
    ],
    ids=["bound", "grace", "key-only"],
)
def test_what_binds_it_to_the_machine_is_one_line(tmp_path: Path, machine: Machine, bind: Machine, words: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(
            running_hub(hub_config(tmp_path, ()), vendor.ROOTS, machine=bind.build(tmp_path / "bound"))
        )
        asked = first.licence_request("activate")
        fingerprint = verify.site_paper(Request, asked.token).paper.fingerprint
        key = first.licence().site_key
        first.activate(paper(site=key, request=asked.id, fingerprint=fingerprint, vm=bind is BARE, ago_s=0))
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, stack, machine=machine.build(tmp_path / "now"))

        async def scene(on: Stage) -> None:
            await on.press("6")
            await on.until(lambda: on.sees(words), words)
            assert on.sees("machine")

        act(cluster, scene, LARGE)


def test_seats_tell_node_gpu_job_and_user(cluster: Cluster) -> None:
    cluster.client.activate(paper())
    wait_until(lambda: len(cluster.client.licence().holders) == 2)

    async def scene(on: Stage) -> None:
        await on.press("6")
        await on.until(lambda: on.sees("12 of 12 held"), "what is held")
        table = on.app.screen.query_one("#holders", Table)
        words = [["".join(part for part, _ in cell) for cell in row.cells] for row in table._all]
        assert sorted(row[1] for row in words if not row[0].startswith(" ")) == ["4 of 8", "8 of 8"]
        assert sum(row[1] == "no seat" for row in words) == 4 and sum(row[1] == "seat" for row in words) == 12
        assert on.sees("a voucher, bound to no site") and on.sees("lic-test rev 1")

    act(cluster, scene, LARGE)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "binary": (lambda path: path.write_bytes(b"\x7fELF\xff\xfe\0\0"), "is no text"),
    "huge": (lambda path: os.truncate(_made(path), 100_000_000), "is larger than "),
    "empty": (lambda path: path.write_text(""), "is empty"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "pipe": (_fifo, "is no plain file"),
    "absent": (lambda path: None, "No such file"),
    "letter": (lambda path: path.write_text("Dear customer, here it is."), "no LICENCE block in the file"),
    "cut": (lambda path: path.write_text(paper()[:-40]), "no whole block in the file"),
    "forged": (lambda path: path.write_text(vendor.BAD_LICENCES["signature-bit-flipped"]()), "signature"),
    "elsewhere": (lambda path: path.write_text(paper(site=keys.public_hex(vendor.SITE))), "is bound to site"),
}


def _made(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_its_own_words_and_nothing_is_lost(
    cluster: Cluster, in_a_folder: Path, name: str
) -> None:
    make, sentence = BAD[name]
    path = in_a_folder / name
    make(path)

    async def scene(on: Stage) -> None:
        await on.press("I")
        await give(on, path)
        await on.until(lambda: sentence in said(on), f"“{sentence}”")
        assert on.app.screen.query_one("#path", Input).value == str(path), "still there to mend"
        assert on.app.session.cluster.licence is not None
        assert on.app.session.cluster.licence.code == "LIC-401", "nothing was changed"
        await on.press("f3", "f2")
        good = in_a_folder / "good"
        good.write_text(paper())
        await give(on, good)
        await on.until(lambda: on.sees("● Licence"), "and the form still works")

    act(cluster, scene)


def test_a_fault_of_the_program_itself_is_told_in_the_form(
    cluster: Cluster, in_a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: that nobody knows of one is why it must be told."""
    good = in_a_folder / "good"
    good.write_text(paper())

    def faulty(path: Path) -> str:
        raise ZeroDivisionError("of ours")

    async def scene(on: Stage) -> None:
        await on.press("I")
        with monkeypatch.context() as patch:
            patch.setattr("tui.papers.read", faulty)
            await give(on, good)
            await on.until(lambda: "A fault of this program" in said(on), "the fault")
        await give(on, good)
        await on.until(lambda: on.sees("● Licence"), "and the form still works")

    act(cluster, scene)


def test_an_old_revision_is_refused(cluster: Cluster, in_a_folder: Path) -> None:
    cluster.client.activate(paper(rev=2))
    (in_a_folder / "old").write_text(paper(rev=1))

    async def scene(on: Stage) -> None:
        await on.press("I")
        await give(on, "old")
        await on.until(lambda: "rev 1 is older than rev 2" in said(on), "why")

    act(cluster, scene)


def test_a_mangled_paste_is_taken_and_a_refused_one_kept(cluster: Cluster) -> None:
    good = paper()
    mangled = "\r".join(f"   {line} \t" for line in good.splitlines())

    async def paste(on: Stage, text: str) -> None:
        on.app.screen.query_one("#pasted").focus()
        on.app.post_message(events.Paste(text))
        await on.settle()

    async def scene(on: Stage) -> None:
        await on.press("I", "f3")
        await paste(on, "Dear \x1b]0;customer\x07, nothing here")
        await on.press("f5")
        await on.until(lambda: "no LICENCE block in the file" in said(on), "the hub's sentence")
        assert on.sees("Dear , nothing here"), "kept, and acts on nothing"
        await on.press("escape")
        await on.press("I")
        assert on.sees("Dear , nothing here"), "also when the form is opened again"
        await on.press("ctrl+a", "f7", "delete")
        await paste(on, mangled)
        await on.press("f5")
        await on.until(lambda: on.sees("● Licence"), "lifted")

    act(cluster, scene)


def test_the_ways_are_open_to_the_mouse_and_a_quoted_or_utf_16_file_is_taken(
    cluster: Cluster, in_a_folder: Path
) -> None:
    async def scene(on: Stage) -> None:
        await on.press("I")
        shown = on.app.screen.query_one
        for x, way in ((16, "paste"), (24, "request"), (4, "file"), (70, "file")):
            await on.pilot.click("#ways", offset=(x, 0))
            assert [each for each in ("file", "paste", "request") if shown(f"#{each}").display] == [way]
        (in_a_folder / "saved").write_text("".join(f"> {line}\n" for line in paper().splitlines()), "utf-16")
        await give(on, in_a_folder / "saved")
        await on.until(lambda: on.sees("● Licence"), "taken")

    act(cluster, scene)


def test_tidy_gives_back_the_lines_of_a_file() -> None:
    good = paper()
    assert papers.tidy(good) == good
    assert papers.tidy("\ufeff\n  " + good.replace("\n", "\r\n\t ")).lstrip("\ufeff\n") == good
    one_line = papers.tidy(" ".join(good.split("\n")))
    assert one_line.splitlines()[0] == good.splitlines()[0] and one_line.splitlines()[-1] == good.splitlines()[-1]
    assert papers.tidy(" \r\n ") == ""


def test_a_request_is_made_saved_shown_as_code_and_its_answer_taken_once(cluster: Cluster, in_a_folder: Path) -> None:
    made: list[LicenceFile] = []

    async def scene(on: Stage) -> None:
        await on.press("I", "f6")
        assert "No request was made yet" in said(on)
        await on.press("f4", "f5")
        await on.until(lambda: on.sees("to activate"), "the request is made")
        assert on.app._draft is not None
        made.append(cast("LicenceFile", on.app._draft.request))
        line = on.app.screen.query_one("#save", Input)
        taken = in_a_folder / "taken"
        taken.write_text("mine")
        line.value = str(taken)
        line.focus()
        await on.press("enter")
        await on.until(lambda: "exists and is not overwritten" in said(on), "a file is never overwritten")
        assert taken.read_text() == "mine"
        line.value = "out.request"
        await on.press("enter")
        await on.until(lambda: "Written:" in said(on), "saved")
        await on.press("f6")
        assert on.screen_name == "CodeScreen" and on.sees("and this terminal 80×24")
        await on.press("escape", "escape", "I")
        whole = f"Request {made[0].id} to activate. Its answer is taken"
        await on.until(lambda: on.sees(whole), "opened again, it is told in the form's whole width")
        await on.press("f2")
        answer = in_a_folder / "answer"
        site = cluster.client.licence().site_key
        answer.write_text(paper(site=site, request=made[0].id))
        await give(on, answer)
        await on.until(lambda: on.sees("● Licence"), "the answer is taken")
        stranger = in_a_folder / "stranger"
        stranger.write_text(paper(site=site, request="f" * 24, rev=2))
        await on.press("I")
        await give(on, stranger)
        await on.until(
            lambda: "request" in said(on) and on.screen_name == "ActivationForm", "an answer nobody asked for"
        )
        await on.until(lambda: "f" * 24 in said(on), "by name")

    act(cluster, scene)
    assert (in_a_folder / "out.request").read_text() == made[0].document
    assert made[0].document.startswith("-----BEGIN STOKER REQUEST-----\n")
    assert [each.event for each in cluster.client.licence_history() if each.event in ("requested", "activated")] == [
        "activated",
        "requested",
    ]


def test_the_code_is_drawn_whole_where_there_is_room(cluster: Cluster) -> None:
    rows = cluster.client.licence_request("activate").qr
    assert len({len(row) for row in rows}) == 1 and len(rows[0]) <= 77 and 24 < len(rows) <= 39

    async def scene(on: Stage) -> None:
        on.app.push_screen(CodeScreen(rows))
        await on.settle()
        drawn = on.lines()
        assert all(any(row.rstrip() in line for line in drawn) for row in rows)

    act(cluster, scene, LARGE)


def test_an_ordinary_user_is_told_who_may(cluster: Cluster, in_a_folder: Path) -> None:
    (in_a_folder / "v").write_text(paper())
    if os.geteuid() != 0:
        pytest.skip("only root may act for another account")

    class Nobody(Client):
        """A client whose every request is nobody's."""

        def _ask(self, method, path, kind, value=None, headers=None, *, repeatable=False):  # type: ignore[no-untyped-def]
            return super()._ask(method, path, kind, value, {USER_HEADER: "nobody"}, repeatable=repeatable)

    async def run() -> None:
        async with before(cluster, opener=lambda: Nobody(UnixTransport(cluster.config.hub_socket))) as on:
            await on.press("I")
            await give(on, "v")
            await on.until(lambda: "activating a licence is for admins" in said(on), "the sentence")
            await on.press("f4", "f5")
            await on.until(lambda: "is for admins, and nobody is not in group" in said(on), "the sentence")
            await on.press("escape", "6")
            await on.until(lambda: on.sees("stoker-license activate FILE"), "looking is free")

    asyncio.run(run())
    assert cluster.client.licence().stage is LicenceStage.RESTRICTED


def test_names_of_files_are_text_and_nothing_more(cluster: Cluster, in_a_folder: Path) -> None:
    for name in ("[red]x[bold]", "a\x1b]0;t\x07b", "[b", "line\nbreak", " "):
        (in_a_folder / name).touch()
    (in_a_folder / os.fsdecode(b"\xff\xfe")).touch()

    async def scene(on: Stage) -> None:
        await on.press("I")
        tree = on.app.screen.query_one(FileTree)
        await on.until(lambda: len(tree.root.children) == 6, "the folder is listed")
        assert on.sees("[red]x[bold]") and on.sees("ab") and on.sees("line↵break")
        assert not any("\x1b" in line for line in on.lines())

    act(cluster, scene)


def test_history_is_bounded(cluster: Cluster) -> None:
    for _ in range(4):
        cluster.client.licence_request("activate")
    assert [each.number for each in cluster.client.licence_history(2)] == [5, 4]  # with the row of a new admin
    with pytest.raises(ApiError, match="limit"):
        cluster.client.licence_history(-1)
