"""What a step gets of its job: how many ranks, which number, which GPUs, which files.

Rules kept here: the job's own variables are the truth; asking for more than the allocation is refused in Slurm's
words; what is only in use by another step is waited for (`share`). Cheap imports only (see `words`).
"""

# ruff: noqa: PTH118

from __future__ import annotations

import fcntl
import os

from agent.step.share import Share
from agent.step.words import NO_GRES, StepError, Words


class Place:
    """One step's place in its job."""

    def __init__(self, words: Words, env: dict[str, str]) -> None:
        """Find it.

        Raises:
            StepError: this is no job, or the job has less than is asked for.
        """
        self.job_id = env.get("SLURM_JOB_ID", "")
        if not self.job_id:
            raise StepError("Unable to create step: this is not inside of a job (SLURM_JOB_ID is not set)")
        self.node = env.get("SLURMD_NODENAME") or env.get("SLURM_JOB_NODELIST") or "localhost"
        self.host = env.get("SLURM_JOB_NODELIST") or self.node
        self.cpus_per_task = words.number("cpus-per-task", 1) or 1
        self.ranks = _ranks(words)
        self._check_room(words, env)
        self.folder = env.get("JOB_DIR")
        self._share: Share | None = None
        self._waited = False
        self._quiet = words.flag("quiet")
        self.gpus = self._rank_gpus(words, env)
        self.step_id = self._next_step(env)
        if self._waited:
            self._tell(f"Step created for StepId={self.job_id}.{self.step_id}")

    def fail(self, why: str) -> StepError:
        """A refusal as Slurm words it."""
        return StepError(f"Unable to create step for job {self.job_id}: {why}")

    def _check_room(self, words: Words, env: dict[str, str]) -> None:
        nodes = words.text("nodes") or "1"
        if nodes not in ("1", "1-1"):
            raise self.fail("Requested node configuration is not available (this engine runs a job on one node)")
        cpus = env.get("SLURM_CPUS_ON_NODE", "")
        if not cpus.isdigit() or words.flag("overcommit"):
            return
        if self.ranks * self.cpus_per_task > _cpus_of(env):
            raise self.fail("More processors requested than permitted")

    def _rank_gpus(self, words: Words, env: dict[str, str]) -> list[list[str]] | None:
        """The GPUs of each rank, as `CUDA_VISIBLE_DEVICES` names them; `None`: all ranks see the job's."""
        held = [each for each in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        each_rank = words.number("gpus-per-task", None, least=0)
        asked = _gpus_asked(words)
        if each_rank is not None:
            asked = each_rank * self.ranks
        if asked is not None and asked > len(held):
            raise self.fail(NO_GRES)
        held = self._apart(_cpus_apart(words, env, self.ranks * self.cpus_per_task), _cpus_of(env), asked, held)
        bind = words.text("gpu-bind") or "none"
        if each_rank is not None:
            return [held[rank * each_rank : (rank + 1) * each_rank] for rank in range(self.ranks)]
        return _bound(bind.removeprefix("verbose,"), held, self.ranks) or (
            [held] * self.ranks if asked is not None else None
        )

    def _apart(self, cpus: int, of_cpus: int, asked: int | None, held: list[str]) -> list[str]:
        """The GPUs, once they and the CPUs are in no other step that has its own; both kept until srun ends."""
        fewer = asked is not None and asked < len(held)
        gpus = asked if fewer and asked else 0
        if cpus and self.folder is None:
            raise self.fail(
                "--exclusive and --exact cannot share out CPUs: JOB_DIR is not set; leave it as the job has it"
            )
        if self.folder is None or not (cpus or gpus):
            return held[:asked] if fewer else held
        try:
            self._share = Share(self.folder, cpus=cpus, of_cpus=of_cpus, gpus=gpus, of_gpus=held)
            got = self._share.wait(self._tell_busy)
        except OSError as error:
            raise self.fail(f"cannot write in JOB_DIR {self.folder}: {error.strerror}") from error
        return got if fewer else held

    def _tell_busy(self) -> None:
        self._waited = True
        self._tell(f"Job {self.job_id} step creation temporarily disabled, retrying (Requested nodes are busy)")

    def _tell(self, sentence: str) -> None:
        if not self._quiet:
            say(f"srun: {sentence}")

    def _next_step(self, env: dict[str, str]) -> int:
        """This step's number: 0 is the first one of the job's attempt. Kept in `$JOB_DIR/.steps`."""
        if self.folder is None:
            return 0
        attempt = env.get("JOB_ATTEMPT", "1")
        try:
            fd = os.open(os.path.join(self.folder, ".steps"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            return 0  # a full or foreign folder costs the number, not the step
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = os.read(fd, 64).decode("ascii", "replace").split()
            step = int(before[1]) + 1 if len(before) == 2 and before[0] == attempt and before[1].isdigit() else 0
            os.pwrite(fd, f"{attempt} {step}\n".encode(), 0)
            os.ftruncate(fd, len(f"{attempt} {step}\n"))
        except OSError:
            return 0
        finally:
            os.close(fd)
        return step


def variables(place: Place, rank: int) -> dict[str, str]:
    """What a rank finds in its environment beside the job's. srun(1), OUTPUT ENVIRONMENT VARIABLES."""
    ranks, step = str(place.ranks), str(place.step_id)
    names = {
        "SLURM_CPUS_PER_TASK": str(place.cpus_per_task),
        "SLURM_DISTRIBUTION": "block",
        "SLURM_GTIDS": ",".join(map(str, range(place.ranks))),
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_LOCALID": str(rank),
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": place.host,
        "SLURM_NPROCS": ranks,
        "SLURM_NTASKS": ranks,
        "SLURM_PROCID": str(rank),
        "SLURM_SRUN_COMM_HOST": "127.0.0.1",
        "SLURM_STEPID": step,
        "SLURM_STEP_ID": step,
        "SLURM_STEP_NODELIST": place.host,
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": ranks,
        "SLURM_STEP_TASKS_PER_NODE": ranks,
        "SLURM_TASKS_PER_NODE": ranks,
        "SLURM_TASK_PID": str(os.getpid()),
    }
    if place.gpus is not None:
        names["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus[rank])
        names["SLURM_STEP_GPUS"] = ",".join(dict.fromkeys(gpu for each in place.gpus for gpu in each))
    return names


def say(line: str) -> None:
    """A line on stderr, if there is anybody to read it."""
    try:
        os.write(2, f"{line}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        return


def _cpus_of(env: dict[str, str]) -> int:
    """CPUs of the job: one for each of its ranks at least."""
    return max(_number(env.get("SLURM_CPUS_ON_NODE")), _number(env.get("SLURM_NTASKS")))


def _cpus_apart(words: Words, env: dict[str, str], asked: int) -> int:
    """CPUs that no other such step may have meanwhile; `--exclusive=user` is a word about jobs, not steps."""
    whole = words.flag("overlap") or not env.get("SLURM_CPUS_ON_NODE", "").isdigit()
    alone = words.flag("exact") or words.text("exclusive") not in (None, "user", "mcs")
    return min(asked, _cpus_of(env)) if alone and not whole else 0


def _ranks(words: Words) -> int:
    by_node = words.number("ntasks-per-node", 1) or 1
    ranks = words.number("ntasks", by_node) or 1
    return 1 if words.flag("pty") else ranks


def _gpus_asked(words: Words) -> int | None:
    """GPUs of the whole step, where a number was named."""
    for name in ("gpus", "gpus-per-node"):
        value = words.text(name)
        if value is not None:
            return _count(value.rpartition(":")[2], name)
    gres = words.text("gres")
    if gres is None or gres == "none":
        return None if gres is None else 0
    counts = [_count(part, "gres") for part in gres.split(",") if part.removeprefix("gres:").startswith("gpu")]
    return sum(counts) if counts else None


def _count(part: str, name: str) -> int:
    number = part.partition("(")[0].rpartition(":")[2]
    if number.isascii() and number.isdigit() and len(number) < 6:
        return int(number)
    if name == "gres" and ":" not in part:
        return 1
    raise StepError(f"Invalid value {part!r} for --{name}; write for example --{name}={'gpu:' * (name == 'gres')}2")


def _bound(bind: str, held: list[str], ranks: int) -> list[list[str]] | None:
    """`--gpu-bind`: which of the step's GPUs each rank sees."""
    kind, _, value = bind.partition(":")
    if kind in ("none", "closest", ""):
        return None
    if kind == "single" and _number(value) and held:
        return [[held[(rank // _number(value)) % len(held)]] for rank in range(ranks)]
    if kind == "per_task" and _number(value) * ranks <= len(held) and _number(value):
        return [held[rank * _number(value) : (rank + 1) * _number(value)] for rank in range(ranks)]
    if (
        kind == "map_gpu"
        and value
        and all(each.isascii() and each.isdigit() and int(each) < len(held) for each in value.split(","))
    ):
        places = [int(each) for each in value.split(",")]
        return [[held[places[rank % len(places)]]] for rank in range(ranks)]
    raise StepError(f"Invalid --gpu-bind argument: {bind}; write none, closest, single:N, per_task:N or map_gpu:0,1,…")


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 8 else 0
