"""`sacct`: the history. sacct(1)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from agent.api import program
from agent.api.errors import StokerError
from agent.api.types import FINAL_STATES, Job, JobState
from tui import moments
from tui.slurm import ask, job, steps, times
from tui.slurm.argv import Options, ToolError, Words
from tui.slurm.job import View

HELP = """\
Usage: sacct [OPTIONS]
  -j, --jobs=IDS         these: 17, 17_3, 17_[1-5]; else those since midnight
  -S, --starttime=TIME   -E, --endtime=TIME     2026-11-20, 14:30, now-2hours, yesterday
  -u, --user=NAMES  -a, --allusers  -A, --accounts  -r, --partition  -q, --qos  --name=NAMES  -N, --nodelist
  -s, --state=STATES     CD,F,TO,CA,OOM,NF,PR,R,PD
  -X, --allocations      without the steps: 17.batch, and 17.0 for each srun
  -o, --format=FIELDS    JobID%20,State,Elapsed; -e lists them;  -b, --brief
  -n, --noheader  -P, --parsable2  -p, --parsable  --delimiter=TEXT  --json
"""
OPTIONS = Options(
    "account:A= accounts= allclusters:L allocations:X allusers:a array associations:x=! brief:b cluster:M= "
    "clusters= completion:c! constraints:C=! cpus=! delimiter= duplicates:D endtime:E= env-vars! expand-patterns "
    "federation! format:o= gid:g=! group=! help:h helpformat:e jobs:j= json? local long:l name= ncpus:I=! nnodes:i=! "
    "noconvert nodelist:N= noheader:n parsable:p parsable2:P partition:r= qos:q= reason:R=! starttime:S= state:s= "
    "submit-line! timelimit-min:k=! timelimit-max:K=! truncate:T uid= units= usage use-local-uid user:u= verbose:v "
    "version:V wckeys:W=! whole-hetjob? yaml!"
)
DEFAULT = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
BRIEF = "JobID,State,ExitCode"
LONG = "JobID,JobIDRaw,JobName,Partition,MaxRSS,AllocCPUS,Elapsed,State,ExitCode,ReqMem,ReqTRES,AllocTRES"


class Line(msgspec.Struct, frozen=True):
    """A job, or one of its steps."""

    view: View
    step: steps.Step | None = None

    @property
    def job(self) -> Job:
        """The job."""
        return self.view.job

    @property
    def id(self) -> str:
        """`17_3.batch`."""
        return self.step.id if self.step else self.view.id

    @property
    def state(self) -> str:
        """`CANCELLED by 1000`; a step has no such word."""
        if self.step is not None:
            return self.step.state
        if self.job.state is JobState.CANCELLED:
            return f"CANCELLED by {job.uid(canceller(self.job))}"
        return self.view.state

    @property
    def exit_code(self) -> str:
        """`3:0`; a signal that ended a cancelled job stands on its steps."""
        if self.step is not None:
            return "{}:{}".format(*self.step.code)
        return "0:0" if self.job.state is JobState.CANCELLED else self.view.exit_code

    @property
    def cpus(self) -> int:
        """CPUs given to it."""
        if self.step is not None:
            return self.step.cpus
        return self.view.cpus if self.view.nodes or self.view.pending else 0

    @property
    def started_at(self) -> float | None:
        """Unix seconds."""
        return self.step.started_at if self.step else self.job.started_at

    @property
    def ended_at(self) -> float | None:
        """Unix seconds."""
        return self.step.ended_at if self.step else self.job.ended_at

    @property
    def elapsed_s(self) -> int:
        """From start to end."""
        return self.step.elapsed_s if self.step else self.view.elapsed_s

    @property
    def cpu_s(self) -> float | None:
        """CPU time, as far as it is known."""
        if self.step is not None and self.step.told is not None:
            return self.step.told.cpu_seconds
        return self.job.usage.cpu_seconds if self.job.usage else None

    @property
    def rss_bytes(self) -> int | None:
        """Memory at its most: of a step's largest rank, or of the job in all."""
        if self.step is not None and self.step.told is not None:
            return self.step.told.max_rss_bytes
        return self.job.usage.host_memory_peak_bytes if self.job.usage else None

    @property
    def tres(self) -> str:
        """Resources as the accounting sorts them."""
        parts = self.view.tres_parts()
        if self.step is not None:
            parts["cpu"] = str(self.step.cpus)
        return _sorted({name: part for name, part in parts.items() if not self.step or name != "billing"})


