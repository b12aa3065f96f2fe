"""The whole story of one job as one HTML page: `stoker report JOB --html`.

Rules kept here: the page holds everything it shows and asks nobody for anything (its own policy forbids it to), it has
no script, and every text passes `safe` and is escaped where it enters. It is light or dark as the reader's screen is,
and prints on white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from agent.api.queue import GpuUsage, UsagePoint, Verdict
from agent.api.types import Job, JobReport, JobState
from tui import arrays, jobrows, reportplot, safe, units
from tui.palette import DARK, LIGHT, Palette
from tui.reportplot import Series

_GOOD, _WARN, _BAD, _DIM = "good", "warn", "bad", "dim"
_STATE_TONES = {
    JobState.COMPLETED: _GOOD,
    JobState.RUNNING: "live",
    JobState.COMPLETING: "live",
    JobState.CONFIGURING: "live",
    JobState.PENDING: _DIM,
    JobState.CANCELLED: _WARN,
    JobState.PREEMPTED: _WARN,
}
"""The other states are `bad`."""
_VERDICTS = {
    Verdict.FINE: (_GOOD, "Well used"),
    Verdict.IDLE: (_BAD, "Held but idle"),
    Verdict.MEMORY_BOUND: (_WARN, "Memory-bound"),
    Verdict.DATA_STARVED: (_WARN, "Waiting for data"),
    Verdict.UNKNOWN: (_DIM, "No verdict"),
}
_LINE_MAX = 20_000
"""Characters of one line of a script."""


def page(report: JobReport) -> str:
    """The page, complete."""
    job = report.job
    title = f"Job {_name(job)} · {job.name}"
    body = [
        _header(job),
        _verdict(job),
        _tiles(report),
        _plots(report),
        _gpus(job),
        _section("Facts", _facts(_job_facts(report))),
        _section("How it ended", _facts(_exit_facts(job))) if job.attempt or job.state.is_final else "",
        _history(report),
        _section("Script", f"<pre>{_block(report.script)}</pre>") if report.script else "",
    ]
    return _DOCUMENT.format(title=_text(title), style=_STYLE, body="\n".join(part for part in body if part))


# --- parts ------------------------------------------------------------------------------------------------------------


def _header(job: Job) -> str:
    tone = _STATE_TONES.get(job.state, _BAD)
    who = " · ".join(_text(part) for part in (job.user, job.node, job.partition or "", job.account or "") if part)
    return (
        f'<header><div><p class="kicker">Job {_text(_name(job))}</p><h1>{_text(job.name)}</h1><p class="who">{who}</p>'
        f'</div><span class="badge {tone}">{_text(job.state.value)}</span></header>'
    )


def _verdict(job: Job) -> str:
    usage = job.usage
    if usage is None or not usage.gpus:
        return ""
    tone, words = _VERDICTS.get(usage.verdict, (_DIM, usage.verdict.value))
    sentence = f" <span>{_text(usage.sentence)}</span>" if usage.sentence else ""
    return f'<p class="verdict {tone}"><strong>{_text(words)}.</strong>{sentence}</p>'


def _tiles(report: JobReport) -> str:
    usage = report.job.usage
    tiles = [
        ("Waited", units.elapsed(report.wait_s), "before its first start"),
        ("Ran", units.elapsed(report.run_s if report.job.attempt else None), _limit(report.job)),
    ]
    if usage is not None:
        tiles += [
            (
                "GPU utilisation",
                units.percent(usage.utilization_percent),
                f"of {_hours(usage.gpu_seconds, 'GPU')}",
            ),
            ("GPU memory, peak", units.size(usage.memory_peak_bytes), "sum over its GPUs"),
            ("Energy", _kwh(usage.energy_kwh), "of its GPUs"),
            ("Host memory, peak", units.size(usage.host_memory_peak_bytes), _hours(usage.cpu_seconds, "CPU")),
        ]
    cells = (
        f'<div class="tile"><p>{_text(name)}</p><b>{_text(value)}</b><small>{_text(note)}</small></div>'
        for name, value, note in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _plots(report: JobReport) -> str:
    curve = report.curve
    measured = [series for series in _series(curve) if any(value is not None for _, value in series.points)]
    if not measured:
        return ""
    start = min(curve[0].at - 1, report.job.started_at or curve[0].at - 1)
    end = max(curve[-1].at, start + 1)
    pictures = (
        f"<figure><figcaption><span>{series.name}</span><span>{_summary(series)}</span></figcaption>"
        f"{reportplot.svg(series, start, end)}</figure>"
        for series in measured
    )
    return _section("Over the run", f'{"".join(pictures)}<p class="note">Time since the start, {_moment(start)}.</p>')


def _series(curve: Sequence[UsagePoint]) -> list[Series]:
    gib = [(point.at, None if point.memory_bytes is None else point.memory_bytes / 2**30) for point in curve]
    power = [(point.at, point.power_w) for point in curve]
    return [
        Series(
            name="GPU utilisation",
            kind="load",
            points=[(point.at, point.utilization_percent) for point in curve],
            top=100,
            written=lambda value: f"{value:.0f}%",
        ),
        Series(name="GPU memory", kind="memory", points=gib, top=_top(gib), written=lambda value: f"{value:.3g} GiB"),
        Series(name="Power", kind="power", points=power, top=_top(power), written=lambda value: f"{value:.4g} W"),
    ]


def _top(points: Iterable[tuple[int, float | None]]) -> float:
    return reportplot.round_top(max((value for _, value in points if value is not None), default=1.0) or 1.0)


def _summary(series: Series) -> str:
    known = [value for _, value in series.points if value is not None]
    return f"highest {series.written(max(known))}"


def _gpus(job: Job) -> str:
    if job.usage is None or not job.usage.gpus:
        return ""
    head = ("GPU", "Utilisation", "Memory utilisation", "Memory, peak", "Energy")
    lines = "".join(
        f"<tr>{''.join(_cell(word, at) for at, word in enumerate(_gpu(each)))}</tr>" for each in job.usage.gpus
    )
    titles = "".join(f'<th class="{_side(at)}">{word}</th>' for at, word in enumerate(head))
    return _section("Its GPUs", f'<div class="wide"><table><tr>{titles}</tr>{lines}</table></div>')


def _gpu(gpu: GpuUsage) -> list[str]:
    return [
        gpu.uuid,
        units.percent(gpu.utilization_percent),
        units.percent(gpu.memory_utilization_percent),
        units.size(gpu.memory_peak_bytes),
        _kwh(gpu.energy_j / 3.6e6) if gpu.energy_j is not None else units.UNKNOWN,
    ]


def _cell(word: str, at: int) -> str:
    return f'<td class="{_side(at)}">{_text(word)}</td>'


def _side(at: int) -> str:
    return "name" if at == 0 else "number"


def _history(report: JobReport) -> str:
    lines = "".join(
        f'<tr><td class="when">{_moment(event.at)}</td><td>{_text(event.event)}</td><td>{_text(event.state)}</td>'
        f"<td>{_text(event.detail or '')}</td></tr>"
        for event in report.events
    )
    head = "<tr><th>When</th><th>What</th><th>State after</th><th></th></tr>"
    return _section("History", f'<div class="wide"><table>{head}{lines}</table></div>') if lines else ""


# --- facts ------------------------------------------------------------------------------------------------------------


def _job_facts(report: JobReport) -> list[tuple[str, str | None]]:
    job = report.job
    held = f" (#{arrays.ranges(job.gpu_indexes)})" if job.gpu_indexes else ""
    return [
        ("GPUs", f"{jobrows.job_gpus(job)}{held}" + (f", {units.count(job.shards, 'shard')}" if job.shards else "")),
        ("Tasks × CPUs", f"{job.tasks} × {job.cpus_per_task}"),
        ("Memory", units.size(job.memory_bytes) if job.memory_bytes else None),
        ("Time limit", units.elapsed(job.time_limit_s) if job.time_limit_s is not None else "unlimited"),
        ("QOS", job.qos),
        ("Array", job.array_text),
        *((f"Sweep: {name}", value) for name, value in job.sweep.items()),
        ("Submitted", _moment(job.submitted_at)),
        ("Started", _moment(job.started_at)),
        ("Ended", _moment(job.ended_at)),
        ("Command", job.command),
        ("Folder", job.work_dir),
        ("Output", job.output_path),
        ("Errors", job.error_path if job.error_path != job.output_path else None),
        ("Comment", job.comment),
    ]


def _exit_facts(job: Job) -> list[tuple[str, str | None]]:
    return [
        ("State", job.state.value),
        ("Exit code", None if job.exit_code is None else str(job.exit_code)),
        ("Signal", None if job.signal is None else str(job.signal)),
        ("Reason", job.reason),
        ("Detail", job.detail),
        ("Attempts", str(job.attempt)),
    ]


def _facts(facts: Iterable[tuple[str, str | None]]) -> str:
    lines = (f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts if value)
    return f"<dl>{''.join(lines)}</dl>"


def _name(job: Job) -> str:
    if job.array_job_id is not None and job.array_task_id is not None:
        return f"{job.array_job_id}_{job.array_task_id}"
    return str(job.id)


def _limit(job: Job) -> str:
    return f"of {units.elapsed(job.time_limit_s)} allowed" if job.time_limit_s is not None else "without a limit"


def _kwh(value: float | None) -> str:
    if value is None:
        return units.UNKNOWN
    return f"{value:.2f} kWh" if value >= 0.1 else f"{value * 1000:.1f} Wh"


def _hours(seconds: float | None, what: str) -> str:
    if seconds is None:
        return ""
    return f"{seconds / 3600:.2f} {what} hours" if seconds >= 360 else f"{seconds:.0f} {what} seconds"


def _moment(seconds: int | None) -> str:
    return units.moment(seconds) or ""


# --- the page ---------------------------------------------------------------------------------------------------------


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{title}</h2>{inside}</section>"


def _text(value: str) -> str:
    """Foreign text as a piece of the page."""
    return escape(safe.text(value))


def _block(text: str) -> str:
    """Foreign text of many lines."""
    return "\n".join(escape(safe.text(line.expandtabs(8), _LINE_MAX)) for line in text.split("\n"))


def _palette(colours: Palette) -> str:
    """As custom properties, by what they are for on the page."""
    roles = {
        "ground": "background",
        "card": "surface",
        "ink": "foreground",
        "good": "success",
        "warn": "warning",
        "bad": "error",
        "live": "primary",
        "power": "accent",
        **{role: role for role in ("dim", "track", "load", "memory", "frame")},
    }
    return "".join(f"--{name}:{colours[role]};" for name, role in roles.items())


_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
<footer>Stoker</footer>
</main></body>
</html>
"""

