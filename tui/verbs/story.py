"""One job in full: `stoker show`, `report`, and the results of a sweep."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from agent.api.commandline import Parser, meant
from agent.api.errors import ApiError, StokerError
from agent.api.refs import JobRef
from agent.api.types import JobReport, TaskResult
from tui import arrays, plain, printed, safe, tables, words
from tui.verbs import wholearray
from tui.verbs.call import Call


def options(parser: Parser, name: str) -> None:
    """What they take."""
    parser.add_argument(
        "job_ref",
        type=words.job,
        metavar="JOB",
        help="17, 17_3, n1:17; of an array, 17 is all its tasks" if name != "sweep" else "17, n1:17",
    )
    if name == "report":
        parser.add_argument("--html", metavar="FILE", type=words.said, help="write one page with plots; - for stdout")
        parser.set_defaults(work=lambda call, args: report(call, args.job_ref, html=args.html))
        words.examples(parser, "stoker report 17", "stoker report 17 --html job17.html")
    elif name == "sweep":
        parser.add_argument("--sort", metavar="NAME", type=words.said, help="by this metric or parameter, lowest first")
        parser.add_argument("--reverse", action="store_true", help="highest first")
        parser.set_defaults(work=_sweep)
        words.examples(parser, "stoker sweep 17 --sort loss", "stoker sweep 17 --sort accuracy --reverse")
    else:
        parser.set_defaults(work=lambda call, args: show(call, args.job_ref))
        words.examples(parser, "stoker show 17", "stoker show n1:17_3 --json")


def show(call: Call, ref: JobRef) -> int:
    """Print everything about one job, or about each task of an array."""
    job = call.client.job(ref)
    if tasks := wholearray.tasks(call, ref, job):
        return wholearray.show(call, tasks)
    if call.json:
        plain.as_json(job, call.out)
        return 0
    told = _history(call, ref)
    plain.facts(printed.job_facts(safe.clean(job), time.time()), call.out)
    if told is not None and told.events:
        print("\nHistory", file=call.out)
        plain.facts([printed.event_line(event) for event in safe.clean(told).events], call.out)
    return 0


def report(call: Call, ref: JobRef, *, html: str | None) -> int:
    """Print the account of one job, or of the tasks of an array; or write that of one as a page."""
    told = call.client.report(ref)
    if tasks := wholearray.tasks(call, ref, told.job):
        return wholearray.report(call, tasks, html=html is not None)
    if html is not None:
        return _write_page(call, told, html)
    if call.json:
        plain.as_json(told, call.out)
        return 0
    plain.facts(printed.report_facts(safe.clean(told)), call.out)
    if told.events:
        print("\nHistory", file=call.out)
        plain.facts([printed.event_line(event) for event in safe.clean(told).events], call.out)
    return 0


def results(call: Call, ref: JobRef, *, sort: str | None, reverse: bool) -> int:
    """Print what each task of an array or a sweep has told of itself."""
    found = call.client.results(ref)
    ordered = _sorted(safe.clean(found), sort, reverse=reverse) if sort else found
    if call.json:
        plain.as_json(ordered, call.out)
        return 0
    titles, lines = tables.results(safe.clean(ordered))
    plain.table(titles, lines, call.out)
    return 0


def _history(call: Call, ref: JobRef) -> JobReport | None:
    """The job's story; `None` from a server that has none to tell."""
    try:
        return call.client.report(ref)
    except ApiError as error:
        if error.status in (404, 405, 501):
            return None
        raise


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: on a full disk an older page stays."""
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe
        path.write_text(text, encoding="utf-8")
        return
    new = path.resolve().with_name(f".stoker-report-{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        if path.exists():
            new.chmod(path.stat().st_mode & 0o777)
        new.replace(path.resolve())
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _write_page(call: Call, told: JobReport, file: str) -> int:
    from tui import reportpage, submit

    text = reportpage.page(told)
    if file == "-":
        call.out.write(text)
        return 0
    try:
        _replace(submit.typed_path(file), text)
    except OSError as error:
        raise StokerError(f"cannot write {file}: {error.strerror or error}; name another file") from error
    if call.json:
        plain.as_json({"file": file}, call.out)
    else:
        print(f"Wrote {safe.text(file)}, the report of job {arrays.label(told.job)}", file=call.out)
    return 0


def _sweep(call: Call, args: argparse.Namespace) -> int:
    return results(call, args.job_ref, sort=args.sort, reverse=args.reverse)


def _sorted(found: list[TaskResult], name: str, *, reverse: bool) -> list[TaskResult]:
    """By one number or word; tasks that have none come last.

    Raises:
        StokerError: no task has told such a thing.
    """
    known = sorted({each for result in found for each in (*result.metrics, *result.job.sweep)})
    if name not in known:
        raise StokerError(f"no task has told {name!r}{meant(name, known) or _known(known)}")
    have = [each for each in found if tables.result_value(each, name) is not None]
    lack = [each for each in found if tables.result_value(each, name) is None]
    return sorted(have, key=lambda each: tables.sort_key(tables.result_value(each, name)), reverse=reverse) + lack


def _known(names: list[str]) -> str:
    return f"; there is {', '.join(names[:12])}" if names else "; nothing has been told yet"
