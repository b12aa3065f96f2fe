"""The values of options: times, sizes, GPUs, exports, names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import grammar
from agent.jobs.grammar import ExportRequest, GrammarError
from agent.jobs.spec import WarnSignal
from tests.fakes.slurm_words import format_memory, format_time_limit

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 120),  # rounded up to whole minutes
        ("2:00", 120),
        ("0:0:1", 60),
        ("1:2:3", 3780),
        ("2-12", 216_000),
        ("2-12:30", 217_800),
        ("1-2:3:4", 93_840),
        ("0", None),
        ("0:0", None),
        ("0-0", None),
        ("unlimited", None),
        ("INFINITE", None),
        ("-1", None),
        ("90:90:90", 329_520),
        ("4294967293", 4294967293 * 60),
        ("1-", 86_400),
        ("005", 300),
        ("0-0:0:1", 60),
    ],
)
def test_times(text: str, seconds: int | None) -> None:
    assert grammar.time_limit_s(text) == seconds


@given(st.integers(1, 10**9))
def test_a_shown_time_reads_back(minutes: int) -> None:
    assert grammar.time_limit_s(format_time_limit(minutes * 60)) == minutes * 60


def test_no_limit_reads_back() -> None:
    assert grammar.time_limit_s(format_time_limit(None)) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 * MIB),
        ("1K", MIB),
        ("1025k", 2 * MIB),
        ("16G", 16384 * MIB),
        ("1T", MIB * MIB),
        ("500gb", 500 * 1024 * MIB),
        ("0", None),
    ],
)
def test_memory(text: str, size: int | None) -> None:
    assert grammar.memory_bytes(text) == size


@given(st.integers(1, 2**40))
def test_a_shown_size_reads_back(mebibytes: int) -> None:
    assert grammar.memory_bytes(format_memory(mebibytes * MIB)) == mebibytes * MIB


@pytest.mark.parametrize(
    ("gpu_type", "name", "fits"),
    [
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("H100", "NVIDIA H100 PCIe", True),
        ("a100-sxm4-80gb", "NVIDIA A100-SXM4-80GB", True),
        ("rtx_4090", "NVIDIA GeForce RTX 4090", True),
        ("h100", "NVIDIA H200", False),
        ("h100", "", False),
    ],
)
def test_a_type_is_part_of_the_gpus_name(gpu_type: str, name: str, fits: bool) -> None:
    assert grammar.matches_type(gpu_type, name) is fits


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("ALL", ExportRequest(everything=True)),
        ("all", ExportRequest(everything=True)),
        ("NONE", ExportRequest(everything=False)),
        ("A,B=1", ExportRequest(everything=False, names=("A",), values=(("B", "1"),))),
        ("ALL,A=", ExportRequest(everything=True, values=(("A", ""),))),
        ("A='x,y',B", ExportRequest(everything=False, names=("B",), values=(("A", "x,y"),))),
        ("A=b=c", ExportRequest(everything=False, values=(("A", "b=c"),))),
    ],
)
def test_exports(text: str, request_: ExportRequest) -> None:
    assert grammar.export(text) == request_


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True).filter(lambda name: name != "ALL"),
        st.text("ab,= é", max_size=5),
        min_size=1,
    )
)
def test_exported_values_read_back(values: dict[str, str]) -> None:
    text = ",".join(f"{name}='{value}'" for name, value in values.items())
    assert dict(grammar.export(text).values) == values


BAD: list[tuple[Callable[[str], Any], list[str]]] = [
    (
        grammar.time_limit_s,
        ["", "abc", "-5", "1:2:3:4", "-", "1-:2", "1-2:3:4:5", "5m", "1.5", " 5", "٣", "9" * 5000, "4294967294"],
    ),
    (
        grammar.memory_bytes,
        ["", "-1", "1.5G", "16X", "16B", "16GiB", "G", "1e3", "9" * 19 + "T", "9" * 5000, "16 G", "٣"],
    ),
    (grammar.positive, ["", "0", "-1", "1.0", "x", "9" * 5000]),
    (grammar.count, ["", "-1", "1.0", "x", "9" * 5000, "٣"]),
    (grammar.nodes, ["", "0", "2", "2-2", "2-4", "-1", "1-", "1-0", "1-1-1", "1k", "1,2", "9" * 5000]),
    (grammar.nice, ["x", "1.5", "2147483646", "-2147483646", "9" * 5000, " 5", "--5", "٣"]),
    (grammar.priority, ["", "-1", "x", "4294967295", "9" * 5000, "1.5"]),
    (grammar.yes_or_no, ["", "maybe", "1", "true"]),
    (grammar.exclusive, ["user", "mcs", "topo", "yes", "x"]),
    (
        grammar.warn_signal,
        [
            *("", "0", "65", "-1", "FOO", "WINCH", "SEGV", "@60", "B:", "R:B:USR1", "B:R:USR1", "USR1@-1"),
            *("USR1@65536", "USR1@x", "USR1@60@60", "X:USR1", "BB:USR1", "USR1,USR2", "9" * 5000, "USR1@" + "9" * 5000),
            "٣",
        ],
    ),
    (grammar.name, ["", "a b", "a,b", "a:b", "a|b", "a\nb", "\x1b[2J", "x" * 257, "\ud800"]),
    (grammar.printable, ["a\nb", "\x1b[2J", "\0", "a\u202eb", "x" * 1025, "\ud800"]),
    (grammar.export, ["", "A,,B", "1A=2", "A='x", "A B", ",", "A\0=1"]),
    (
        grammar.job_name,
        ["", "a\0b", "a\nb", "\x1b[2J", "a\u202eb", "a\u200bb", "a\tb", "x" * 257, "é" * 129, "\ud800", "\u2028"],
    ),
    (grammar.path, ["", "a\0b", "x" * 4096, "\ud800"]),
    (grammar.open_mode, ["", "w", "x"]),
]


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        pytest.param(reader, text, id=f"{reader.__name__}-{number}")
        for reader, texts in BAD
        for number, text in enumerate(texts)
    ],
)
def test_bad_values_are_refused(reader: Callable[[str], Any], text: str) -> None:
    with pytest.raises(GrammarError):
        reader(text)


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("USR1", WarnSignal(number=10)),
        ("SIGUSR1", WarnSignal(number=10)),
        ("sigusr1", WarnSignal(number=10)),
        ("10", WarnSignal(number=10)),
        ("64", WarnSignal(number=64)),
        ("USR1@300", WarnSignal(number=10, before_s=300)),
        ("USR1@0", WarnSignal(number=10, before_s=0)),
        ("USR1@", WarnSignal(number=10)),
        ("B:TERM@65535", WarnSignal(number=15, before_s=65_535, batch_only=True)),
        ("b:usr2", WarnSignal(number=12, batch_only=True)),
        ("R:USR1", WarnSignal(number=10)),
        ("RB:USR1", WarnSignal(number=10, batch_only=True)),
        ("BR:USR1@5", WarnSignal(number=10, before_s=5, batch_only=True)),
        (" USR1 ", WarnSignal(number=10)),
    ],
)
def test_signals(text: str, signal: WarnSignal) -> None:
    assert grammar.warn_signal(text) == signal


@pytest.mark.parametrize(
    ("text", "value"), [("", 100), ("0", 0), ("5", 5), ("+5", 5), ("-5", -5), ("2147483645", 2_147_483_645)]
)
def test_nice(text: str, value: int) -> None:
    assert grammar.nice(text) == value


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("10", 10), ("TOP", 4_294_967_294), ("top", 4_294_967_294)])
def test_priority(text: str, value: int) -> None:
    assert grammar.priority(text) == value


@pytest.mark.parametrize("text", ["1", "1-1", "1-4", "01"])
def test_one_node_is_enough(text: str) -> None:
    assert grammar.nodes(text) == 1


def test_more_nodes_need_the_cluster_engine() -> None:
    with pytest.raises(GrammarError, match="needs the cluster engine"):
        grammar.nodes("2-4")


@pytest.mark.parametrize("text", ["lab", "lab-1", "größe", "a.b"])
def test_names_of_the_site(text: str) -> None:
    assert grammar.name(text) == text


@pytest.mark.parametrize("name", ["train", "träining", "実験 7", "a/b", "x" * 256, "-x", "%j", "[red]", "🚀"])
def test_printable_names_are_kept(name: str) -> None:
    assert grammar.job_name(name) == name


@pytest.mark.parametrize(
    ("text", "mode"), [("append", "append"), ("truncate", "truncate"), ("A", "append"), ("t", "truncate")]
)
def test_open_modes(text: str, mode: str) -> None:
    assert grammar.open_mode(text) == mode


READERS = [reader for reader, _ in BAD] + [grammar.output]


@given(st.sampled_from(READERS), st.text())
def test_any_text_is_read_or_refused(reader: Callable[[str], Any], text: str) -> None:
    try:
        reader(text)
    except GrammarError as error:
        assert str(error)
