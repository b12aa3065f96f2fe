"""The build's hook that decides which root keys a wheel pins. Run by hatchling, imported by nobody.

    STOKER_VENDOR_ROOTS=FILE     pin the roots of FILE (written by `stoker-license vendor keys root`) instead of the
                                 repository's development ones; the development evaluation voucher is left out
    STOKER_VENDOR_VOUCHER=FILE   ship FILE as the evaluation voucher

No wheel ever holds the development private keys. An editable install is the checkout itself and is left as it is.
Standard library and hatchling only: at build time nothing of ours can be imported.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NEVER = ["licensing/development/", "licensing/build_roots.py"]
_ROOTS = "licensing/roots.json"
_VOUCHER = "licensing/data/evaluation.voucher"


class RootsHook(BuildHookInterface[Any]):
    """Replaces roots and voucher in the wheel that is being built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the files are chosen; `version` is `standard` or `editable`.

        Raises:
            SystemExit: a variable names a file that cannot be used; nothing was built.
        """
        if version == "editable":
            return
        left_out = list(_NEVER)
        roots, voucher = os.environ.get("STOKER_VENDOR_ROOTS"), os.environ.get("STOKER_VENDOR_VOUCHER")
        if roots:
            _check_roots(Path(roots))
            build_data["force_include"][str(Path(roots).absolute())] = _ROOTS
            left_out += [_ROOTS, _VOUCHER]
        if voucher:
            _check_voucher(Path(voucher))
            build_data["force_include"][str(Path(voucher).absolute())] = _VOUCHER
            left_out += [_VOUCHER]
        self._leave_out(left_out)

    def _leave_out(self, paths: list[str]) -> None:
        """Add to the wheel's `exclude`; hatchling works its patterns out once, so a result from before is dropped."""
        config = self.build_config
        config.target_config["exclude"] = [*config.target_config.get("exclude", []), *(f"/{path}" for path in paths)]
        vars(config).pop("exclude_spec", None)


def _check_roots(path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = [root["key"] for root in content["roots"]]
        usable = (
            content["development"] is False and len(set(keys)) == 3 and all(len(bytes.fromhex(k)) == 32 for k in keys)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"STOKER_VENDOR_ROOTS={path}: not a roots file ({error}); write one with: stoker-license vendor keys root"
        ) from error
    if not usable:
        raise SystemExit(f'STOKER_VENDOR_ROOTS={path}: needs three different keys and "development": false')


def _check_voucher(path: Path) -> None:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SystemExit(f"STOKER_VENDOR_VOUCHER={path}: cannot be read ({error})") from error
    if not text.startswith("-----BEGIN STOKER LICENCE-----"):
        raise SystemExit(f"STOKER_VENDOR_VOUCHER={path}: not a voucher; write one with: stoker-license vendor issue")
