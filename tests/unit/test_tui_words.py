"""Quantities, columns, bars, keys, themes and the lines that every screen has: pure functions, looked at by value."""

from __future__ import annotations

import io
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.api.types import GpuProcess, GpuState, JobState, Licence, LicenceStage, LicenceUnit, NodeUpdate
from tests.fakes.lab import lab
from tests.fakes.values import NOW, evaluation, gpu, job, node, up
from tui import arrays, jobrows, printed, rows, safe, status, story, units
from tui import plain as printing
from tui.cluster import Cluster, Freshness, LinkView
from tui.keymap import KEYS, Scope, as_markdown, footer, keys_of
from tui.screens.dialogs import help_lines
from tui.session import Clock
from tui.spans import GAP, Column, Role, Row, bar, cell, fit, lay_out, plain, spark
from tui.theme import THEMES
from tui.traces import Traces


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (units.elapsed, 0, "00:00"),
        (units.elapsed, 41.9, "00:41"),
        (units.elapsed, 11564, "03:12:44"),
        (units.elapsed, 93784, "1-02:03:04"),
        (units.elapsed, None, "–"),
        (units.age, 0.4, "0 s"),
        (units.age, 119, "119 s"),
        (units.age, 120, "2 min"),
        (units.age, 7200, "2 h"),
        (units.age, 200_000, "2 d"),
        (units.countdown, 13 * 86400 + 23 * 3600 + 59, "13 d 23 h"),
        (units.countdown, 5 * 3600 + 720, "5 h 12 min"),
        (units.countdown, 61, "1 min 1 s"),
        (units.countdown, -5, "0 s"),
        (units.size, 0, "0 B"),
        (units.size, 1536, "1.5 KiB"),
        (units.size, 1024**5 * 5000, "5000 PiB"),
        (units.watts, 512_400, "512 W"),
        (units.watts, 12_345_678, "12.3 kW"),
        (units.percent, 86.6, "87%"),
        (units.celsius, None, "–"),
    ],
)
def test_quantities(function: Any, value: Any, text: str) -> None:
    assert function(value) == text


def test_memory_of_a_gpu() -> None:
    assert units.gib_of(71 * 2**30, 80 * 2**30) == "71/80G"
    assert units.gib_of(None, 80 * 2**30) == "–/80G"
    assert units.gib_of(None, None) == "–"


columns = st.lists(
    st.builds(
        Column,
        title=st.just("T"),
        least=st.integers(1, 12),
        most=st.integers(0, 30),
        grow=st.booleans(),
        firm=st.booleans(),
        drop=st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


@given(columns, st.integers(0, 200), st.lists(st.integers(0, 40), max_size=4))
def test_a_layout_fills_its_room_and_never_overflows_what_can_be_narrowed(
    given_columns: list[Column], room: int, lengths: list[int]
) -> None:
    lines = [Row(key=n, cells=tuple(cell("x" * n) for _ in given_columns)) for n in lengths]
    widths = lay_out(given_columns, lines, room)
    shown = [width for width in widths if width]
    used = sum(shown) + GAP * max(0, len(shown) - 1)
    floor = [c for c, w in zip(given_columns, widths, strict=True) if w]
    if used > room:
        assert not any(column.drop for column in floor), "what may be left out is, before anything overflows"
    if used <= room and any(column.grow for column in floor):
        assert used == room
    assert all(width >= column.least for width, column in zip(widths, given_columns, strict=True) if width)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=30), st.integers(0, 40), st.booleans())
def test_spans_fit_exactly(value: str, cells: int, right: bool) -> None:
    shown = safe.text(value)
    half = len(shown) // 2
    result = fit(((shown[:half], Role.TEXT), (shown[half:], Role.DIM)), cells, right=right)
    assert safe.width(plain(result)) == cells


@given(st.one_of(st.none(), st.floats(-1, 2)), st.integers(1, 30))
def test_a_bar_is_as_wide_as_asked(fraction: float | None, cells: int) -> None:
    assert safe.width(plain(bar(fraction, cells))) == cells


def test_bars_are_told_apart_without_colour() -> None:
    assert plain(bar(0.0, 4)) == "────"
    assert plain(bar(0.001, 4)) == "╸───"
    assert plain(bar(0.5, 4)) == "━━──"
    assert plain(bar(1.0, 4)) == "━━━━"
    assert plain(bar(None, 4)) == "····"
    assert [spark(x) for x in (None, 0.0, 0.5, 1.0)] == ["·", "▁", "▅", "█"]


