"""Lists of words: mail types, licences, features, partitions, nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import lists
from agent.jobs.grammar import GrammarError


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("END,FAIL", ("END", "FAIL")),
        ("fail,end", ("END", "FAIL")),
        ("END,,END", ("END",)),
        ("END, FAIL", ("END", "FAIL")),
        ("ALL", ("INVALID_DEPEND", "BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT")),
        ("TIME_LIMIT_50,ALL", ("INVALID_DEPEND", "BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT", "TIME_LIMIT_50")),
        ("END,ARRAY_TASKS", ("ARRAY_TASKS", "END")),
        ("NONE", ()),
        ("END,NONE", ()),
    ],
)
def test_mail_types(text: str, types: tuple[str, ...]) -> None:
    assert lists.mail_types(text) == types


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("matlab", (("matlab", 1),)),
        ("matlab:2", (("matlab", 2),)),
        ("matlab:2,ansys", (("matlab", 2), ("ansys", 1))),
        ("matlab:2,matlab:1", (("matlab", 3),)),
        ("matlab:0", ()),
        ("pool@server:1", (("pool@server", 1),)),
        ("", ()),
    ],
)
def test_licenses(text: str, asked: tuple[tuple[str, int], ...]) -> None:
    assert lists.licenses(text) == asked


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("h100", ("h100",)),
        ("h100&nvlink", ("h100", "nvlink")),
        ("a,b,a", ("a", "b")),
        ("", ()),
        ("a|b", ("a|b",)),
        ("[a|b]", ("a|b",)),
        ("(a)", ("a",)),
        ("a|", ("a",)),
        ("(a|b)&c,[d|e|d]", ("a|b", "c", "d|e")),
        ("(a|b)&(a|b)", ("a|b",)),
    ],
)
def test_features(text: str, features: tuple[str, ...]) -> None:
    assert lists.features(text) == features


@pytest.mark.parametrize("sign", [",", "&"])
def test_a_long_list_of_features_holds_nobody_up(sign: str) -> None:
    """Where each sign looks through all that follows, this takes an hour."""
    assert lists.features(sign.join(["a"] * 400_000)) == ("a",)
    with pytest.raises(GrammarError, match="is not a list of features"):
        lists.features(sign * 400_000)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ("n1",)),
        ("n1,n2,n1", ("n1", "n2")),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[01-03,7],m", ("n01", "n02", "n03", "n7", "m")),
        ("n[1-2]-ib", ("n1-ib", "n2-ib")),
        ("gpu.lab.example", ("gpu.lab.example",)),
    ],
)
def test_nodes(text: str, names: tuple[str, ...]) -> None:
    assert lists.nodes(text) == names


def test_partitions() -> None:
    assert lists.partitions("main") == ("main",)
    assert lists.partitions("main,debug,main") == ("main", "debug")


BAD: list[tuple[Callable[[str], Any], str, str]] = [
    (lists.mail_types, "", "names no event"),
    (lists.mail_types, ",", "names no event"),
    (lists.mail_types, "SOMETIMES", "names 'SOMETIMES', of which no mail is sent"),
    (lists.mail_types, "END,\x1b[2J", "of which no mail is sent"),
    (lists.licenses, "matlab*2", "is not a list of licences"),
    (lists.licenses, "matlab:x", "is not a list of licences"),
    (lists.licenses, "matlab=2", "is not a list of licences"),
    (lists.licenses, "a:1|b:1", "one of several"),
    (lists.licenses, "a:" + "9" * 5000, "is not a list of licences"),
    (lists.features, "a|b&c", "joins features by & and by |"),
    (lists.features, "a&b|c", "joins features by & and by |"),
    (lists.features, "|a", "is not a list of features"),
    (lists.features, "[a|b", "groups of groups"),
    (lists.features, "((a|b)&c)|d", "groups of groups"),
    (lists.features, "()", "is not a list of features"),
    (lists.features, "a*2", "a number of nodes"),
    (lists.features, "[a&b]", "asks for groups of groups"),
    (lists.features, "!a", "is not a list of features"),
    (lists.features, "a & b", "is not a list of features"),
    (lists.features, "&a", "is not a list of features"),
    (lists.features, "a&&b", "is not a list of features"),
    (lists.partitions, "", "names no partition"),
    (lists.partitions, ",", "names no partition"),
    (lists.partitions, "a b", "is not a name"),
    (lists.nodes, "", "names no node"),
    (lists.nodes, ",", "names no node"),
    (lists.nodes, "/etc/nodes", "names a file"),
    (lists.nodes, "n[1-", "is not a list of nodes"),
    (lists.nodes, "n]", "is not a list of nodes"),
    (lists.nodes, "n[]", "is no range"),
    (lists.nodes, "n[a-b]", "is no range"),
    (lists.nodes, "n[3-1]", "is not a list of at most 4096 nodes"),
    (lists.nodes, "n[0-999999999]", "is not a list of at most 4096 nodes"),
    (lists.nodes, "n[[1]]", "is not a list of nodes"),
    (lists.nodes, "n 1", "is not a list of nodes"),
    (lists.nodes, "n[1-2]x[3-4]", "is not a list of nodes"),
]


@pytest.mark.parametrize(("reader", "text", "said"), BAD, ids=[f"{each[0].__name__}-{each[1][:12]!r}" for each in BAD])
def test_bad_lists_are_refused(reader: Callable[[str], Any], text: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        reader(text)


def test_many_ranges_are_not_expanded() -> None:
    with pytest.raises(GrammarError):
        lists.nodes(",".join(f"a{number}[0-4000]" for number in range(10_000)))


READERS = [lists.mail_types, lists.licenses, lists.features, lists.partitions, lists.nodes]


@given(st.sampled_from(READERS), st.one_of(st.text(), st.text("ab1,:&|[]-*; ", max_size=20)))
def test_any_text_is_read_or_refused(reader: Callable[[str], Any], text: str) -> None:
    try:
        reader(text)
    except GrammarError as error:
        assert str(error)
