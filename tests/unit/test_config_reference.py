"""docs/configuration.md is true: its example is accepted as it stands, and no key is missing from it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from agent import config
from agent.config.tables import File

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)[0]


def test_the_example_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "stoker.toml"
    path.write_text(EXAMPLE, encoding="utf-8")
    made = config.load(path, environ={"HOME": str(tmp_path)})
    assert [each.name for each in made.partitions] == ["main", "debug"]


@pytest.mark.parametrize("table", [field.encode_name for field in msgspec.structs.fields(File)])
def test_every_key_is_in_it(table: str) -> None:
    kind = next(field.type for field in msgspec.structs.fields(File) if field.encode_name == table)
    said = tomllib.loads(EXAMPLE)[table]
    for type_, values in _tables(kind, said):
        keys = {field.encode_name for field in msgspec.structs.fields(type_)}
        assert keys <= {key for value in values for key in value}


def _tables(kind: Any, said: Any) -> list[tuple[type, list[dict[str, Any]]]]:
    inner = get_args(kind)
    if inner:
        return [(inner[0], said)]
    nested = [
        (get_args(field.type)[0], said[field.encode_name])
        for field in msgspec.structs.fields(kind)
        if get_args(field.type) and isinstance(get_args(field.type)[0], type(msgspec.Struct))
    ]
    return [(kind, [said]), *nested]


def test_the_rules_that_are_read_again_are_marked_and_no_others() -> None:
    marked = {
        line.strip("[]").split("]")[0].lstrip("[").split(".")[0]
        for line in EXAMPLE.splitlines()
        if line.startswith("[") and "●" in line
    }
    assert marked == set(config.LIVE)
