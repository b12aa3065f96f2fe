"""The lock files: they hold what pyproject.toml asks for, hashed, in one version each, and no address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = {"run": "requirements.lock", "train": "requirements-train.lock", "test": "requirements-test.lock"}
NOT_LOCKED = {"torch"}
"""Its builds differ by accelerator; STOKER_TORCH names one."""


def _locked(name: str) -> dict[tuple[str, str], str]:
    """(package, marker) → version."""
    found = {}
    for line in (ROOT / LOCKS[name]).read_text().splitlines():
        if not line.startswith(" "):
            requirement = Requirement(line.removesuffix(" \\"))
            found[requirement.name, str(requirement.marker or "")] = str(requirement.specifier).removeprefix("==")
    return found


def _wanted(name: str) -> list[Requirement]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = table["project"]
    sets = {"run": project["dependencies"] + table["build-system"]["requires"], **project["optional-dependencies"]}
    return [each for each in map(Requirement, sets[name]) if each.name not in NOT_LOCKED]


@pytest.mark.parametrize("name", LOCKS)
def test_everything_asked_for_is_locked_to_a_version_that_fits(name: str) -> None:
    locked = {package: version for (package, _), version in _locked(name).items()}
    misfits = [str(each) for each in _wanted(name) if not each.specifier.contains(locked.get(each.name, "0"))]
    assert misfits == [], "run .ci/lock"


@pytest.mark.parametrize("name", LOCKS)
def test_each_line_is_a_pinned_package_or_a_hash(name: str) -> None:
    pinned = r"[a-z0-9.-]+==[^\s;]+( ; [^\\]+)? \\"
    hashed = r"    --hash=sha256:[0-9a-f]{64}( \\)?"
    lines = (ROOT / LOCKS[name]).read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(f"{pinned}|{hashed}", line)] == []
    assert sum("--hash" in line for line in lines) > sum("==" in line for line in lines)


def test_no_package_has_two_versions() -> None:
    versions: dict[tuple[str, str], set[str]] = {}
    for name in LOCKS:
        for key, version in _locked(name).items():
            versions.setdefault(key, set()).add(version)
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}


def test_torch_is_in_no_lock() -> None:
    assert not [package for name in LOCKS for package, _ in _locked(name) if package in NOT_LOCKED | {"triton"}]