def _sorted(parts: Mapping[str, str]) -> str:
    return ",".join(f"{name}={parts[name]}" for name in sorted(parts))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if words.rest:
        raise ToolError(f"unrecognized argument: {program.printable(words.rest[0])}")
    if "helpformat" in words:
        return _list_fields()
    now = time.time()
    fields = _fields(words, environ)
    ask.spread_nodes(words)
    queue = ask.Queue.open(environ)
    queue.check_clusters(words)
    views = _found(queue, words, now)
    if "json" in words:
        from tui.slurm import shapes

        shapes.print_json(shapes.jobs(views, "sacct", sys.argv, queue.cluster()))
        return 0
    lines = [Line(view) for view in views]
    if "allocations" not in words:
        lines = [each for line in lines for each in (line, *(Line(line.view, step) for step in steps.of(line.view)))]
    named = ask.split_ids(words.said.get("jobs", []))
    exact = {text for text in named if "." in text}
    if exact:
        whole = {str(ref) for ref in ask.refs([text for text in named if text not in exact])}
        lines = [line for line in lines if line.id in exact or {line.view.id, str(line.view.array_id)} & whole]
    _print(lines, fields, words)
    return 0


def canceller(ended: Job) -> str:
    """Who cancelled it, from the sentence that tells it; the owner where none does."""
    said, _, rest = (ended.detail or "").partition("cancelled by ")
    name = rest.split(":")[0].split(" ")[0].rstrip(".,;")
    return name if name and not said.strip() else ended.user


def _found(queue: ask.Queue, words: Words, now: float) -> list[View]:
    states = _states(words)
    since, until = _span(words, now)
    default = queue.default_partition()
    if "jobs" in words:
        named = ask.split_ids(words.said["jobs"])
        try:
            found = queue.named_all(named, "Bad job/step specified:", steps=True)
        except ToolError as error:
            raise ToolError(f"TOOL: fatal: {error}", bare=True) from None
        since = since if "starttime" in words else None
    else:
        found = []
    users = _users(words)
    if "jobs" not in words:
        asked = {"since": since, "until": until, "steps": None if "allocations" in words else 1}
        whose: list[str | None] = [*users] or [None]
        found = [each for name in whose for each in queue.jobs((), name, **asked)]
    kept = [
        each
        for each in found
        if (states is None or each.state in states)
        and (not users or each.user in users or "jobs" in words)
        and _within(each, since, until)
        and _fits(each, words, default)
    ]
    views = job.views(kept, now, default, one_each="array" in words, cluster=queue.cluster)
    return sorted(views, key=lambda view: view.job.id)


def _within(each: Job, since: int | None, until: int | None) -> bool:
    ended = each.ended_at if each.state in FINAL_STATES else None
    return (since is None or ended is None or ended >= since) and (until is None or each.submitted_at <= until)


def _fits(each: Job, words: Words, default: str) -> bool:
    facts = {
        "account": each.account or "",
        "accounts": each.account or "",
        "name": each.name,
        "nodelist": each.node,
        "partition": each.partition or default,
        "qos": each.qos or "normal",
    }
    return job.all_listed(words, facts)


def _users(words: Words) -> list[str]:
    """Whose jobs: named, all (also for root), or one's own."""
    named = ask.users(words.listed("user", "uid"))
    return named if named or "allusers" in words or ask.me() == "root" else [ask.me()]


