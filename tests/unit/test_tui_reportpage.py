"""The page of a job's report: what it shows, that it is whole, and that no text of a job acts in it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.queue import GpuUsage, JobEvent, JobUsage, UsagePoint, Verdict
from agent.api.types import Job, JobReport, JobState
from tui.reportpage import page
from tui.reportplot import Series, round_top, svg

START = 1_750_000_000
GIB = 1024**3
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """A page taken apart: its elements, its text, and whether each end tag closes what is open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def job(**values: object) -> Job:
    given = {
        "id": 17,
        "node": "n1",
        "name": "train",
        "user": "ada",
        "state": "COMPLETED",
        "gpus": 2,
        "gpu_indexes": [2, 3],
        "submitted_at": START - 60,
        "started_at": START,
        "ended_at": START + 600,
        "exit_code": 0,
        "attempt": 1,
        "work_dir": "/home/ada",
    }
    return msgspec.convert({**given, **values}, Job)


def usage(**values: object) -> JobUsage:
    given = {
        "measured_s": 600.0,
        "gpu_seconds": 7200.0,
        "utilization_percent": 81.6,
        "memory_peak_bytes": 71 * GIB,
        "host_memory_peak_bytes": 4 * GIB,
        "cpu_seconds": 12.0,
        "energy_kwh": 1.234,
        "verdict": "fine",
        "sentence": "Busy 82 % of the time.",
        "gpus": [{"uuid": "GPU-0", "utilization_percent": 81.6, "energy_j": 3.6e5}],
    }
    return msgspec.convert({**given, **values}, JobUsage)


def curve(count: int = 20) -> tuple[UsagePoint, ...]:
    return tuple(
        UsagePoint(at=START + 30 * (each + 1), utilization_percent=5.0 * each, memory_bytes=each * GIB, power_w=400.0)
        for each in range(count)
    )


def report(**values: object) -> JobReport:
    given = {"job": job(usage=msgspec.to_builtins(usage())), "wait_s": 60.0, "run_s": 600.0, "curve": curve()}
    return JobReport(**{**given, **values})  # type: ignore[arg-type]


def pictures(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_the_page_tells_the_whole_story() -> None:
    events = (JobEvent(at=START, event="started", state="RUNNING", detail="on GPUs 2-3"),)
    html = page(report(events=events, script="#!/bin/bash\n#SBATCH --gpus=2\nsrun python train.py\n"))
    text = Page(html).text
    for words in ("Job 17", "train", "COMPLETED", "ada · n1", "Well used.", "Busy 82 % of the time.", "01:00", "10:00"):
        assert words in text, words
    for words in ("82%", "71.0 GiB", "1.23 kWh", "0.10 kWh", "12 CPU seconds", "2.00 GPU hours", "on GPUs 2-3"):
        assert words in text, words
    assert "#SBATCH --gpus=2\nsrun python train.py" in text
    assert len(pictures(html)) == 3


def test_writing_a_page_does_not_load_the_screen() -> None:
    code = "import sys, tui.reportpage; sys.exit('textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_page_asks_nobody_for_anything_and_runs_nothing() -> None:
    html = page(report(script="echo hi"))
    parsed = Page(html)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "object", "form", "a", "base"}
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in html
    assert "@import" not in html
    assert ("meta", "default-src 'none'; style-src 'unsafe-inline'") in [
        (tag, attrs.get("content")) for tag, attrs in parsed.tags
    ]
    assert re.findall(r"https?://[^\"']*", html) == ["http://www.w3.org/2000/svg"] * 3  # a name, not an address


HOSTILE = [
    "</script><script>alert(1)</script>",
    "</pre></style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "'><svg/onload=alert(1)>",
    "&lt;b&gt;&#x1f;",
    "\x1b[2J\x1b]0;owned\x07\x00\x08\x9b31m",
    "\u202egnp.exe\u2066",
    "a\ud800b",
    "{title}{0}{body}%s",
    "<!-- ]]> -->",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_job_acts_in_the_page(text: str) -> None:
    own = dict.fromkeys(
        ("name", "user", "node", "partition", "account", "qos", "comment", "command", "output_path", "detail"), text
    )
    nasty = job(
        **own,
        reason=text,
        work_dir=text,
        array_text=text,
        error_path=text + "x",
        sweep={text: text},
        usage=msgspec.to_builtins(
            usage(sentence=text, verdict=text.encode(errors="replace").decode(), gpus=[{"uuid": text}])
        ),
    )
    events = (JobEvent(at=START, event=text, state=text, detail=text),)
    html = page(report(job=nasty, events=events, script=f"{text}\n{text}"))
    plain = Page(page(report(job=msgspec.structs.replace(nasty, name="x"), events=events, script="a\na")))
    parsed = Page(html)
    assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in plain.tags}
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    html.encode()
    assert not set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html))


