"""Where a job has to go that depends on others: to their node, whose queue alone knows how they end. Pure.

Rules kept here: a number means the caller's own job before anybody else's, and of several such the one that has not
ended; where that leaves more than one node nothing is guessed, and the caller is told how to name one. Namesakes count
for `singleton` as long as they have not ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from agent.api.errors import ApiError
from agent.api.types import Job
from agent.jobs import dependency
from agent.jobs.spec import JobSpec

_FLAG = "--dependency"


def node_of(
    spec: JobSpec, user: str, known: Mapping[int, Sequence[Job]], jobs: Collection[Job], away: Sequence[str]
) -> str | None:
    """The one node on which the job's dependency can be judged; `None`: any will do.

    Args:
        spec: the job.
        user: whose it is.
        known: the jobs of each number that it names, of all nodes.
        jobs: what the cluster has, as last heard of.
        away: nodes that cannot be asked now.

    Raises:
        ApiError: nobody knows such a job; or no single node has all of them; or more than one has.
    """
    if spec.dependency is None:
        return None
    choices = [_choice(number, found, user, away) for number, found in known.items()]
    nodes = _common([_nodes(each) for each in choices])
    if choices and not nodes:
        raise _apart(choices)
    alone = any(each.kind == dependency.SINGLETON for each in spec.dependency.conditions)
    beside = {job.node for job in jobs if alone and _is_namesake(job, spec, user)}
    if not choices:
        nodes = beside
    if len(nodes) > 1:
        nodes = _common([_nodes(_open(each)) for each in choices]) or nodes
    if len(nodes) > 1:
        raise _ambiguous(choices, nodes, spec)
    if beside - nodes:
        raise _namesakes_elsewhere(spec, beside - nodes)
    return next(iter(nodes), None)


def _choice(number: int, found: Sequence[Job], user: str, away: Sequence[str]) -> Sequence[Job]:
    """The jobs that a number may mean."""
    own = [job for job in found if job.user == user]
    if own or (found and not away):
        return own or found
    if away:
        sentence = f"the dependency names job {number}, which may be on {', '.join(away)}: that cannot be asked now"
        raise ApiError(503, "node_lost", f"{sentence}; submit again when it is back", _FLAG)
    sentence = f"the dependency names job {number}, which no node knows; see stoker jobs --all"
    raise ApiError(400, "bad_option", sentence, _FLAG)


def _open(found: Sequence[Job]) -> Sequence[Job]:
    return [job for job in found if not job.state.is_final] or found


def _nodes(found: Sequence[Job]) -> set[str]:
    return {job.node for job in found}


def _common(sets: Sequence[set[str]]) -> set[str]:
    return set.intersection(*sets) if sets else set()


def _is_namesake(job: Job, spec: JobSpec, user: str) -> bool:
    return not job.state.is_final and (job.user, job.name) == (user, spec.name)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def _apart(choices: Sequence[Sequence[Job]]) -> ApiError:
    where = ", ".join(_said(each) for each in choices)
    sentence = (
        f"the dependency names jobs of different nodes: {where}. A node waits for jobs of its own only: depend on "
        "those of one node, and wait for the others first (stoker wait NODE:JOB)"
    )
    return ApiError(400, "bad_option", sentence, _FLAG)


def _ambiguous(choices: Sequence[Sequence[Job]], nodes: Collection[str], spec: JobSpec) -> ApiError:
    either = " or ".join(f"--node {name}" for name in sorted(nodes))
    what = f"job {choices[0][0].array_job_id or choices[0][0].id}" if choices else f"a job {spec.name} of yours"
    sentence = f"the dependency does not say which node is meant: more than one has {what}; submit with {either}"
    return ApiError(409, "ambiguous_job", sentence, _FLAG)


def _namesakes_elsewhere(spec: JobSpec, nodes: Collection[str]) -> ApiError:
    where = ", ".join(sorted(nodes))
    sentence = f"singleton waits for jobs of one node only, and {where} has a job {spec.name} of yours"
    return ApiError(400, "bad_option", f"{sentence}; wait for it first, or give this one another name", _FLAG)


def _said(found: Sequence[Job]) -> str:
    return " or ".join(sorted({f"{job.node}:{job.array_job_id or job.id}" for job in found}))
