"""Host lists as Slurm writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.hostlist import HostListError, compress, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3,05-07],m2", ["n1", "n2", "n3", "n05", "n06", "n07", "m2"]),  # recorded of scontrol 22.05
        ("a[1-2]b[3,4]", ["a1b3", "a1b4", "a2b3", "a2b4"]),
        ("gpu-node.example.org", ["gpu-node.example.org"]),
        ("n1,,n2,", ["n1", "n2"]),
        ("", []),
        ("n[09-11]", ["n09", "n10", "n11"]),
    ],
)
def test_a_list_means_its_names(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "n[1-3",
        "n1-3]",
        "n[[1]]",
        "n[3-1]",
        "n[a-b]",
        "n[]",
        "n[1-]",
        "n[-1]",
        "n[1-99999999999999]",
        "n[1-65537]",
        "n[0-999][0-999][0-999]",
        "n[٣]",
        "n[1-2,]",
    ],
)
def test_what_is_no_list_is_refused_and_never_written_out(text: str) -> None:
    with pytest.raises(HostListError):
        expand(text)


def test_names_become_the_list_that_slurm_makes() -> None:
    assert compress(["n1", "n2", "n3"]) == "n[1-3]"
    assert compress(["n1", "n3", "m1", "n4"]) == "n[1,3],m1,n4"
    assert compress(["n08", "n09", "n10", "n1"]) == "n[08-10,1]"
    assert compress([]) == ""


@given(st.lists(st.from_regex(r"\A[a-z]{1,3}-?[0-9]{0,4}\Z"), max_size=40))
def test_a_list_of_names_comes_back_as_it_was(names: list[str]) -> None:
    assert expand(compress(names)) == names
