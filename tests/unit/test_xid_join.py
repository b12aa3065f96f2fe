"""One XID out of two tellings: what the log knows and what NVML knows, in whichever order, and no two made one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry.xid import Xid
from agent.telemetry.xidjoin import XidJoin

LOG = Xid(code=79, at=10.0, pci="0000:3b:00", pid=4711, process="python3", detail="fallen off")
NVML = Xid(code=79, at=10.5, uuid="GPU-1", mig_gi=2)


def test_whichever_comes_first_both_make_one_that_knows_all() -> None:
    for first, second in ((LOG, NVML), (NVML, LOG)):
        join = XidJoin(5.0)
        one = join.take(first, "GPU-1", 17 if first is LOG else None, 0.0)
        both = join.take(second, "GPU-1", 17 if second is LOG else None, 2.0)
        assert (one.is_new, both.is_new) == (True, False)
        assert both.job_id == 17
        assert (both.xid.pid, both.xid.process, both.xid.uuid, both.xid.mig_gi) == (4711, "python3", "GPU-1", 2)
        assert both.xid.at == first.at


def test_the_same_code_twice_is_two_however_soon() -> None:
    join = XidJoin(5.0)
    heard = [join.take(each, "GPU-1", None, at / 10).is_new for at, each in enumerate((LOG, LOG, NVML, NVML, NVML))]
    assert heard == [True, True, False, False, True]


def test_other_gpus_other_codes_and_other_times_are_others() -> None:
    join = XidJoin(5.0)
    assert join.take(LOG, "GPU-1", None, 0.0).is_new
    assert join.take(NVML, "GPU-2", None, 0.0).is_new
    assert join.take(Xid(code=48, at=1.0, uuid="GPU-1"), "GPU-1", None, 0.0).is_new
    assert join.take(NVML, "GPU-1", None, 5.5).is_new


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 4)), max_size=40))
def test_there_are_as_many_as_the_way_that_tells_oftener_told_of(order: list[tuple[bool, float]]) -> None:
    """All within the time in which they are the same."""
    join = XidJoin(5.0)
    new = sum(join.take(LOG if by_log else NVML, "GPU-1", None, at).is_new for by_log, at in order)
    logs = sum(by_log for by_log, _ in order)
    assert new == max(logs, len(order) - logs)
    assert not join.take(NVML, "GPU-1", None, 100.0).is_new or len(join._halves) == 1, "what is old is forgotten"
