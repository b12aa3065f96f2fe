"""Usage reports and rows that were changed, cut or carry a name: each is found by its reader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licensing import usage_file
from licensing.errors import LicenceError
from licensing.site import Site
from licensing.usage_rows import read
from tests.fakes.usage_ledger import (
    BEGINS,
    MONTH,
    Node,
    fetch,
    make_site,
    report,
    wrong,
)
from tests.fakes.usage_ledger import node as node
from tests.fakes.usage_ledger import site as site
from tests.fakes.vendor import DAY, NOW


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exported")
    site, node = make_site(folder), Node(folder)
    for number in range(4):
        node.run(BEGINS + number * DAY, 100 + number)
    fetch(site, node)
    yield site.usage_export(BEGINS, BEGINS + MONTH, BEGINS + MONTH + DAY, rows=True)[1]
    site.close()
    node.close()


@settings(max_examples=300)
@given(data=st.data())
def test_any_changed_byte_of_a_report_is_found(exported: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(exported) - 1))
    byte = data.draw(st.integers(0, 127).filter(lambda each: each != ord(exported[at])))
    with pytest.raises(LicenceError):
        usage_file.read(exported[:at] + chr(byte) + exported[at + 1 :])


@settings(max_examples=60)
@given(data=st.data())
def test_a_report_that_is_cut_is_found(exported: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(exported) - 1))
    rows = exported.index("rows\n")
    cut = exported[:at]
    if cut == exported[:rows]:
        return  # a report without its rows is one
    with pytest.raises(LicenceError):
        usage_file.read(cut)


def test_line_ends_of_another_system_change_nothing(exported: str) -> None:
    assert usage_file.read(exported.replace("\n", "\r\n")) == usage_file.read(exported)


@settings(max_examples=60)
@given(data=st.data())
def test_any_changed_byte_of_a_stored_row_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site, node = make_site(Path(folder)), Node(Path(folder))
        try:
            for number in range(3):
                node.run(BEGINS + number * DAY, 100)
            fetch(site, node)
            ledger, number = site._ledger, data.draw(st.integers(1, 3))
            text = ledger.run("SELECT line FROM usage_row WHERE n = ?", (number,))[0][0]
            at = data.draw(st.integers(0, len(text) - 1))
            byte = data.draw(st.integers(1, 127).filter(lambda each: each != ord(text[at])))
            changed_text = text[:at] + chr(byte) + text[at + 1 :]
            ledger.run("UPDATE usage_row SET line = ? WHERE n = ?", (changed_text, number))
            with pytest.raises(ValueError, match="changed"):
                site._book.verify()
            said = wrong(report(site))
            assert any("do not lead to the head" in each or "its nodes tell of" in each for each in said)

            node.store._execute("UPDATE meter SET line = ? WHERE seq = ?", (changed_text, number))
            other = make_site(Path(folder) / "other")
            fetch_once(other, node)
            assert other.usage_wanted("n1", node.told(), NOW), "its head is not the one that the node tells"
            other.close()
        finally:
            site.close()
            node.close()


def fetch_once(site: Site, node: Node) -> None:
    page = node.store.meter_rows(*site.usage_wanted("n1", node.told(), NOW)[0], 5000)
    site.usage_merge("n1", page.chain, page.first, page.before, page.rows, NOW)


def test_a_row_that_names_a_user_or_a_path_is_none(node: Node) -> None:
    """Nothing that leaves the site has a name in it but the node's."""
    node.run(BEGINS, 100)
    (text,) = node.store.meter_rows(node.store.meter_head().chain, 0, 9).rows
    assert "ada" not in text
    assert "lab" not in text
    assert read(text.replace('["n1",1,"', '["n1",1,"/home/'), 1) is None
