"""Which GPU an operator meant, of all that a large cluster has."""

from __future__ import annotations

import difflib
import random
import uuid
from collections.abc import Sequence

import pytest

from agent.api.errors import ApiError
from agent.hub.pinning import refuse_unknown

_DRAWN = random.Random(7)
SHOWN = {f"n{n}": [f"GPU-{uuid.UUID(int=_DRAWN.getrandbits(128))}" for _ in range(8)] for n in range(250)}
MEANT = SHOWN["n99"][5]


@pytest.mark.parametrize(
    "typed",
    [
        MEANT[:20] + MEANT[21:],
        MEANT[:9] + "0" + MEANT[9:],
        MEANT[:9] + MEANT[10] + MEANT[9] + MEANT[11:],
        MEANT.upper(),
        MEANT[:-3],
        MEANT[4:],
    ],
    ids=["a digit too few", "a digit too many", "two swapped", "capitals", "cut short", "without its prefix"],
)
def test_a_slip_of_the_pen_finds_the_gpu_that_was_meant(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds only some of the two thousand against it closely: the hub's other callers wait meanwhile."""
    weighed: list[int] = []
    closely = difflib.get_close_matches

    def spied(word: str, among: Sequence[str], n: int, cutoff: float) -> list[str]:
        weighed.append(len(among))
        return closely(word, among, n, cutoff)

    monkeypatch.setattr(difflib, "get_close_matches", spied)
    with pytest.raises(ApiError, match=rf"no node shows a GPU '{typed}'; nodes show .*{MEANT} \(n99\)"):
        refuse_unknown(typed, SHOWN)
    assert weighed[0] <= 64
    refuse_unknown(MEANT, SHOWN)


def test_without_any_gpu_it_says_so() -> None:
    with pytest.raises(ApiError, match="no node shows any GPU now"):
        refuse_unknown(MEANT, {})