def _states(words: Words) -> list[JobState] | None:
    if "state" not in words:
        return None
    try:
        return ask.states(words.listed("state"))
    except KeyError as error:
        word = program.printable(error.args[0])
        raise ToolError(f"TOOL: fatal: unrecognized job state value '{word}'", bare=True) from None


def _span(words: Words, now: float) -> tuple[int | None, int | None]:
    """From when to when; without a word, from midnight on.

    Raises:
        ToolError: a time is none, or the first is after the second.
    """
    since = _moment(words.last("starttime") or "today", now)
    until = _moment(words.last("endtime"), now) if "endtime" in words else None
    if since > (until if until is not None else now):
        begin, end = times.stamp(since), times.stamp(until if until is not None else now)
        raise ToolError(f"Start time ({begin}) requested is after end time ({end}).")
    return since, until


def _moment(text: str | None, now: float) -> int:
    word = (text or "").strip().lower()
    if word in ("noon", "teatime", "fika", "tomorrow"):
        midnight = moments.read("today", now)
        return midnight + {"noon": 12, "teatime": 16, "fika": 15, "tomorrow": 24}[word] * 3600
    if word.startswith("now+"):
        return 2 * int(now) - moments.read(word.replace("+", "-"), now)
    for form in _DAYS:
        found = _day(word, form, now)
        if found is not None:
            return found
    try:
        return moments.read(text or "", now)
    except StokerError:
        raise ToolError(f"Invalid time specification (pos=0): {program.printable(text or '')}", bare=True) from None


_DAYS = ("%m%d%y", "%m%d", "%m.%d.%y", "%m.%d", "%m/%d", "%m/%d/%y-%H:%M:%S", "%m/%d/%Y", "%I:%M%p", "%I:%M %p")
"""Forms of sacct(1), TIME FORMATS, beside those of `moments`."""


def _day(word: str, form: str, now: float) -> int | None:
    """A moment in one form, of this year or day where it does not say; letters and digits as they stand."""
    lengths = {"%m%d%y": 6, "%m%d": 4}
    if form in lengths and (len(word) != lengths[form] or not word.isdecimal()):
        return None
    today = time.localtime(now)
    whole, whole_form = (f"{today.tm_year} {word}", f"%Y {form}") if "%y" not in form.lower() else (word, form)
    if "%I" in form:
        whole, whole_form = time.strftime("%Y-%m-%d ", today) + word, f"%Y-%m-%d {form}"
    try:
        return int(time.mktime(time.strptime(whole, whole_form)))
    except (ValueError, OverflowError):
        return None


# --- the table --------------------------------------------------------------------------------------------------------


class _Field(msgspec.Struct, frozen=True):
    name: str
    width: int
    """Below 0: set to the left."""
    value: Callable[[Line], str]


def _fields(words: Words, environ: Mapping[str, str]) -> list[_Field]:
    plain = BRIEF if "brief" in words else LONG if "long" in words else environ.get("SACCT_FORMAT") or DEFAULT
    texts = [text for text in ",".join(words.said.get("format", [plain])).split(",") if text.strip()]
    return [field for text in texts for field in (FIELDS if text.strip().lower() == "all" else [_field(text)])]


def _field(text: str) -> _Field:
    name, percent, width = text.strip().partition("%")
    found = _find(name)
    shape = width.removeprefix("-")
    if found is None or (percent and not (shape.isascii() and shape.isdigit() and len(shape) < 5)):
        raise ToolError(f'Invalid field requested: "{program.printable(text.strip())}"')
    return _Field(found.name, int(width), found.value) if percent else found


def _find(name: str) -> _Field | None:
    """A field by its name, or by a beginning of it."""
    wanted = name.lower()
    exact = [each for each in FIELDS if each.name.lower() == wanted]
    return next(iter([*exact, *(each for each in FIELDS if wanted and each.name.lower().startswith(wanted))]), None)


