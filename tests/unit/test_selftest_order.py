"""The order: what may stand in its file, and each way in which a machine can differ from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agent.selftest.checks import Check, Verdict, failed
from agent.selftest.errors import EX_DATAERR, OrderError
from agent.selftest.expected import Expected
from agent.selftest.order import Order, compare, read
from tests.fakes.selftest import H100, inspection

WHOLE = 'model = "H100 SXM"\ncount = 2\nmemory_gb = 80\npcie_generation = 5\npcie_width = 16\nnvlink_count = 18\n'
EXPECTED = Expected()


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "order.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def order(**changes: Any) -> Order:
    whole: dict[str, Any] = {
        "model": "H100 SXM",
        "count": 1,
        "memory_gb": 80,
        "pcie_generation": 5,
        "pcie_width": 16,
        "nvlink_count": 18,
    }
    return Order(**(whole | changes))


def bad(order: Order, *gpus: Any) -> list[tuple[str, str, str]]:
    return [(each.subject, each.name, each.found) for each in failed(compare(order, gpus, EXPECTED))]


def test_an_order_is_read_and_met(tmp_path: Path) -> None:
    wanted = read(written(tmp_path, WHOLE))
    assert wanted == order(count=2)
    checks = compare(wanted, [inspection(0), inspection(1)], EXPECTED)
    assert {each.verdict for each in checks} == {Verdict.PASS}
    assert len(checks) == 1 + 2 * 5


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "selftest.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert read(written(tmp_path, example)) == order(count=8)
    keys = {line.partition(" =")[0] for line in example.splitlines()}
    assert keys == set(Order.__struct_fields__), "all of them are shown"


def test_only_what_was_ordered_is_compared(tmp_path: Path) -> None:
    wanted = read(written(tmp_path, 'model = "h100"\ncount = 1  # of a node\n'))
    assert [each.name for each in compare(wanted, [inspection(nvlinks=0, pcie_width=1)], EXPECTED)] == ["GPUs", "model"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\x7fELF\xff\xfe\x00\x01", "is not text"),
        ("", "the key 'model' is missing"),
        ('model = "H100"\n', "the key 'count' is missing"),
        ('model = "H100"\ncuont = 8\ncount = 8\n', "unknown key 'cuont'; did you mean count?"),
        ('model = "H100"\ncount = 8\nzzz = 1\n', "unknown key 'zzz'; known: model, count, memory_gb"),
        ('model = "H100"\ncount = "8"\n', "count: expected `int`, got `str`"),
        ('model = "H100"\ncount = 0\n', "count: expected `int` >= 1"),
        ('model = "H100"\ncount = true\n', "count: expected `int`, got `bool`"),
        ('model = "H100"\ncount = 8.0\n', "count: expected `int`, got `float`"),
        ('model = ""\ncount = 8\n', "model: expected `str` of length >= 1"),
        ('model = "H100\ncount = 8\n', "not valid TOML"),
        ('model = "H100"\ncount = 8\ncount = 8\n', "not valid TOML"),
        ("x" * 70_000, "longer than 65536 bytes"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(OrderError) as refused:
        read(written(tmp_path, text))
    assert said in str(refused.value) and "order.toml" in str(refused.value)
    assert refused.value.exit_code == EX_DATAERR


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(OrderError, match=f"cannot read the order {path}"):
            read(path)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"name": "NVIDIA H100 PCIe"}, ("GPU 0", "model", "NVIDIA H100 PCIe")),
        ({"name": "NVIDIA H100 NVL"}, ("GPU 0", "model", "NVIDIA H100 NVL")),
        ({"memory_total_bytes": 42_949_672_960}, ("GPU 0", "memory", "42.9 GB")),
        ({"memory_total_bytes": 100_000_000_000}, ("GPU 0", "memory", "100.0 GB")),
        ({"pcie_width": 8}, ("GPU 0", "PCIe lanes", "8")),
        ({"pcie_generation_max": 4}, ("GPU 0", "PCIe generation", "4")),
        ({"nvlinks": 17}, ("GPU 0", "NVLinks up", "17")),
    ],
)
def test_each_difference_fails_alone(found: dict[str, Any], line: tuple[str, str, str]) -> None:
    assert bad(order(), inspection(**found)) == [line]


def test_another_number_of_gpus_fails() -> None:
    assert bad(order(count=8), *(inspection(index) for index in range(7))) == [("node", "GPUs", "7")]
    assert bad(order(count=1), inspection(0), inspection(1)) == [("node", "GPUs", "2")]
    assert bad(order(count=1)) == [("node", "GPUs", "0")]


def test_what_the_driver_does_not_tell_is_no_verdict_and_no_pass() -> None:
    unknown = inspection(memory_total_bytes=None, pcie_width=None, pcie_generation_max=None, nvlinks=None)
    checks: list[Check] = compare(order(), [unknown], EXPECTED)
    assert [each.verdict for each in checks] == [Verdict.PASS, Verdict.PASS, *4 * [Verdict.NONE]]
    assert compare(order(nvlink_count=0), [unknown], EXPECTED)[-1].verdict is Verdict.PASS, "no links, as ordered"


@pytest.mark.parametrize(
    ("ordered", "name", "same"),
    [
        ("H100 SXM", H100, True),
        ("h100-sxm", H100, True),
        ("NVIDIA H100 80GB HBM3", H100, True),
        ("H100", H100, True),
        ("100", H100, False),
        ("H200", "NVIDIA H200 NVL", False),
        ("H200 NVL", "NVIDIA H200 NVL", True),
        ("A100 SXM 40GB", "NVIDIA A100-SXM4-80GB", False),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX 4090", "NVIDIA GeForce RTX 4090 D", False),
        ("B300", "NVIDIA B300 SXM6 AC", True),
    ],
)
def test_a_model_is_known_by_our_key_the_drivers_name_or_a_part_of_it(ordered: str, name: str, same: bool) -> None:
    wanted = Order(model=ordered, count=1)
    assert (bad(wanted, inspection(name=name)) == []) is same
