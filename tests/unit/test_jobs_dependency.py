"""Dependencies: reading, judging by facts, showing. The verdicts were asked of Slurm 22.05, one kind at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import FINAL_STATES, JobState
from agent.jobs import dependency
from agent.jobs.dependency import Facts, Judgement, Never, Satisfied, TaskFacts, Waits, judge
from agent.jobs.grammar import GrammarError
from agent.jobs.spec import Dependency, DependencySpec

NOW = 1_000_000
PENDING = TaskFacts(state=JobState.PENDING)
RUNNING = TaskFacts(state=JobState.RUNNING, started_at=NOW - 600)
COMPLETED = TaskFacts(state=JobState.COMPLETED, started_at=NOW - 600, ended_at=NOW - 60)
FAILED = TaskFacts(state=JobState.FAILED, started_at=NOW - 600, ended_at=NOW - 60)
CANCELLED = TaskFacts(state=JobState.CANCELLED, ended_at=NOW - 60)
REQUEUED = TaskFacts(state=JobState.PENDING, started_at=NOW - 600, ended_at=NOW - 60)
"""It ran, ended (preempted or requeued), and waits to run again."""


def read(text: str) -> DependencySpec:
    spec = dependency.dependency(text)
    assert spec is not None
    return spec


def facts(own: int | None = None, namesake: int | None = None, **jobs: TaskFacts | list[TaskFacts]) -> Facts:
    """`j17=RUNNING` for a job, `j17=[RUNNING, FAILED]` for an array with the tasks 0 and 1."""
    tasks: dict[int, dict[int | None, TaskFacts]] = {}
    for name, given_ in jobs.items():
        tasks[int(name[1:])] = {None: given_} if isinstance(given_, TaskFacts) else dict(enumerate(given_))
    return Facts(now=NOW, tasks=tasks, own_task_id=own, older_namesake=namesake)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "conditions", "any_of"),
    [
        ("afterok:17", [Dependency(kind="afterok", job_id=17)], False),
        ("AfterOK:17", [Dependency(kind="afterok", job_id=17)], False),
        ("17", [Dependency(kind="afterany", job_id=17)], False),
        (
            "afterok:1:2:3_4",
            [
                Dependency(kind="afterok", job_id=1),
                Dependency(kind="afterok", job_id=2),
                Dependency(kind="afterok", job_id=3, task_id=4),
            ],
            False,
        ),
        (
            "after:1:2+5,singleton",
            [
                Dependency(kind="after", job_id=1),
                Dependency(kind="after", job_id=2, delay_s=300),
                Dependency(kind="singleton"),
            ],
            False,
        ),
        ("after:3_4+1", [Dependency(kind="after", job_id=3, task_id=4, delay_s=60)], False),
        ("afterok:3_*", [Dependency(kind="afterok", job_id=3)], False),
        (
            "afterok:1?afternotok:2",
            [Dependency(kind="afterok", job_id=1), Dependency(kind="afternotok", job_id=2)],
            True,
        ),
        ("afterok:1,afterok:1:1", [Dependency(kind="afterok", job_id=1)], False),
        ("afterok: 1", [Dependency(kind="afterok", job_id=1)], False),
    ],
)
def test_dependencies(text: str, conditions: list[Dependency], any_of: bool) -> None:
    assert dependency.dependency(text) == DependencySpec(conditions=tuple(conditions), any_of=any_of)


@pytest.mark.parametrize("text", ["", "0", " "])
def test_no_dependency(text: str) -> None:
    assert dependency.dependency(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("afterok", "is not a dependency"),
        ("afterok:", "is not a dependency"),
        ("afterok:1,", "is not a dependency"),
        ("afterok:1?", "is not a dependency"),
        ("afterok:1:", "is no job"),
        ("afterok:1::2", "is no job"),
        ("afterok:abc", "'abc' is no job"),
        ("afterok:0", "'0' is no job"),
        ("afterok:-1", "'-1' is no job"),
        ("afterok:1_", "is no job"),
        ("afterok:1_x", "is no job"),
        ("afterok:" + "9" * 5000, "is no job"),
        ("after:1+", "is no job"),
        ("after:1+x", "is no job"),
        ("after:1+99999999", "a delay of more than"),
        ("afterok:1+5", "+MINUTES goes with after alone"),
        ("1:2", "is not a dependency"),
        ("none", "is not a dependency"),
        ("singleton:1", "is not a dependency"),
        ("aftersometime:1", "is not a dependency"),
        ("afterok:1, afterany:2", "is not a dependency"),
        ("afterok:1?afterany:2,singleton", "use either"),
        ("afterburstbuffer:1", "no burst buffer"),
        ("expand:1", "no job that can grow"),
        ("٣", "is not a dependency"),
    ],
)
def test_what_is_no_dependency(text: str, said: str) -> None:
    with pytest.raises(GrammarError) as caught:
        dependency.dependency(text)
    assert said in str(caught.value)


def test_the_jobs_it_names() -> None:
    assert dependency.referenced(read("afterok:5:3_1,after:5+2,singleton")) == (5, 3)


# --- judging ----------------------------------------------------------------------------------------------------------

YES, WAIT, NO = Satisfied, Waits, Never


@pytest.mark.parametrize(
    ("text", "known", "verdict"),
    [
        ("after:17", facts(j17=PENDING), WAIT),
        ("after:17", facts(j17=TaskFacts(state=JobState.CONFIGURING)), WAIT),
        ("after:17", facts(j17=RUNNING), YES),
        ("after:17", facts(j17=CANCELLED), YES),
        ("after:17", facts(j17=REQUEUED), YES),
        ("after:17", facts(j17=[RUNNING, PENDING]), WAIT),
        ("after:17_0", facts(j17=[RUNNING, PENDING]), YES),
        ("after:17+9", facts(j17=RUNNING), YES),
        ("after:17+10", facts(j17=RUNNING), YES),
        ("after:17+11", facts(j17=RUNNING), WAIT),
        ("after:17+2", facts(j17=CANCELLED), WAIT),
        ("after:17+1", facts(j17=CANCELLED), YES),
        ("afterany:17", facts(j17=PENDING), WAIT),
        ("afterany:17", facts(j17=RUNNING), WAIT),
        ("afterany:17", facts(j17=REQUEUED), WAIT),
        ("afterany:17", facts(j17=TaskFacts(state=JobState.COMPLETING, started_at=1)), WAIT),
        ("afterany:17", facts(j17=FAILED), YES),
        ("afterany:17", facts(j17=COMPLETED), YES),
        ("afterany:17", facts(j17=[COMPLETED, RUNNING]), WAIT),
        ("afterany:17", facts(j17=[COMPLETED, CANCELLED]), YES),
        ("afterok:17", facts(j17=RUNNING), WAIT),
        ("afterok:17", facts(j17=REQUEUED), WAIT),
        ("afterok:17", facts(j17=COMPLETED), YES),
        ("afterok:17", facts(j17=FAILED), NO),
        ("afterok:17", facts(j17=CANCELLED), NO),
        ("afterok:17", facts(j17=[COMPLETED, PENDING]), WAIT),
        ("afterok:17", facts(j17=[COMPLETED, FAILED, PENDING]), NO),
        ("afterok:17_1", facts(j17=[FAILED, COMPLETED]), YES),
        ("afternotok:17", facts(j17=RUNNING), WAIT),
        ("afternotok:17", facts(j17=COMPLETED), NO),
        ("afternotok:17", facts(j17=FAILED), YES),
        ("afternotok:17", facts(j17=CANCELLED), YES),
        ("afternotok:17", facts(j17=[FAILED, RUNNING]), WAIT),
        ("afternotok:17", facts(j17=[FAILED, COMPLETED]), YES),
        ("afternotok:17", facts(j17=[COMPLETED, COMPLETED]), NO),
        ("aftercorr:17", facts(own=1, j17=[FAILED, COMPLETED]), YES),
        ("aftercorr:17", facts(own=0, j17=[FAILED, COMPLETED]), NO),
        ("aftercorr:17", facts(own=0, j17=[RUNNING, COMPLETED]), WAIT),
        ("aftercorr:17", facts(own=5, j17=[COMPLETED, COMPLETED]), NO),
        ("aftercorr:17", facts(own=1, j17=COMPLETED), YES),
        ("aftercorr:17", facts(j17=[COMPLETED, FAILED]), NO),
        ("singleton", facts(), YES),
        ("singleton", facts(namesake=4), WAIT),
        # gone from the record
        ("after:17", facts(), YES),
        ("afterany:17", facts(), YES),
        ("afterok:17", facts(), NO),
        ("afternotok:17", facts(), NO),
        ("afterok:17_9", facts(j17=[COMPLETED]), NO),
        # several
        ("afterok:17,afterok:18", facts(j17=COMPLETED, j18=COMPLETED), YES),
        ("afterok:17,afterok:18", facts(j17=COMPLETED, j18=RUNNING), WAIT),
        ("afterok:17,afterok:18", facts(j17=FAILED, j18=RUNNING), NO),
        ("afterok:17?afterok:18", facts(j17=FAILED, j18=RUNNING), WAIT),
        ("afterok:17?afterok:18", facts(j17=FAILED, j18=COMPLETED), YES),
        ("afterok:17?afterok:18", facts(j17=FAILED, j18=FAILED), NO),
    ],
)
def test_judgements(text: str, known: Facts, verdict: type[Judgement]) -> None:
    assert isinstance(judge(read(text), known), verdict)


@pytest.mark.parametrize("state", sorted(FINAL_STATES - {JobState.COMPLETED}))
def test_every_end_but_success_is_a_failure(state: JobState) -> None:
    known = facts(j17=TaskFacts(state=state, started_at=1, ended_at=2))
    assert isinstance(judge(read("afterok:17"), known), Never)
    assert isinstance(judge(read("afternotok:17"), known), Satisfied)
    assert isinstance(judge(read("afterany:17"), known), Satisfied)


def test_sentences() -> None:
    assert judge(read("afterok:17"), facts(j17=RUNNING)) == Waits("waits until job 17 has succeeded")
    assert judge(read("afterok:17_0"), facts(j17=[FAILED])) == Never(
        "job 17_0 ended FAILED, and the dependency asks for its success"
    )
    assert judge(read("after:17+20"), facts(j17=RUNNING)) == Waits("waits until 20 minutes after the start of job 17")
    assert judge(read("aftercorr:17"), facts(own=0, j17=[RUNNING])) == Waits("waits until job 17_0 has succeeded")
    assert judge(read("singleton"), facts(namesake=4)) == Waits("waits until job 4 of the same name and user has ended")


def test_when_time_alone_may_satisfy_it() -> None:
    assert dependency.look_again_at(read("after:17+20"), facts(j17=RUNNING)) == NOW - 600 + 1200
    assert dependency.look_again_at(read("after:17+20:18+15"), facts(j17=RUNNING, j18=RUNNING)) == NOW - 600 + 900
    assert dependency.look_again_at(read("after:17+20"), facts(j17=PENDING)) is None
    assert dependency.look_again_at(read("after:17+1,afterok:18"), facts(j17=RUNNING, j18=RUNNING)) is None


# --- showing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "known", "shown"),
    [
        ("afterok:17", facts(j17=RUNNING), "afterok:17(unfulfilled)"),
        ("afterok:17", facts(j17=FAILED), "afterok:17(failed)"),
        ("afterok:17", facts(j17=COMPLETED), None),
        ("after:17+20", facts(j17=RUNNING), "after:17+20(unfulfilled)"),
        ("afterok:17,afterany:18", facts(j17=COMPLETED, j18=RUNNING), "afterany:18(unfulfilled)"),
        (
            "afterok:17?afterany:18",
            facts(j17=PENDING, j18=RUNNING),
            "afterok:17(unfulfilled)?afterany:18(unfulfilled)",
        ),
        ("afterok:17?afterany:18", facts(j17=COMPLETED, j18=RUNNING), None),
        ("afterok:17", facts(j17=[COMPLETED, RUNNING]), "afterok:17_*(unfulfilled)"),
        ("afterok:17_1", facts(j17=[COMPLETED, RUNNING]), "afterok:17_1(unfulfilled)"),
        ("singleton", facts(namesake=3), "singleton(unfulfilled)"),
        ("singleton", facts(), None),
    ],
)
def test_shown_as_slurm_does(text: str, known: Facts, shown: str | None) -> None:
    assert dependency.text(read(text), known) == shown


conditions = st.one_of(
    st.builds(
        Dependency,
        kind=st.sampled_from(["afterany", "afterok", "afternotok", "aftercorr"]),
        job_id=st.integers(1, 10**9),
        task_id=st.one_of(st.none(), st.integers(0, 10**6)),
    ),
    st.builds(
        Dependency, kind=st.just("after"), job_id=st.integers(1, 99), delay_s=st.integers(0, 99).map(lambda m: m * 60)
    ),
    st.just(Dependency(kind="singleton")),
)
specs = st.builds(
    DependencySpec,
    conditions=st.lists(conditions, min_size=2, max_size=5, unique=True).map(tuple),
    any_of=st.booleans(),
)
states = st.builds(
    TaskFacts,
    state=st.sampled_from(list(JobState)),
    started_at=st.one_of(st.none(), st.integers(0, NOW)),
    ended_at=st.one_of(st.none(), st.integers(0, NOW)),
)


@given(specs)
def test_the_plain_text_reads_back(spec: DependencySpec) -> None:
    assert dependency.dependency(dependency.text(spec) or "") == spec


@given(
    specs,
    st.dictionaries(st.integers(1, 99), st.dictionaries(st.one_of(st.none(), st.integers(0, 3)), states, max_size=3)),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.integers(1, 99)),
)
def test_every_fact_is_judged(
    spec: DependencySpec,
    tasks: dict[int, dict[int | None, TaskFacts]],
    own: int | None,
    namesake: int | None,
) -> None:
    known = Facts(now=NOW, tasks=tasks, own_task_id=own, older_namesake=namesake)
    judged = judge(spec, known)
    assert (dependency.text(spec, known) is None) is isinstance(judged, Satisfied)
    each = [judge(DependencySpec(conditions=(one,)), known) for one in spec.conditions]
    if spec.any_of:
        assert isinstance(judged, Satisfied) is any(isinstance(one, Satisfied) for one in each)
        assert isinstance(judged, Never) is all(isinstance(one, Never) for one in each)
    else:
        assert isinstance(judged, Satisfied) is all(isinstance(one, Satisfied) for one in each)
        assert isinstance(judged, Never) is any(isinstance(one, Never) for one in each)


@given(st.one_of(st.text(), st.text("afterokny:0123456789_+,?* ", max_size=25)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = dependency.dependency(text)
    except GrammarError as error:
        assert str(error)
    else:
        assert spec is None or dependency.dependency(dependency.text(spec) or "") == spec
