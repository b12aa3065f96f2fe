"""`stoker-license vendor …`: the command line of `vendor`."""

from __future__ import annotations

import argparse
import re
import secrets
from pathlib import Path

from licensing import keys, roots, vendor, verify
from licensing.document import PRODUCT, Issuer, Licence
from licensing.errors import ArmourError, FormatError, KeyFileError, UsageError
from licensing.stage import DAY_S, EVALUATION, when

PLANS = (EVALUATION, "monthly", "yearly")
MONTHS_MAX = 25
"""An issuer's certificate lives two years and a month at most: a stolen key is worth that much less."""


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Hang the vendor's verbs under `vendor`."""
    verbs = parser.add_subparsers(dest="vendor_verb", required=True, metavar="VERB")
    _add_keys(verbs.add_parser("keys", help="make root or issuer keys; files are 0600 and never overwritten"))
    _add_issue(verbs.add_parser("issue", help="sign a voucher, or a licence bound to a site"))
    inspect = verbs.add_parser("inspect", help="verify a certificate, voucher or licence file and say what is in it")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument("--roots", type=Path, help="roots file to verify against (default: those of this build)")


def run(args: argparse.Namespace, *, now: int) -> int:
    """Do what the parsed arguments say; `now` is Unix seconds.

    Raises:
        LicenceError: refused; nothing was written.
    """
    if args.vendor_verb == "issue":
        return _issue(args, now)
    if args.vendor_verb == "inspect":
        return _inspect(args)
    return _root_keys(args) if args.keys_verb == "root" else _issuer_keys(args, now)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="keys_verb", required=True, metavar="KIND")
    root = verbs.add_parser("root", help="three root keys (current, next, spare) and the roots file a build pins")
    issuer = verbs.add_parser("issuer", help="an issuer's key and its certificate, signed by a root key")
    for each in (root, issuer):
        each.add_argument("--name", required=True, type=_name, help="begins the names of the files")
        each.add_argument("-o", "--out", type=Path, default=Path(), metavar="DIR", help="folder (default: here)")
    issuer.add_argument("--root-key", required=True, type=Path, metavar="FILE")
    issuer.add_argument("--max-seats", type=_positive, default=10_000, metavar="N", help="largest licence it may sign")
    issuer.add_argument("--max-days", type=_positive, default=400, metavar="N", help="longest licence it may sign")
    issuer.add_argument("--months", type=_positive, default=MONTHS_MAX, metavar="N", help=f"its life, <= {MONTHS_MAX}")


def _add_issue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customer", required=True)
    parser.add_argument("--plan", required=True, choices=PLANS)
    parser.add_argument("--seats", required=True, type=_positive, metavar="N", help="physical GPUs for the whole site")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument(
        "--days", type=_positive, metavar="N", help="ends with the N-th day from today, in every time zone"
    )
    end.add_argument("--date", metavar="YYYY-MM-DD", help="ends with this day, in every time zone")
    end.add_argument("--expires-at", type=_positive, metavar="UNIX", help="ends at this second")
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--voucher", action="store_true", help="bound to nobody: works anywhere at once, for 14 days")
    to.add_argument("--site", metavar="KEY", help="bound to the site key that `stoker-license status` shows")
    parser.add_argument("--id", help="licence id (default: a new one); keep it when renewing, with a higher --rev")
    parser.add_argument("--rev", type=_positive, default=1, metavar="N")
    parser.add_argument("--issuer-key", required=True, type=Path, metavar="FILE")
    parser.add_argument("--issuer-cert", required=True, type=Path, metavar="FILE")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the file to write")


def _root_keys(args: argparse.Namespace) -> int:
    made = vendor.make_roots(args.name, args.out)
    for root in made.roots:
        print(f"{args.out / (root.name + '.key')}  {root.key}")
    print(f"{args.out / (args.name + '-roots.json')}  build with STOKER_VENDOR_ROOTS naming this file")
    return 0


def _issuer_keys(args: argparse.Namespace, now: int) -> int:
    if args.months > MONTHS_MAX:
        raise UsageError(
            f"--months {args.months} is more than {MONTHS_MAX}; make the next certificate when this one ends"
        )
    terms = Issuer(
        id=f"iss-{secrets.token_hex(6)}",
        iat=now,
        nbf=now,
        exp=now + args.months * 366 * DAY_S // 12,
        key="0" * 64,
        name=args.name,
        products=(PRODUCT,),
        max_seats=args.max_seats,
        max_term_s=args.max_days * DAY_S,
    )
    cert = vendor.make_issuer(args.root_key, args.out, terms)
    print(f"{cert.with_suffix('.key')}\n{cert}  until {when(terms.exp)}")
    return 0


def _issue(args: argparse.Namespace, now: int) -> int:
    exp = args.expires_at or vendor.end_of_day(args.date or when(now + args.days * DAY_S)[:10])
    if exp <= now:
        raise UsageError(f"the licence would have ended {when(exp)}; name a later end")
    if args.site is not None:
        keys.public_key(args.site)
    licence = Licence(
        id=args.id or f"lic-{secrets.token_hex(6)}",
        rev=args.rev,
        iat=now,
        nbf=now,
        exp=exp,
        customer=args.customer,
        plan=args.plan,
        seats=args.seats,
        site=args.site,
    )
    text = vendor.issue(keys.load(args.issuer_key), _read(args.issuer_cert), licence)
    vendor.write_new(args.out, text)
    kind = "voucher" if args.voucher else "licence"
    print(f"{args.out}  {kind} {licence.id} rev {licence.rev}, {licence.seats} GPU seats, until {when(exp)}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    trusted = roots.parse(_read(args.roots).encode(), str(args.roots)) if args.roots else roots.pinned()
    text = _read(args.file)
    try:
        licence = verify.licence_file(text, trusted)
    except ArmourError:
        _print_issuer(verify.issuer_file(text, trusted).issuer)
        return 0
    _print_issuer(licence.issuer)
    _print_licence(licence.licence)
    return 0


def _print_issuer(issuer: Issuer) -> None:
    print(f"issuer    {issuer.name} ({issuer.id}), key {issuer.key}")
    print(f"          {when(issuer.nbf)} to {when(issuer.exp)}, at most {issuer.max_seats} seats")


def _print_licence(licence: Licence) -> None:
    print(
        f"licence   {licence.id} rev {licence.rev}, {licence.plan}, {licence.seats} GPU seats, for {licence.customer}"
    )
    print(f"          {when(licence.nbf)} to {when(licence.exp)}")
    print(f"site      {licence.site or 'none: a voucher, good for 14 days anywhere'}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text; a licence file begins with -----BEGIN STOKER LICENCE-----") from error


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,11}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot begin a file name; use letters, digits, '.', '_' and '-'")
    return text
