"""`stoker-license audit verify`: walk the audit trail of the hub's ledger from its first row.

Rules kept here: the ledger is the running hub's alone, so a copy of it is walked; the ledger itself is only read. The
copy is taken again where the hub wrote the main file meanwhile: the two files of a ledger belong together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from licensing.errors import StoreError

LEDGER = "licence.db"
_TRIES = 20


def add_verbs(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Fill in `stoker-license audit`; gives its verb's parser."""
    verbs = parser.add_subparsers(dest="audit_verb", required=True, metavar="VERB", parser_class=type(parser))
    verify: argparse.ArgumentParser = verbs.add_parser(
        "verify", help="is the trail of activations, grants and corrections whole and unchanged"
    )
    verify.add_argument("file", metavar="FILE", nargs="?", type=Path, help="a ledger or a copy; else this hub's")
    return verify


def verify(path: Path) -> int:
    """Walk the trail, and say how long it is; gives the exit code.

    Raises:
        StoreError: it is broken, or cannot be read; says where and what to do.
    """
    import tempfile  # here, as the ledger: every other command has this module too, for its words

    from licensing.store import Ledger

    with tempfile.TemporaryDirectory(prefix="stoker-audit-") as folder:
        ledger = Ledger(_copied(path, Path(folder)))
        try:
            ledger.open()
            rows = ledger.verify_audit()
        except StoreError as error:
            raise StoreError(error.message.replace(str(ledger.path), str(path))) from error
        finally:
            ledger.close()
    said = f"{rows} row{'' if rows == 1 else 's'}, whole and unchanged" if rows else "no rows yet"
    print(f"{path}: {said}")
    return 0


def _copied(path: Path, folder: Path) -> Path:
    import shutil

    wal, copy = path.with_name(f"{path.name}-wal"), folder / path.name
    try:
        for _ in range(_TRIES):
            before = path.stat()
            shutil.copyfile(path, copy)
            if wal.exists():
                shutil.copyfile(wal, folder / wal.name)
            after = path.stat()
            if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                break
        else:
            raise StoreError(f"{path} is written all the time; stop the hub, or try again")
    except shutil.SpecialFileError as error:
        raise StoreError(f"cannot read {path}: it is a pipe, and not a plain file; name the ledger's file") from error
    except OSError as error:
        hint = "run it as root, or name a copy" if isinstance(error, PermissionError) else "name the ledger's file"
        raise StoreError(f"cannot read {path}: {error.strerror}; {hint}") from error
    if not after.st_size:
        raise StoreError(f"{path} is empty, and no ledger; put it back from the backup, or name another")
    return copy
