"""The pictures in docs/ show what the application shows now."""

from __future__ import annotations

import pytest

from tests.screens.pictures import FOLDER, PICTURES, make, words


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_up_to_date(name: str) -> None:
    kept = (FOLDER / name).read_text(encoding="utf-8")
    assert words(kept) == words(make(name)), "remake it with: python -m tests.screens.pictures"


@pytest.mark.parametrize("name", PICTURES)
def test_picture_needs_no_network_and_no_script(name: str) -> None:
    kept = (FOLDER / name).read_text(encoding="utf-8")
    addresses = [word for word in kept.split('"') if "://" in word and "w3.org" not in word and "<!--" not in word]
    assert addresses == [] and "<script" not in kept and "url(http" not in kept