def _print(lines: Sequence[Line], fields: Sequence[_Field], words: Words) -> None:
    titles = [each.name for each in fields]
    rows = [[each.value(line) for each in fields] for line in lines]
    header = "noheader" not in words
    if "parsable" in words or "parsable2" in words:
        mark = words.last("delimiter") or "|"
        end = "" if "parsable2" in words else mark
        for row in [titles, *rows] if header else rows:
            print(mark.join(row) + end)
        return
    widths = [each.width for each in fields]
    if header:
        print("".join(f"{_fit(title, width)} " for title, width in zip(titles, widths, strict=True)))
        print("".join(f"{'-' * abs(width)} " for width in widths))
    for row in rows:
        print("".join(f"{_fit(text, width)} " for text, width in zip(row, widths, strict=True)))


def _fit(text: str, width: int) -> str:
    room = abs(width)
    cut = text if len(text) <= room else text[: room - 1] + "+"
    return cut.ljust(room) if width < 0 else cut.rjust(room)


def _list_fields() -> int:
    names = sorted((each.name for each in FIELDS), key=str.lower)
    for place in range(0, len(names), 4):
        print(" ".join(f"{name:<19}" for name in names[place : place + 4]))
    return 0


def _for_job(value: Callable[[View], str]) -> Callable[[Line], str]:
    """A fact that a step does not have."""
    return lambda line: "" if line.step else value(line.view)


def _usage(value: Callable[[Line], str]) -> Callable[[Line], str]:
    """A measured fact: it stands on the step, as in Slurm."""
    return lambda line: value(line) if line.step else ""


def _derived(view: View) -> int:
    """The highest exit code of its srun steps."""
    return max((step.exit_code or 0 for step in view.job.steps), default=0)


def _rss(line: Line) -> str:
    return times.kibi(line.rss_bytes)


def _minutes(line: View) -> str:
    whole = times.whole_minutes(line.job.time_limit_s)
    return "UNLIMITED" if whole is None else str(whole)