_STYLE = (
    f"""
:root{{{_palette(LIGHT)}color-scheme:light dark}}
@media screen and (prefers-color-scheme:dark){{:root{{{_palette(DARK)}}}}}
"""
    + """
*{box-sizing:border-box;margin:0}
body{background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:880px;margin:0 auto;padding:36px 24px 48px}
header{display:flex;justify-content:space-between;align-items:flex-start;gap:24px}
h1{font-size:28px;line-height:1.2;font-weight:650;overflow-wrap:anywhere}
h2{font-size:12px;letter-spacing:.08em;text-transform:uppercase;color:var(--dim);font-weight:600;margin:36px 0 10px}
.kicker{color:var(--dim);font-variant-numeric:tabular-nums}
.who,.note,footer{color:var(--dim);font-size:13px;overflow-wrap:anywhere}
.badge{border:1.5px solid;border-radius:99px;padding:3px 14px;font-size:13px;font-weight:600;white-space:nowrap}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}.dim{color:var(--dim)}.live{color:var(--live)}
.verdict{margin-top:22px;padding:12px 16px;background:var(--card);border-left:4px solid currentColor;border-radius:3px}
.verdict span{color:var(--ink)}
.tiles{display:flex;flex-wrap:wrap;gap:1px;margin-top:22px;background:var(--track);border:1px solid var(--track);
 border-radius:6px;overflow:hidden}
.tile{flex:1 1 130px;background:var(--ground);padding:12px 14px}
.tile p,.tile small{color:var(--dim);font-size:12px}
.tile b{display:block;font-size:20px;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin-bottom:14px}
figcaption{display:flex;justify-content:space-between;font-size:13px;margin-bottom:2px}
figcaption span+span{color:var(--dim)}
svg{display:block;width:100%;height:auto}
.load-area{fill:var(--load)}.memory-area{fill:var(--memory)}.power-area{fill:var(--power)}
.load-line{stroke:var(--load)}.memory-line{stroke:var(--memory)}.power-line{stroke:var(--power)}
.grid{stroke:var(--track)}.ground{stroke:var(--frame)}.label{fill:var(--dim)}
.pointer:hover{fill:var(--ink);fill-opacity:.08}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:600;color:var(--dim);font-size:12px;text-align:left}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--track);vertical-align:top;overflow-wrap:anywhere}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.name,.when{font-variant-numeric:tabular-nums;white-space:nowrap}
.name{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12.5px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));column-gap:32px}
dl div{display:flex;gap:12px;padding:5px 0;border-bottom:1px solid var(--track);min-width:0}
dt{flex:0 0 112px;color:var(--dim)}
dd{flex:1;min-width:0;overflow-wrap:anywhere}
pre{font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;background:var(--card);padding:14px 16px;border-radius:6px;
 overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
footer{margin-top:36px}
@page{margin:16mm}
@media print{body{font-size:12px;background:none;-webkit-print-color-adjust:exact;print-color-adjust:exact}
 main{max-width:none;padding:0}figure,tr,dl div,.tiles,.verdict{break-inside:avoid}h2{break-after:avoid}
 .pointer{display:none}}
@media (max-width:520px){dl{grid-template-columns:1fr}main{padding:20px 14px}}
"""
)
