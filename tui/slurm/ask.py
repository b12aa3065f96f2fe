"""What Slurm's commands ask of the agent or hub, and how they read what names jobs, states and users.

Rules kept here: everything that comes back is made safe for a terminal here, before anybody prints it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from agent.api.client import Client
from agent.api.errors import ApiError, StokerError
from agent.api.patience import Patience
from agent.api.queue import Partition, QueueRules, Reservation
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, NodeStatus
from tui import arrays, endpoint, pages, plain, safe
from tui.slurm import job as jobs_as
from tui.slurm.argv import ToolError, Words

PAGE = 1000
PAGE_WITH_STEPS = 200
"""A job may have a thousand."""
NO_SUCH_JOB = "Invalid job id specified"


class Queue:
    """The server, asked in the words of the commands."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._cluster: str | None = None

    @classmethod
    def open(cls, environ: Mapping[str, str] = os.environ) -> Queue:
        """The server of this machine, or the one that `$STOKER_SOCKET` names.

        Raises:
            StokerError: there is none.
        """
        patience = Patience(plain.wait_told)
        chosen = patience.over(lambda: endpoint.choose(None, None, environ), repeatable=True)
        return cls(chosen.open(patience))

    def jobs(self, states: Sequence[JobState] = (), user: str | None = None, **more: str | int | None) -> list[Job]:
        """All jobs that match, page by page."""
        size = PAGE_WITH_STEPS if more.get("steps") else PAGE
        found = pages.every(self.client, size, None, state=",".join(states) or None, user=user, **more)
        return [safe.clean(each) for each in found]

    def named(self, ref: JobRef, *, steps: bool = False) -> list[Job]:
        """The job, or all tasks of the array; `steps`: each with its own.

        Raises:
            ApiError: there is none.
        """
        if ref.task is None:
            of_array = self.jobs(array=ref.id, steps=1 if steps else None)
            tasks = [each for each in of_array if each.array_job_id == ref.id]
            tasks = [each for each in tasks if ref.node in (None, each.node)]
            if tasks:
                return tasks
        return [safe.clean(self.client.job(ref))]

    def named_all(self, texts: Sequence[str], what: str, *, steps: bool = False) -> list[Job]:
        """The jobs that a list names, with their steps where these are wanted; those that do not exist are left out.

        Raises:
            ToolError: a word names no job; `what` begins the sentence.
        """
        found: dict[tuple[str, int], Job] = {}
        for ref in refs(texts, what, steps=steps):
            try:
                found |= {(each.node, each.id): each for each in self.named(ref, steps=steps)}
            except ApiError as error:
                if error.status != 404:
                    raise
        return list(found.values())

    def nodes(self) -> list[NodeStatus]:
        """All nodes."""
        return [safe.clean(each) for each in self.client.nodes()]

    def reservations(self, names: Sequence[str]) -> dict[str, list[Reservation]]:
        """Node → what is reserved of it, of nodes by their names; of one that cannot be asked nothing is known."""
        found: dict[str, list[Reservation]] = {}
        for name in names:
            try:
                found[name] = safe.clean(self.client.reservations(name if len(names) > 1 else None))
            except ApiError:
                found[name] = []  # away, or an older server, which has none
        return found

    def rules(self) -> QueueRules:
        """Partitions and what else a submit may name; an older server has one partition, `main`."""
        try:
            return safe.clean(self.client.rules())
        except ApiError as error:
            if error.status not in (404, 405, 501):
                raise
            return QueueRules(partitions=(Partition(name="main", default=True),))

    def cluster(self) -> str:
        """The cluster's name, as the server says it: the one source of it, whatever shows it."""
        if self._cluster is None:
            self._cluster = safe.text(self.client.hello().cluster)
        return self._cluster

    def check_clusters(self, words: Words, *, header: bool = False) -> None:
        """`--clusters`: there is one, `all` of them or by its name; with `header` its line is printed.

        Raises:
            ToolError: another one is named.
        """
        named = words.listed("clusters", "cluster")
        if not named:
            return
        ours = self.cluster()
        for name in named:
            if name not in ("all", ours):
                raise ToolError(
                    f"'{safe.text(name)}' can't be reached now, or it is an invalid entry for --cluster; "
                    f"this is cluster {ours}"
                )
        if header:
            print(f"CLUSTER: {ours}")

    def default_partition(self) -> str:
        """The name of the partition for jobs that name none."""
        return next((each.name for each in self.rules().partitions if each.default), "main")


