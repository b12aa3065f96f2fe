"""Where a job goes that waits for others."""

from __future__ import annotations

import pytest

from agent.api.errors import ApiError
from agent.api.types import Job, JobState
from agent.hub.dependence import node_of
from agent.jobs.dependency import dependency, referenced
from agent.jobs.spec import JobSpec
from tests.fakes.agent import job

DONE = JobState.COMPLETED


def asked(text: str, *jobs: Job, away: tuple[str, ...] = (), name: str = "mine") -> str | None:
    """The node for alice's job with this dependency, where these jobs are."""
    spec = JobSpec(name=name, script_name="a.sh", submit_dir="/", work_dir="/", dependency=dependency(text))
    numbers = referenced(spec.dependency) if spec.dependency else ()
    known = {number: [each for each in jobs if each.id == number] for number in numbers}
    return node_of(spec, "alice", known, jobs, away)


def refusal(text: str, *jobs: Job, away: tuple[str, ...] = ()) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asked(text, *jobs, away=away)
    return caught.value


def test_it_goes_where_the_job_is() -> None:
    assert asked("afterok:17", job(17, "n2")) == "n2"
    assert asked("afterok:17:18,after:19", job(17, "n2"), job(18, "n2"), job(19, "n2")) == "n2"
    assert asked("0", job(17, "n2")) is None


def test_of_several_with_that_number_ones_own_is_meant_and_then_the_one_that_has_not_ended() -> None:
    assert asked("afterok:17", job(17, "n1", user="bob"), job(17, "n2")) == "n2"
    assert asked("afterok:17", job(17, "n1", DONE), job(17, "n2")) == "n2"
    assert asked("afterok:17:18", job(17, "n1"), job(17, "n2"), job(18, "n1")) == "n1", "18 settles it"


def test_nothing_is_guessed() -> None:
    both = refusal("afterok:17", job(17, "n1"), job(17, "n2"))
    assert (both.status, both.field) == (409, "--dependency")
    assert both.message.endswith("more than one has job 17; submit with --node n1 or --node n2")
    assert refusal("afterany:17", job(17, "n1", DONE), job(17, "n2", DONE)).code == "ambiguous_job"


def test_jobs_of_two_nodes_cannot_be_waited_for() -> None:
    told = refusal("afterok:17:18", job(17, "n1"), job(18, "n2"))
    assert (told.status, told.code) == (400, "bad_option")
    assert "different nodes: n1:17, n2:18. A node waits for jobs of its own only" in told.message
    assert "stoker wait NODE:JOB" in told.message
    assert "n1:17, n2:18" in refusal("afterok:17?afterok:18", job(17, "n1"), job(18, "n2")).message


def test_a_job_that_nobody_knows() -> None:
    assert refusal("afterok:99").message == "the dependency names job 99, which no node knows; see stoker jobs --all"
    told = refusal("afterok:99", away=("n3",))
    assert (told.status, "may be on n3" in told.message) == (503, True)
    assert refusal("afterok:17", job(17, "n1", user="bob"), away=("n3",)).status == 503, "one's own may be there"
    assert asked("afterok:17", job(17, "n1"), away=("n3",)) == "n1"


def test_singleton_goes_to_its_namesake() -> None:
    assert asked("singleton") is None
    assert asked("singleton", job(3, "n2", name="mine")) == "n2"
    assert asked("singleton", job(3, "n2", DONE, name="mine"), job(4, "n1", name="mine", user="bob")) is None
    told = refusal("singleton", job(3, "n1", name="mine"), job(4, "n2", name="mine"))
    assert told.message.endswith("more than one has a job mine of yours; submit with --node n1 or --node n2")
    apart = refusal("afterok:17,singleton", job(17, "n1"), job(4, "n2", name="mine"))
    assert "n2 has a job mine of yours" in apart.message
