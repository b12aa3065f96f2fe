"""Which desk, which signer and which passphrase the arguments of a vendor's verb name."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from licensing import keys
from licensing.errors import KeyFileError, UsageError
from licensing.vendor.desk import Desk
from licensing.vendor.sign import Signer, load_signer, read_text
from licensing.vendor_cli import DESK_VARIABLE


def desk_folder(args: argparse.Namespace) -> Path | None:
    """Where this desk keeps what it issued, if that was said."""
    named = args.desk or os.environ.get(DESK_VARIABLE)
    return Path(named) if named else None


@contextmanager
def the_desk(args: argparse.Namespace) -> Iterator[Desk]:
    """The desk that `--desk` or the variable names, open.

    Raises:
        UsageError: none is named.
        KeyFileError: there is no such folder.
    """
    folder = desk_folder(args)
    if folder is None:
        raise UsageError(f"name the folder in which this desk keeps what it issued: --desk DIR, or ${DESK_VARIABLE}")
    if not folder.is_dir():
        raise KeyFileError(f"there is no desk {folder}: no such folder; name another one: --desk DIR")
    with open_desk(folder) as desk:
        yield desk


@contextmanager
def open_desk(folder: Path) -> Iterator[Desk]:
    """A desk, closed at the end."""
    desk = Desk(folder)
    try:
        yield desk
    finally:
        desk.close()


def the_signer(args: argparse.Namespace) -> Signer:
    """Who signs: the pair that was named, else the desk's own.

    Raises:
        UsageError: nobody is named.
        KeyFileError: no such file, or several that could be meant.
    """
    folder = desk_folder(args)
    key = args.issuer_key or (folder / "issuer.key" if folder else None)
    cert = args.issuer_cert or (folder / "issuer.cert" if folder else None)
    if key is None or cert is None:
        raise UsageError(
            "name who signs: --issuer-key FILE and --issuer-cert FILE; see: stoker-license vendor keys issuer"
        )
    if args.issuer_key is None and args.issuer_cert is None and not key.exists() and folder is not None:
        key, cert = _only_pair(folder) or (key, cert)
    return load_signer(key, cert, passphrase_asker(args))


def _only_pair(folder: Path) -> tuple[Path, Path] | None:
    """The issuer's key that was made here under another name, and its certificate.

    Raises:
        KeyFileError: there are several.
    """
    others = [each for each in sorted(folder.glob("*.key")) if each.with_suffix(".cert").exists()]
    if len(others) > 1:
        raise KeyFileError(
            f"the desk {folder} has the keys of {', '.join(each.stem for each in others)}, and none is issuer.key; say "
            f"which: --issuer-key {others[0]} --issuer-cert {others[0].with_suffix('.cert')}"
        )
    return (others[0], others[0].with_suffix(".cert")) if others else None


def passphrase_asker(args: argparse.Namespace) -> keys.Passphrase:
    """What gives the passphrase of a key, once one is encrypted: a file's first line, or the terminal."""

    def ask(path: Path) -> str:
        if args.passphrase_file is not None:
            return _first_line(args.passphrase_file)
        if not sys.stdin.isatty():
            raise KeyFileError(f"{path} is encrypted; give its passphrase with --passphrase-file FILE")
        return getpass.getpass(f"Passphrase of {path}: ")

    return ask


def new_passphrase(args: argparse.Namespace) -> str | None:
    """The passphrase of a key that is to be made; `None` for one that is not encrypted.

    Raises:
        UsageError: the two that were typed differ, or nobody can type.
    """
    if args.new_passphrase_file is not None:
        return _first_line(args.new_passphrase_file)
    if not args.encrypt:
        return None
    if not sys.stdin.isatty():
        raise UsageError("--encrypt asks for a passphrase at the terminal; without one: --new-passphrase-file FILE")
    first = getpass.getpass("New passphrase: ")
    if not first or first != getpass.getpass("Again: "):
        raise UsageError("the two passphrases are not the same, or empty; nothing was made")
    return first


def _first_line(path: Path) -> str:
    line = read_text(path).split("\n", 1)[0].rstrip("\r")
    if not line:
        raise UsageError(f"the first line of {path} is empty; it is to hold the passphrase")
    return line
