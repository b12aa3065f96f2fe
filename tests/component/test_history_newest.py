"""The longest look back is no lap too long: what a ring holds of the present is shown, whatever it is rounded to."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.telemetry.lookback import look_back
from agent.telemetry.ringfile import TIERS, RingFile

NOW = 1_795_357_484
DAY_S = 86_400


@pytest.mark.parametrize("tiers", [2, 3, 4], ids=["days", "month", "year"])
@pytest.mark.parametrize("back_s", [30 * DAY_S, 400 * DAY_S])
@pytest.mark.parametrize("points", [38, 1000])
def test_the_newest_is_in_the_longest_look_back(tmp_path: Path, tiers: int, back_s: int, points: int) -> None:
    ring = RingFile.open(tmp_path / "a.ring", ("power_mw",), "boot-1", TIERS[:tiers])
    for at in range(NOW - 1900, NOW):
        ring.add(at, [(1.0, 2.0, 3.0)])
    found = look_back(ring, "power_mw", since=NOW - back_s, until=NOW, points=points, now=NOW)
    newest = (NOW - found.begin) // found.width_s
    assert (1.0, 2.0, 3.0) in found.spreads[newest - 1 :]
    assert all(each is None for each in found.spreads[: -2 - 1900 // found.width_s])
    ring.close()