@given(st.text(st.characters(categories=None), max_size=60))
def test_no_text_at_all_adds_an_element(text: str) -> None:
    nasty = job(name=text, detail=text, sweep={"lr": text})
    html = page(report(job=nasty, script=text))
    assert not {tag for tag, _ in Page(html).tags} & {"script", "img", "a", "b0"}
    assert all(each.isprintable() or each == "\n" for each in html)


def test_a_script_keeps_its_lines_and_indents() -> None:
    html = page(report(script="if true; then\n\techo 'a  b'\nfi\r\n"))
    (block,) = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    assert block.split("\n")[:2] == ["if true; then", "        echo &#x27;a  b&#x27;"]


@pytest.mark.parametrize("state", JobState)
def test_a_job_that_never_ran_or_was_not_measured_has_a_page_too(state: JobState) -> None:
    bare = Job(id=3, node="n1", name="x", user="ada", state=state, submitted_at=START, work_dir="/")
    html = page(JobReport(job=bare, wait_s=5.0, run_s=0.0))
    assert state.value in Page(html).text
    assert pictures(html) == []
    for measured in (usage(gpus=[]), JobUsage(gpus=(GpuUsage(uuid="MIG-1"),), verdict=Verdict.UNKNOWN), JobUsage()):
        assert Page(page(JobReport(job=msgspec.structs.replace(bare, usage=measured), wait_s=0, run_s=0)))


def test_an_array_task_is_named_as_slurm_names_it() -> None:
    assert "Job 17_3" in Page(page(report(job=job(id=20, array_job_id=17, array_task_id=3)))).text


@pytest.mark.parametrize(
    "points",
    [
        (),
        (UsagePoint(at=START),),
        (UsagePoint(at=START, utilization_percent=50.0),),
        (UsagePoint(at=START + 5, power_w=0.0), UsagePoint(at=START + 5, power_w=0.0)),
        (UsagePoint(at=START - 10**6, memory_bytes=0), UsagePoint(at=START + 10**8, memory_bytes=2**60)),
    ],
)
def test_strange_curves_are_drawn_or_left_out(points: tuple[UsagePoint, ...]) -> None:
    html = page(report(curve=points))
    for picture in pictures(html):
        assert len(list(picture.iter(f"{SVG}text"))) < 20
    assert "nan" not in html.lower().replace("noun", "")


def series(points: list[tuple[int, float | None]], top: float = 100.0) -> Series:
    return Series(name="x", kind="load", points=points, top=top, written=lambda value: f"{value:.0f}%")


def test_a_gap_is_left_open_and_each_value_can_be_read() -> None:
    points: list[tuple[int, float | None]] = [(10, 50.0), (20, 100.0), (60, None), (70, 0.0), (80, 50.0), (90, None)]
    picture = ElementTree.fromstring(svg(series(points), 0, 100))
    lines = [each.get("points", "").split() for each in picture.iter(f"{SVG}polyline")]
    assert lines == [["118.0,68.0", "184.0,10.0"], ["514.0,126.0", "580.0,68.0"]]
    told = [each.text for each in picture.iter(f"{SVG}title")]
    assert told == ["50% at 10 s", "100% at 20 s", "0% at 1 min 10 s", "50% at 1 min 20 s"]


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.none() | st.floats(-1e12, 1e12)), max_size=50),
    st.integers(1, 10**9),
    st.floats(1e-3, 1e12),
)
def test_any_curve_is_well_formed_and_stays_inside(
    points: list[tuple[int, float | None]], end: int, top: float
) -> None:
    picture = ElementTree.fromstring(svg(series(sorted(points, key=lambda each: each[0]), top), 0, end))
    for line in picture.iter(f"{SVG}polyline"):
        for spot in line.get("points", "").split():
            across, down = (float(each) for each in spot.split(","))
            assert 52 <= across <= 712
            assert 10 <= down <= 126
    assert 1 <= len([each for each in picture.iter(f"{SVG}text") if each.get("text-anchor") != "end"]) <= 110


@given(st.floats(1e-9, 1e18))
def test_the_top_of_a_scale_is_round_and_just_above(value: float) -> None:
    assert value * (1 - 1e-8) <= round_top(value) <= 1.7 * value