def test_every_key_is_bound_once_on_each_screen() -> None:
    together: list[tuple[Scope, ...]] = [
        (Scope.APP, Scope.LIST, Scope.JOBS), (Scope.APP, Scope.LOG, Scope.JOB), (Scope.FORM,), (Scope.ASK,),
        (Scope.APP, Scope.LIST, Scope.INCIDENT), (Scope.APP, Scope.LIST, Scope.INVENTORY),
        (Scope.APP, Scope.GPU, Scope.PAST, Scope.SHEET), (Scope.APP, Scope.LIST, Scope.JOBS, Scope.NODE),
        (Scope.APP, Scope.LIST, Scope.PROCESSES),
    ]  # fmt: skip
    for scopes in together:
        names = [name for key in keys_of(*scopes) for name in key.keys.split(",")]
        assert len(names) == len(set(names)), scopes


def test_no_key_of_tmux_screen_or_flow_control_is_taken() -> None:
    taken = {"ctrl+a", "ctrl+b", "ctrl+z", "ctrl+s", "ctrl+q"}
    assert not taken & {name for key in KEYS for name in key.keys.split(",")}


def test_capitals_change_something_and_nothing_else_does() -> None:
    changing = {"cancel", "submit"}
    for key in KEYS:
        if key.action in changing:
            assert key.keys.isupper()


def test_footers_fit_the_smallest_terminal() -> None:
    lists = [(Scope.LIST, more) for more in (Scope.JOBS, Scope.MACHINE, Scope.INCIDENT, Scope.PROCESSES)]
    details = [(Scope.LOG, Scope.JOB), (Scope.LIST, Scope.INVENTORY), (Scope.GPU, Scope.PAST, Scope.SHEET)]
    details.append((Scope.LIST, Scope.JOBS, Scope.NODE))
    for scopes, detail in [*((each, False) for each in lists), *((each, True) for each in details)]:
        for width in (80, 160):
            line = plain(status.keys_line(footer(scopes, detail=detail), width))
            assert safe.width(line) <= width and "quit" in line
        assert detail or ("4 Incid" in line and "7 Usage" in line)
        assert detail or "1-7 screens" in plain(status.keys_line(footer(scopes), 80))


def test_the_help_fits_the_smallest_terminal() -> None:
    room = int(80 * 0.96) - 4  # the box's frame and its scroll bar
    assert [line for line in map(plain, help_lines()) if safe.width(line) > room] == []


def test_the_key_table_is_what_the_readme_shows() -> None:
    assert as_markdown() in (Path(__file__).parents[2] / "tui" / "README.md").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES.keys())
def test_text_can_be_read_on_every_ground(theme: Any) -> None:
    words = {
        "text": theme.foreground,
        "primary": theme.primary,
        "secondary": theme.secondary,
        "ok": theme.success,
        "warn": theme.warning,
        "bad": theme.error,
        "dim": theme.variables["dim"],
    }
    for name, colour in words.items():
        for ground in (theme.background, theme.panel):
            light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, colour, ground)


def line_of(licence: Licence, wall: float) -> str:
    cluster = Cluster()
    cluster.licence = licence
    left, right = status.licence_line(cluster, wall)
    return plain(left) + plain(right)


def test_the_licence_line() -> None:
    assert "evaluation, 13 d 23 h left" in line_of(evaluation(), NOW)
    assert "seats 24/64" in line_of(evaluation(), NOW)
    assert "ended 2 d 0 h ago" in line_of(evaluation(left_s=0), NOW + 2 * 86400)
    none = Licence(stage=LicenceStage.RESTRICTED, code="LIC-401", message="No licence.", fix="stoker-license activate")
    words = " x Licence none  RESTRICTED LIC-401: No licence. · run: stoker-license activate"
    assert line_of(none, NOW).startswith(words)
    full = Licence(stage=LicenceStage.ACTIVE, message="", licence_id="l", customer="Acme", expires_at=NOW + 86400 * 90)
    assert "Acme, 90 d 0 h left" in line_of(full, NOW)
    admins = LicenceUnit(unit="admin", used=3, limit=2, told="3 persons, licence for 2")
    over = Licence(stage=LicenceStage.ACTIVE, message="", licence_id="l", customer="Acme", units=(admins,))
    assert "  ! admins 3 of 2  seats 0/0" in line_of(over, NOW)


def test_the_top_line_gives_up_counts_before_it_is_cut() -> None:
    cluster = Cluster()
    cluster.apply(NodeUpdate(status=up(node("n1", (gpu(0, job=1),)))), 0.0)
    texts = [plain(status.top_line(cluster, 0.0, ("Jobs",), (), width)) for width in (80, 35, 25, 3)]
    assert [("GPUs 1/1 busy" in t, "GPUs 1/1" in t, "1/1 up" in t or "1/1 nodes up" in t) for t in texts] == [
        (True, True, True), (False, True, True), (False, False, True), (False, False, False)
    ]  # fmt: skip


