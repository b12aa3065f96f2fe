"""Plans and editions: each plan's stages at their edges, and what a locked feature is told."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agent.engine import needs
from licensing import plans, stage, verify
from licensing.document import Licence
from licensing.plans import EDITIONS, MS_PER_HOUR, NEVER, REPORT_GRACE_S, Plan
from licensing.roots import pinned
from licensing.stage import Facts, Stage
from tests.fakes.vendor import BOUND, DAY, EVALUATION_FILE, LEASE, NOW, changed

END = NOW + 300 * DAY
TRIAL = changed(BOUND, plan="trial", term_s=30 * DAY)
PERPETUAL = changed(BOUND, plan="perpetual", updates_until=END)
PREPAID = changed(BOUND, plan="prepaid", gpu_hours=1000)
DUE = NOW + 66 * DAY
PAY = changed(BOUND, plan="pay-per-use", report_by=DUE)


def standing(licence: Licence, at: int = NOW, **facts: int) -> tuple[Stage, str | None]:
    found = stage.of_licence(licence, NOW, at, Facts(**{"built_at": NOW, **facts}))  # type: ignore[arg-type]
    return found.stage, found.code


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (0, (Stage.ACTIVE, None)),
        (15, (Stage.NOTICE, "LIC-402")),
        (30, (Stage.RESTRICTED, "LIC-405")),
    ],
)
def test_a_trial_is_30_days_from_activation_without_grace(day: int, expected: tuple[Stage, str | None]) -> None:
    assert standing(TRIAL, NOW + day * DAY) == expected


def test_a_perpetual_licence_never_ends_for_what_was_built_in_time() -> None:
    for at in (NOW, END, END + 9000 * DAY):
        assert standing(PERPETUAL, at, built_at=END) == (Stage.ACTIVE, None)
    found = stage.of_licence(PERPETUAL, NOW, END + 9000 * DAY, Facts(built_at=END))
    assert (found.expires_at, found.restricted_at) == (None, None)
    assert stage.ends(PERPETUAL, NOW).restricted_at == NEVER


def test_a_later_build_holds_new_jobs_from_its_first_day() -> None:
    assert standing(PERPETUAL, NOW, built_at=END + 1) == (Stage.PERPETUAL, "LIC-408")
    assert Stage.PERPETUAL.holds
    detail = stage.of_licence(PERPETUAL, NOW, NOW, Facts(built_at=END + DAY)).detail
    assert "any build up to that day starts them for ever" in detail
    assert "Install an older build" in detail


def test_a_node_asks_for_its_own_build() -> None:
    lease = changed(LEASE, exp=NOW + DAY)
    assert stage.of_lease(PERPETUAL, lease, NOW, NOW, END + 1).stage is Stage.PERPETUAL
    assert stage.of_lease(PERPETUAL, lease, NOW, NOW, END).stage is Stage.ACTIVE


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (0, (Stage.ACTIVE, None)),
        (899.9, (Stage.ACTIVE, None)),
        (900, (Stage.NOTICE, "LIC-402")),
        (999.9, (Stage.NOTICE, "LIC-402")),
        (1000, (Stage.GRACE, "LIC-433")),
        (1099.9, (Stage.GRACE, "LIC-433")),
        (1100, (Stage.RESTRICTED, "LIC-434")),
    ],
)
def test_prepaid_hours_have_a_tenth_of_grace(hours: float, expected: tuple[Stage, str | None]) -> None:
    used = int(hours * MS_PER_HOUR)
    assert standing(PREPAID, gpu_ms_used=used) == expected
    found = stage.of_licence(PREPAID, NOW, NOW, Facts(built_at=NOW, gpu_ms_used=used))
    assert found.gpu_ms_left == 1000 * MS_PER_HOUR - used


def test_prepaid_hours_end_with_their_date_too() -> None:
    assert standing(PREPAID, END) == (Stage.GRACE, "LIC-403")
    assert standing(PREPAID, END + 14 * DAY) == (Stage.RESTRICTED, "LIC-404")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (DUE - 7 * DAY - 1, (Stage.ACTIVE, None)),
        (DUE - 7 * DAY, (Stage.NOTICE, "LIC-402")),
        (DUE, (Stage.GRACE, "LIC-431")),
        (DUE + REPORT_GRACE_S - 1, (Stage.GRACE, "LIC-431")),
        (DUE + REPORT_GRACE_S, (Stage.RESTRICTED, "LIC-432")),
    ],
)
def test_pay_per_use_waits_for_its_report(at: int, expected: tuple[Stage, str | None]) -> None:
    assert standing(PAY, at) == expected
    assert standing(PAY, at, report_by=DUE + 60 * DAY) == (Stage.ACTIVE, None), "a receipt moves it on"


def test_a_receipt_never_moves_it_back() -> None:
    assert stage.of_licence(PAY, NOW, NOW, Facts(built_at=NOW, report_by=NOW)).report_by == DUE


def test_no_lease_outlives_a_missing_report() -> None:
    assert stage.ends(PAY, NOW).restricted_at == DUE + REPORT_GRACE_S
    assert stage.ends(PAY, NOW, report_by=END).restricted_at == END + 14 * DAY


def test_the_worst_of_all_counts() -> None:
    assert standing(PREPAID, END, gpu_ms_used=1100 * MS_PER_HOUR) == (Stage.RESTRICTED, "LIC-434")
    assert standing(PAY, END - DAY, report_by=END - 10 * DAY) == (Stage.GRACE, "LIC-431")


@pytest.mark.parametrize(
    ("days_left", "said"), [(30, 30), (29, 30), (15, 30), (14, 14), (8, 14), (7, 7), (2, 7), (1, 1)]
)
def test_the_end_is_said_again_at_30_14_7_and_1_days(days_left: int, said: int) -> None:
    assert stage.of_licence(changed(BOUND, exp=END), NOW, END - days_left * DAY).notice_days == said
    assert stage.of_licence(changed(BOUND, exp=END), NOW, END - days_left * DAY + 1).notice_days == said


def test_an_unknown_plan_of_a_newer_vendor_is_a_term_without_grace() -> None:
    newer = changed(BOUND, plan="weekly", exp=END)
    assert standing(newer) == (Stage.ACTIVE, None)
    assert standing(newer, END) == (Stage.RESTRICTED, "LIC-404")


def test_a_brand_is_shown_beside_the_customer() -> None:
    assert "of ACME (Bright GPUs)" in stage.of_licence(changed(BOUND, brand="Bright GPUs"), NOW, NOW).message


# --- editions ---


def test_each_edition_holds_all_of_the_one_before() -> None:
    for below, above in pairwise(EDITIONS):
        assert set(below.features) < set(above.features)


def test_a_locked_feature_names_the_edition_that_has_it() -> None:
    team = changed(BOUND, edition="team", features=plans.edition("team").features)  # type: ignore[union-attr]
    assert plans.locked(team, "recurring") is None
    words = plans.locked(team, "slurm") or ""
    assert "slurm is not part of the licence lic-test (team); edition enterprise has it" in words
    assert "edition team and above has it" in (plans.locked(BOUND, "recurring") or "")
    assert "this site, unlicensed" in (plans.locked(None, "slurm") or "")
    assert "in no edition of this version" in (plans.locked(team, "teleport") or "")


def test_the_features_count_and_not_the_edition() -> None:
    assert plans.locked(changed(BOUND, edition="enterprise", features=()), "slurm") is not None
    assert plans.locked(changed(BOUND, features=("slurm",)), "slurm") is None


def test_what_keeps_jobs_from_starting_is_what_a_job_can_need() -> None:
    """The words of the engine are those that are sold, and what is not built keeps nothing from starting."""
    gated = set(plans.held_jobs(BOUND))
    assert gated == {needs.QOS, needs.RESERVATIONS, needs.RECURRING}
    assert gated | set(plans.PLANNED) == set(plans.FEATURES)
    assert plans.held_jobs(changed(BOUND, features=plans.FEATURES)) == {}
    assert set(plans.held_jobs(changed(BOUND, features=("qos",)))) == gated - {"qos"}


def test_under_development_roots_a_licence_that_names_no_edition_opens_all() -> None:
    assert plans.opened(BOUND) == ()
    assert plans.opened(BOUND, development=True) == plans.FEATURES
    assert plans.opened(changed(BOUND, edition="standard"), development=True) == ()
    assert plans.opened(changed(BOUND, features=("qos",)), development=True) == ("qos",)
    assert plans.opened(None, development=True) == ()


def test_the_shipped_evaluation_opens_all() -> None:
    evaluation = verify.licence_file(EVALUATION_FILE.read_text(), pinned()).licence
    assert (evaluation.edition, evaluation.features) == ("enterprise", plans.FEATURES)


@pytest.mark.parametrize("plan", list(Plan))
def test_every_plan_stands_at_its_first_day(plan: Plan) -> None:
    needs = {
        Plan.PERPETUAL: {"updates_until": END},
        Plan.PREPAID: {"gpu_hours": 5},
        Plan.PAY_PER_USE: {"report_by": END},
    }
    licence = changed(BOUND, plan=plan.value, **needs.get(plan, {}))
    assert plans.problem(licence) is None
    assert standing(licence) == (Stage.ACTIVE, None)
