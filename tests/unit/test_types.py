"""What a reader makes of a newer writer: unknown fields are passed over, unknown words are kept and shown as text."""

from __future__ import annotations

import msgspec
import pytest

from agent.api.types import Heartbeat, JobState, LinkState, NodeStatus, NodeUpdate, WatchMessage


def test_an_unknown_word_is_kept_as_text_and_travels_on() -> None:
    status = msgspec.json.decode(b'{"name": "n1", "link": "asleep", "age_s": 1}', type=NodeStatus)
    assert str(status.link) == "asleep"
    assert status.link not in set(LinkState)
    assert msgspec.json.decode(msgspec.json.encode(status)) == {
        "name": "n1",
        "link": "asleep",
        "age_s": 1.0,
        "reason": None,
        "retry_in_s": None,
        "node": None,
    }


def test_an_unknown_job_state_is_not_taken_for_an_end() -> None:
    assert not JobState("SUSPENDED").is_final
    assert JobState("COMPLETED") is JobState.COMPLETED


def test_an_unknown_field_is_passed_over() -> None:
    line = b'{"type": "heartbeat", "time": 1.5, "mood": {"deep": []}}'
    assert msgspec.json.decode(line, type=WatchMessage) == Heartbeat(time=1.5)


@pytest.mark.parametrize("bad", [b'{"type": "node"}', b'{"type": "node", "status": {"name": "n1", "link": 3}}'])
def test_a_wrong_type_is_refused(bad: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(bad, type=NodeUpdate)