def test_trouble_is_one_line_and_none_when_all_is_well() -> None:
    live = LinkView(freshness=Freshness.LIVE, age_s=0.1, reason=None, retry_in_s=None)
    assert status.trouble(live, "x") == []
    lost = LinkView(freshness=Freshness.LOST, age_s=30.0, reason="refused", retry_in_s=4.0)
    words = plain(status.trouble(lost, "x"))
    assert "last heard 30 s ago" in words and "refused" in words and "next try in 4 s" in words
    assert "next try in 1 s" in plain(status.trouble(replace(lost, retry_in_s=0.2), "x"))
    words = plain(status.trouble(replace(lost, retry_in_s=0.0), "x"))
    assert "trying now · refused" in words and "next try" not in words


def test_rows_of_a_lost_node_show_no_number() -> None:
    server = lab()
    cluster = Cluster()
    for message in server.full_state():
        cluster.apply(message, 0.0)
    for row in rows.node_rows(cluster.nodes(20.0), Traces().drawn):
        words = "".join(plain(row.cells[index]) for index in (2, 4, 5, 8))
        assert not any(char.isdigit() for char in words), row.key
    for view in cluster.nodes(20.0):
        for row in rows.gpu_rows(cluster, view):
            assert "%" not in plain(row.cells[1]) and "simulated" in plain(row.cells[0])


def test_every_line_of_a_simulated_gpu_says_so() -> None:
    server = lab()
    cluster = Cluster()
    for message in server.full_state():
        cluster.apply(message, 0.0)
    for row in rows.overview_rows(cluster, 0.0, 100):
        if row.key != ("gpu-b2", None):
            assert "simulated" in " ".join(plain(each) for each in row.cells), row.key


def test_what_is_said_of_a_job() -> None:
    assert (
        jobrows.job_why(job(1, JobState.PENDING, reason="License", detail="run stoker-license"))
        == "License: run stoker-license"
    )
    waiting = job(1, JobState.PENDING, reason="License", detail="run stoker-license")
    assert jobrows.job_why(waiting) == "License: run stoker-license"
    assert jobrows.job_why(job(1, JobState.FAILED, exit_code=3)) == "exit code 3"
    assert jobrows.job_why(job(1, JobState.FAILED, exit_code=None, signal=9)) == "signal 9"
    assert jobrows.job_why(job(1)) == ""
    assert jobrows.job_gpus(job(1, gpus=2)) == "2 simulated"
    assert jobrows.job_gpus(job(1, gpus=2, simulated=False)) == "2"
    assert arrays.ranges((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    assert jobrows.run_time_s(job(1, started_at=NOW + 5), NOW) == 0
    assert jobrows.run_time_s(job(1, JobState.PENDING), NOW) is None


def test_a_list_has_a_sentence_of_why_a_job_waits() -> None:
    detail = "LIC-401: No licence is installed (v0.1. of it), so jobs are held. Running jobs go on. Run: stoker-license"
    waiting = job(1, JobState.PENDING, reason="License", detail=detail)
    shown = printed.job_line(arrays.Line(jobs=(waiting,)), NOW)[-1]
    assert shown == "License: LIC-401: No licence is installed (v0.1. of it), so jobs are held"
    assert dict(printed.job_facts(waiting, NOW))["Reason"] == f"License: {detail}"
    assert printed.first_sentence("took 1.5 s... then n1.Lab ended") == "took 1.5 s... then n1.Lab ended"


def test_a_hot_gpu_is_marked_in_the_list_as_on_the_screen() -> None:
    cluster = Cluster()
    heat = {0: rows.TOO_HOT_C - 1, 1: rows.TOO_HOT_C, 2: None}
    gpus = tuple(gpu(index, temperature_c=degrees) for index, degrees in heat.items())
    cluster.apply(NodeUpdate(status=up(node("n1", gpus))), 0.0)
    (view,) = cluster.nodes(0.0)
    lines = [printed.gpu_line(view, each, {}) for each in view.gpus]
    at, note = printed.GPU_TITLES.index(">TEMP"), printed.GPU_TITLES.index("NOTE")
    assert [(line[at], line[note]) for line in lines] == [("87°C", ""), ("!88°C", "too hot"), ("–", "")]
    on_screen = [plain(row.cells[3]) for row in rows.gpu_rows(cluster, view)]
    assert on_screen == [line[at] for line in lines]


def test_the_last_values_of_a_gpu_that_hangs_are_marked_in_the_list() -> None:
    cluster = Cluster()
    states = (GpuState.OK, GpuState.HUNG, GpuState.LOST)
    gpus = tuple(
        gpu(index, state=state, utilization_percent=None, temperature_c=50, power_mw=300_000)
        for index, state in enumerate(states)
    )
    cluster.apply(NodeUpdate(status=up(node("n1", gpus))), 0.0)
    (view,) = cluster.nodes(0.0)
    lines = [printed.gpu_line(view, each, {}) for each in view.gpus]
    at = printed.GPU_TITLES.index(">TEMP")
    assert [(line[at - 2], line[at], line[at + 1]) for line in lines] == [
        ("–", "50°C", "300 W"),
        ("–", "~50°C", "~300 W"),
        ("–", "–", "–"),
    ]


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"throttle": ("power_cap", "app_clocks")}, ""),
        ({"throttle": ("thermal_hw", "hw_slowdown")}, "slowed by heat"),
        ({"throttle": ("power_brake", "hw_slowdown")}, "slowed by the power brake"),
        ({"throttle": ("hw_slowdown",), "temperature_c": rows.TOO_HOT_C}, "too hot; slowed by its hardware"),
        ({"ill": ("2 uncorrectable memory errors; have it replaced",)}, "2 uncorrectable memory errors"),
        ({"ill": ("a; b", "c"), "throttle": ("thermal_sw",), "seated": False}, "slowed by heat; a (+1); no seat"),
        ({"state": GpuState.HUNG, "reason": "it hangs", "throttle": ("thermal_sw",), "ill": ("a",)}, "it hangs"),
        ({"processes": (GpuProcess(pid=7, kind="graphics"),)}, ""),
        ({"processes": (GpuProcess(pid=7, kind="graphics"), GpuProcess(pid=8, user="eve"))}, "not a job: eve pid 8"),
    ],
)
def test_the_note_of_a_gpu_says_what_is_wrong_with_it_and_no_more(values: dict[str, Any], note: str) -> None:
    cluster = Cluster()
    cluster.apply(NodeUpdate(status=up(node("n1", (gpu(0, **values),)))), 0.0)
    (view,) = cluster.nodes(0.0)
    assert printed.gpu_line(view, view.gpus[0], {})[printed.GPU_TITLES.index("NOTE")] == note


