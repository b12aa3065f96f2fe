"""A submit whose answer is lost is found out about; the user is never told to make a second job."""

from __future__ import annotations

import pytest

from agent.api.errors import ApiError, AuthError, ConnectError, DeadlineError, ProtocolError, StokerError
from agent.api.types import JobState, Licence, LicenceStage, SubmitReply, SubmitRequest
from agent.api.wire import BrokenError
from tests.fakes.cluster import FakeClient, FakeCluster
from tests.fakes.values import job
from tui import handin
from tui.handin import UnknownOutcomeError, hand_in
from tui.submitargs import SubmitWords
from tui.verbs.call import Call
from tui.verbs.handing import submit_job

REQUEST = SubmitRequest(script="#!/bin/sh\n", script_name="t.sh", work_dir="/")
LATE = DeadlineError("no answer within 10 s")


class Forgetful(FakeClient):
    """Answers what it is told to; the last answer stays."""

    def __init__(self, *answers: BaseException | None) -> None:
        super().__init__(FakeCluster())
        self.answers = list(answers)
        self.keys: list[str] = []

    def submit(self, request: SubmitRequest, key: str) -> SubmitReply:
        self.keys.append(key)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        return super().submit(request, key)


@pytest.fixture(autouse=True)
def time_flies(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("tui.handin.time.sleep", slept.append)
    monkeypatch.setattr("tui.handin.time.monotonic", lambda: sum(slept))
    return slept


@pytest.mark.parametrize(
    "lost",
    [
        LATE,
        ProtocolError("cut short"),
        BrokenError("ended without an answer", sent=True),
        ApiError(502, "node_unreachable", "n1 does not answer"),
        ApiError(504, "node_unreachable", "n1 is late"),
        ApiError(500, "internal", "see its log"),
    ],
    ids=str,
)
def test_a_lost_answer_is_asked_for_with_the_same_key(lost: StokerError, capsys: pytest.CaptureFixture[str]) -> None:
    client = Forgetful(lost, ConnectError("restarting"), ApiError(503, "node_busy", "slow"), None)
    assert hand_in(client, REQUEST, "k").job.id == 18
    assert client.keys == ["k"] * 4
    assert capsys.readouterr().err.count("asking again with the same key") == 1


def test_what_stays_unknown_is_said_to_be_with_the_key(time_flies: list[float]) -> None:
    with pytest.raises(UnknownOutcomeError) as caught:
        hand_in(Forgetful(LATE), REQUEST, "a key's")
    said = str(caught.value)
    assert "may have been queued" in said
    assert """--key 'a key'"'"'s' is safe to repeat""" in said, "as a shell takes it"
    assert handin.TRY_FOR_S <= sum(time_flies) <= handin.TRY_FOR_S + 5


@pytest.mark.parametrize(
    "error",
    [
        ConnectError("no socket"),
        AuthError("no key"),
        ApiError(400, "bad_option", "no"),
        ApiError(429, "queue_full", "full"),
        ApiError(503, "not_stored", "the disk is full"),
    ],
    ids=str,
)
def test_what_was_surely_not_stored_is_told_at_once(error: StokerError, time_flies: list[float]) -> None:
    with pytest.raises(type(error)):
        hand_in(Forgetful(error), REQUEST, "k")
    assert time_flies == []


def test_a_refusal_settles_an_open_question() -> None:
    with pytest.raises(ApiError, match="full"):
        hand_in(Forgetful(LATE, ApiError(429, "queue_full", "full")), REQUEST, "k")


def test_an_interrupted_submit_names_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        hand_in(Forgetful(KeyboardInterrupt()), REQUEST, "k7")
    assert "--key k7 is safe to repeat" in capsys.readouterr().err


# --- a job that the licence holds back --------------------------------------------------------------------------------

RESTRICTED = Licence(
    stage=LicenceStage.RESTRICTED, code="LIC-401", message="No licence.", fix="stoker-license activate FILE"
)
ACTIVE = Licence(stage=LicenceStage.ACTIVE, message="fine")


@pytest.mark.parametrize(
    ("state", "reason", "licence", "said"),
    [
        (JobState.PENDING, "License", ACTIVE, "waits for the licence: LIC-420: no seat"),
        (
            JobState.PENDING,
            None,
            RESTRICTED,
            "waits for the licence: LIC-401: No licence. Run: stoker-license activate",
        ),
        (JobState.PENDING, "Resources", ACTIVE, ""),
        (JobState.PENDING, None, None, ""),
        (JobState.RUNNING, None, RESTRICTED, ""),
    ],
)
def test_a_submit_says_when_the_licence_holds_the_job(
    state: JobState, reason: str | None, licence: Licence | None, said: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Answering(FakeClient):
        def submit(self, request: SubmitRequest, key: str) -> SubmitReply:
            detail = "LIC-420: no seat" if reason == "License" else None
            return SubmitReply(job=job(1, state, reason=reason, detail=detail), created=True)

    monkeypatch.setattr("tui.verbs.handing.submit.request", lambda *_, **__: REQUEST)
    call = Call(client=Answering(FakeCluster(licence=licence)))
    assert submit_job(call, SubmitWords(rest=["t.sh"])) == 0
    captured = capsys.readouterr()
    assert captured.out == "Submitted job 1 on n1\n"
    assert said in captured.err and bool(said) == bool(captured.err)