def refs(texts: Sequence[str], what: str = "Invalid job id", *, steps: bool = False) -> list[JobRef]:
    """Read `17`, `17_3`, `17_[1-5]`, `17.batch` (its job), and with `steps` `17.0` (its job) too.

    Raises:
        ToolError: a word names no job.
    """
    found: list[JobRef] = []
    for text in split_ids(texts):
        before, _, after = text.rpartition(".")
        plain = before if before and after in ("batch", "extern") else text
        plain = part_step(plain)[0] if steps else plain
        try:
            found += arrays.refs(plain)
        except StokerError:
            raise ToolError(f"{what} {safe.text(text)}") from None
    return found


def part_step(text: str) -> tuple[str, int | None]:
    """`17.0` is the job `17` and its step 0; of what names no numbered step the text, and none."""
    before, _, after = text.rpartition(".")
    if before and after.isascii() and after.isdecimal() and len(after) < 10:
        return before, int(after)
    return text, None


def split_ids(texts: Sequence[str]) -> list[str]:
    """Part lists at the commas that stand outside of brackets."""
    found: list[str] = []
    for text in texts:
        depth, word = 0, ""
        for char in text:
            depth += (char == "[") - (char == "]")
            if char == "," and depth <= 0:
                found.append(word)
                word = ""
            else:
                word += char
        found.append(word)
    return [each.strip() for each in found if each.strip()]


def states(texts: Sequence[str]) -> list[JobState] | None:
    """Read states by code or name; `None` means all, and what none of our jobs is ever in finds nothing.

    Raises:
        KeyError: one is none, with it.
    """
    by_code = {code: state for state, code in jobs_as.CODES.items()}
    found: list[JobState] = []
    for text in texts:
        word = text.upper()
        if word == "ALL":
            return None
        if word in by_code:
            found.append(by_code[word])
        elif word in [state.value for state in jobs_as.CODES]:
            found.append(JobState(word))
        elif word not in jobs_as.NEVER and word not in jobs_as.NEVER.values():
            raise KeyError(text)
    return found


def users(texts: Sequence[str]) -> list[str]:
    """Accounts by name or number; a number that is none stays, and finds nothing."""
    return [jobs_as.user_name(text) or text for text in texts]


def spread_nodes(words: Words) -> list[str]:
    """Write out the host list of `--nodelist`, `n[1-3]`, where it was said; its names.

    Raises:
        ToolError: it is none.
    """
    from agent.api.hostlist import HostListError

    texts = words.said.get("nodelist", [])
    try:
        names = [name for text in texts for name in expand_nodes(text)]
    except HostListError as error:
        raise ToolError(f"Invalid node list: {safe.text(','.join(texts))} {error}") from None
    if texts:
        words.said["nodelist"] = [",".join(names)]
    return names


def expand_nodes(text: str) -> list[str]:
    """Write out a host list. Inside of a job `$SLURM_JOB_NODELIST` may call the node as its machine is called.

    Raises:
        HostListError: it is none.
    """
    from agent.api.hostlist import expand

    here, node = os.environ.get("SLURM_JOB_NODELIST"), os.environ.get("SLURMD_NODENAME")
    return [node if node and name == here else name for name in expand(text)]


def strangers(named: Sequence[str], seen: Collection[str]) -> list[str]:
    """Users named that this machine has no account for, and that no job seen is of: most likely mistyped."""
    import pwd

    found = []
    for name in named:
        try:
            pwd.getpwnam(name)
        except (KeyError, ValueError):  # the latter for what no name can hold
            found += [name] if name not in seen else []
    return found


def me() -> str:
    """Who asks."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