def test_a_job_that_waits_for_the_licence_tells_code_since_what_works_and_the_command() -> None:
    detail = (
        "LIC-404: The licence lic-1 ended 2026-10-29 11:06 UTC; new jobs are held since 2026-11-12 11:06 UTC. "
        "Running jobs go on to their end; login, logs and every licence command work. Run: stoker-license activate FILE"
    )
    waiting = job(1, JobState.PENDING, reason="License", detail=detail)
    shown = story.lines(waiting, None, None, wall=NOW, clock=Clock(zone=UTC), width=200)
    words = ["".join(text for text, _ in line).strip() for line in shown]
    assert "reason        License LIC-404" in words
    assert any(each.startswith("why") and "since 2026-11-12 11:06 UTC." in each for each in words)
    assert "works         Running jobs go on to their end; login, logs and every licence command work" in words
    assert "run           stoker-license activate FILE" in words
    assert "starts        once the licence lets it" in words


def test_the_licence_command_fits_80_columns_and_never_folds_the_command() -> None:
    held = Licence(
        stage=LicenceStage.RESTRICTED, code="LIC-401", message="No licence is installed, so new jobs are held. " * 3,
        fix="stoker-license activate " + "F" * 80,
    )  # fmt: skip
    lines = printed.licence_lines(held, NOW, 80)
    assert lines[0] == "x Licence none   seats 0/0"
    assert lines[1].startswith("  RESTRICTED LIC-401: No licence is installed")
    assert lines[-1] == "  run: stoker-license activate " + "F" * 80
    assert len(lines) > 3 and all(len(line) <= 80 for line in lines[:-1])
    assert printed.licence_lines(evaluation(), NOW, 80) == ["● Licence evaluation, 13 d 23 h left   seats 24/64"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_note_without_room_is_told_below_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    titles, row = ("NODE", "STATE", "NOTE"), ["n1", "lost", "no route to host; see ssh n1; next try in 20 s"]
    terminal, pipe = _Terminal(), io.StringIO()
    printing.table(titles, [row, ["n2", "up", "fine"]], terminal, fold=True)
    lines = terminal.getvalue().splitlines()
    assert lines[1:] == [
        "n1    lost",
        "      no route to host; see ssh n1; next",
        "      try in 20 s",
        "n2    up     fine",
    ]
    printing.table(titles, [row], pipe, fold=True)
    assert pipe.getvalue().splitlines()[1].endswith("next try in 20 s"), "a program gets a row a line"
