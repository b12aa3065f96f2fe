"""Incidents out of findings: hysteresis, events, blindness; and that no order of looks breaks them."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.api.health import IncidentKind, Severity
from agent.telemetry.watch import PATIENCE, Finding, Watch

HOT, LOST, XID = IncidentKind.THERMAL_THROTTLE, IncidentKind.GPU_LOST, IncidentKind.XID


def finding(
    kind: IncidentKind = HOT, gpu: str = "GPU-1", severity: Severity = Severity.WARNING, code: int | None = None
) -> Finding:
    return Finding(kind=kind, severity=severity, what="it is so", advice="do", gpu_uuid=gpu, code=code)


def test_every_kind_has_its_patience() -> None:
    assert set(PATIENCE) == set(IncidentKind)


def test_a_spike_is_no_incident() -> None:
    watch = Watch()
    assert not watch.look([finding()], 0.0).opened
    assert not watch.look([finding()], 29.0).opened
    assert not watch.look([], 29.5).cleared
    assert not watch.look([finding()], 31.0).opened, "it begins anew"


def test_what_lasts_opens_once_and_clears_when_it_has_been_well_for_a_while() -> None:
    watch = Watch()
    looks = [watch.look([finding()], float(second)) for second in range(0, 100, 5)]
    assert [len(look.opened) for look in looks] == [0] * 6 + [1] + [0] * 13
    assert not watch.look([], 100.0).cleared
    assert not watch.look([], 154.0).cleared
    assert watch.look([], 155.0).cleared == (finding().key,)
    assert not watch.look([], 300.0).cleared


def test_a_site_may_be_more_or_less_patient() -> None:
    watch = Watch(for_s={"thermal_throttle": 2.0}, clear_s={"thermal_throttle": 3.0})
    assert [len(watch.look([finding()], float(second)).opened) for second in range(4)] == [0, 0, 1, 0]
    watch = watch.copy()
    assert not watch.look([], 5.9).cleared
    assert watch.look([], 6.0).cleared == (finding().key,)


def test_a_dip_does_not_clear_it() -> None:
    watch = Watch()
    watch.resume(finding(), 0.0)
    watch.look([], 50.0)
    assert watch.look([finding()], 55.0) == watch.look([finding()], 56.0)
    assert not watch.look([], 110.0).cleared


def test_an_event_opens_at_once_and_comes_again_in_the_same_incident() -> None:
    watch = Watch()
    assert watch.look([finding(XID, code=79)], 0.0).opened
    assert watch.look([finding(XID, code=79)], 3.0).again
    assert watch.look([finding(XID, code=31)], 3.0).opened, "another code is another incident"
    assert watch.look([], 603.0).cleared == ((XID, "GPU-1", 79), (XID, "GPU-1", 31))
    assert watch.look([finding(XID, code=79)], 700.0).opened, "the same code twice is two events"


def test_what_lasted_under_one_job_is_not_held_against_the_next() -> None:
    first, second = (replace(finding(IncidentKind.HELD_IDLE), job_id=job) for job in (17, 18))
    watch = Watch()
    assert not watch.look([first], 0.0).opened
    assert not watch.look([second], 890.0).opened
    assert not watch.look([second], 901.0).opened, "eleven seconds of its own"
    assert watch.look([second], 1790.0).opened == (second,)
    changes = watch.look([first], 1800.0)
    assert (changes.opened, changes.again, changes.cleared) == ((), (), (second.key,))
    assert not watch.look([first], 1801.0).opened
    assert watch.look([first], 2701.0).opened == (first,)
    hot = [replace(finding(), job_id=job) for job in (17, 18)]
    watch = Watch()
    watch.look([hot[0]], 0.0)
    assert watch.look([hot[1]], 30.0).opened == (hot[1],), "heat is the GPU's, whoever computes there"


def test_what_gets_worse_says_so() -> None:
    watch = Watch()
    watch.resume(finding(IncidentKind.ECC), 0.0)
    worse = finding(IncidentKind.ECC, severity=Severity.CRITICAL)
    assert watch.look([worse], 1.0).again == (worse,)
    assert not watch.look([worse], 2.0).again


def test_of_one_key_the_gravest_counts_whichever_came_first() -> None:
    mild, grave = finding(IncidentKind.ECC), finding(IncidentKind.ECC, severity=Severity.CRITICAL)
    for order in ([mild, grave], [grave, mild]):
        assert Watch().look(order, 0.0).opened == (grave,)


def test_what_cannot_be_looked_at_neither_clears_nor_opens() -> None:
    watch = Watch()
    watch.resume(finding(LOST), 0.0)
    assert not watch.look([], 1000.0, blind={"GPU-1"}).cleared
    assert not watch.look([], 1029.0).cleared
    assert watch.look([], 1030.0).cleared


@given(
    st.lists(st.tuples(st.floats(0, 700), st.sets(st.sampled_from(["GPU-1", "GPU-2"])), st.booleans()), max_size=60),
    st.sampled_from(list(IncidentKind)),
)
def test_incidents_open_and_clear_in_turn(looks: list[tuple[float, set[str], bool]], kind: IncidentKind) -> None:
    watch, now, is_open = Watch(), 0.0, set[str]()
    for passed, wrong, is_blind in looks:
        now += passed
        changes = watch.look([finding(kind, gpu) for gpu in sorted(wrong)], now, blind={"GPU-2"} if is_blind else ())
        for opened in changes.opened:
            assert opened.gpu_uuid in wrong
            assert opened.gpu_uuid not in is_open
            is_open.add(str(opened.gpu_uuid))
        for _, gpu, _ in changes.cleared:
            assert gpu in is_open
            assert gpu not in wrong
            is_open.discard(str(gpu))
        for again in changes.again:
            assert again.gpu_uuid in is_open