FIELDS: tuple[_Field, ...] = (
    _Field("Account", 10, lambda line: line.job.account or ""),
    _Field("AdminComment", 15, lambda line: ""),
    _Field("AllocCPUS", 10, lambda line: str(line.cpus)),
    _Field("AllocNodes", 10, lambda line: str(int(bool(line.view.nodes)))),
    _Field("AllocTRES", 10, lambda line: line.tres if line.view.nodes else ""),
    _Field("AveCPU", 10, _usage(lambda line: times.full(line.cpu_s, ""))),
    _Field("AveRSS", 10, _usage(_rss)),
    _Field("AveVMSize", 10, lambda line: ""),
    _Field("Cluster", 10, lambda line: line.view.cluster()),
    _Field("Comment", 14, _for_job(lambda view: view.job.comment or "")),
    _Field("Constraints", 19, _for_job(lambda view: job.constraint(view.job))),
    _Field("ConsumedEnergy", 14, _usage(lambda line: _joules(line))),
    _Field("ConsumedEnergyRaw", 17, _usage(lambda line: _joules(line))),
    _Field("Container", 19, lambda line: ""),
    _Field("CPUTime", 10, lambda line: times.full(line.elapsed_s * (line.step.cpus if line.step else line.view.cpus))),
    _Field("CPUTimeRAW", 10, lambda line: str(line.elapsed_s * (line.step.cpus if line.step else line.view.cpus))),
    _Field("DerivedExitCode", 15, _for_job(lambda view: f"{_derived(view)}:0")),
    _Field("Elapsed", 10, lambda line: times.full(line.elapsed_s)),
    _Field("ElapsedRaw", 10, lambda line: str(line.elapsed_s)),
    _Field("Eligible", 19, lambda line: times.stamp(line.job.begin_at or line.job.submitted_at)),
    _Field("End", 19, lambda line: times.stamp(line.ended_at)),
    _Field("ExitCode", 8, lambda line: line.exit_code),
    _Field("Flags", 19, lambda line: ""),
    _Field("GID", 6, _for_job(lambda view: str(job.group(view.job.user)[1]))),
    _Field("Group", 9, _for_job(lambda view: job.group(view.job.user)[0])),
    _Field("JobID", -12, lambda line: line.id),
    _Field("JobIDRaw", -12, lambda line: line.step.raw_id if line.step else str(line.job.id)),
    _Field("JobName", 10, lambda line: line.step.name if line.step else line.job.name),
    _Field("Layout", 9, lambda line: ""),
    _Field("MaxRSS", 10, _usage(_rss)),
    _Field("MaxVMSize", 10, lambda line: ""),
    _Field("NCPUS", 10, lambda line: str(line.cpus)),
    _Field("NNodes", 8, lambda line: "1"),
    _Field("NodeList", 15, lambda line: line.view.nodes or "None assigned"),
    _Field("NTasks", 8, lambda line: str(line.step.tasks) if line.step else ""),
    _Field("Partition", 10, _for_job(lambda view: view.partition_name)),
    _Field("Planned", 10, _for_job(lambda view: times.full(_waited_s(view)))),
    _Field("Priority", 10, _for_job(lambda view: "" if view.job.priority is None else str(view.job.priority))),
    _Field("QOS", 10, _for_job(lambda view: view.job.qos or "normal")),
    _Field("Reason", 22, _for_job(lambda view: view.reason)),
    _Field("ReqCPUS", 8, lambda line: str(line.view.asked_cpus)),
    _Field("ReqMem", 10, _for_job(lambda view: times.size(view.job.memory_bytes))),
    _Field("ReqNodes", 8, lambda line: "1"),
    _Field("ReqTRES", 10, _for_job(lambda view: _sorted(view.tres_parts(asked=True)))),
    _Field("Reservation", 20, _for_job(lambda view: view.job.reservation or "")),
    _Field("Reserved", 10, _for_job(lambda view: times.full(_waited_s(view)))),
    _Field("Restarts", 8, _for_job(lambda view: str(max(0, view.job.attempt - 1)))),
    _Field("Start", 19, lambda line: times.stamp(line.started_at)),
    _Field("State", 10, lambda line: line.state),
    _Field("StdErr", 20, _for_job(lambda view: view.stderr)),
    _Field("StdIn", 20, _for_job(lambda view: view.job.input_path or "/dev/null")),
    _Field("StdOut", 20, _for_job(lambda view: view.stdout)),
    _Field("Submit", 19, lambda line: times.stamp(line.job.submitted_at)),
    _Field("SubmitLine", 20, _for_job(lambda view: " ".join([view.job.command or "", *view.job.args]))),
    _Field("Suspended", 10, lambda line: "00:00:00"),
    _Field("SystemComment", 15, lambda line: ""),
    _Field("SystemCPU", 10, lambda line: ""),
    _Field("Timelimit", 10, _for_job(lambda view: times.full(view.job.time_limit_s))),
    _Field("TimelimitRaw", 10, _for_job(_minutes)),
    _Field("TotalCPU", 10, lambda line: times.cpu(line.cpu_s)),
    _Field("TRESUsageInMax", 14, lambda line: ""),
    _Field("TRESUsageInTot", 14, lambda line: ""),
    _Field("UID", 6, _for_job(lambda view: str(job.uid(view.job.user)))),
    _Field("User", 9, _for_job(lambda view: view.job.user)),
    _Field("UserCPU", 10, lambda line: times.cpu(line.cpu_s)),
    _Field("WCKey", 10, _for_job(lambda view: view.job.wckey or "")),
    _Field("WorkDir", 20, _for_job(lambda view: view.job.work_dir)),
)
"""sacct(1), `--format`: widths as recorded in tests/data/slurm/sacct_fields.txt."""


def _waited_s(view: View) -> int:
    began = view.job.started_at if view.job.started_at is not None else int(view.now)
    return max(0, began - (view.job.begin_at or view.job.submitted_at))


def _joules(line: Line) -> str:
    energy = line.job.usage.energy_kwh if line.job.usage else None
    return "" if energy is None or (line.step and line.step.told) else str(round(energy * 3_600_000))
