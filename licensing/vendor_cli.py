"""`stoker-license vendor …`: the words of the vendor's verbs. What they do is in `vendor.run`, loaded when needed."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path

from licensing.plans import EDITIONS, FEATURES, ISSUER_MONTHS, Plan

PLANS = tuple(plan.value for plan in Plan)
DESK_VARIABLE = "STOKER_DESK"


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Hang the vendor's verbs under `vendor`."""
    verbs = parser.add_subparsers(dest="vendor_verb", required=True, metavar="VERB")
    _add_keys(verbs.add_parser("keys", help="make root or issuer keys; files are 0600 and never overwritten"))
    _add_issue(verbs.add_parser("issue", help="sign a voucher, or a licence bound to a site"))
    renew = verbs.add_parser("renew", help="let a licence run on: the next revision, with another end")
    amend = verbs.add_parser("amend", help="change a licence in the middle of its term: the next revision")
    for verb, needed in ((renew, True), (amend, False)):
        verb.add_argument("id", metavar="ID", help="the licence")
        _add_end(verb, required=needed)
        _add_terms(verb)
        _add_signing(verb, desk=True)
    _add_answers(verbs)
    _add_revocation(verbs)
    _add_usage(verbs)
    look = verbs.add_parser("list", help="search what this desk issued; --csv for a spreadsheet, --json for programs")
    look.add_argument("words", nargs="*", metavar="WORD", help="part of an id, customer, plan, site, reseller …")
    form = look.add_mutually_exclusive_group()
    form.add_argument("--csv", metavar="FILE", help="write a table there, or - to print it")
    form.add_argument("--json", action="store_true", help="print the same rows as JSON; times are Unix seconds")
    _add_desk(look)
    inspect = verbs.add_parser("inspect", help="verify a file of any kind and say what is in it")
    inspect.add_argument("file", type=Path, metavar="FILE", help="the file, or - to paste it on standard input")
    inspect.add_argument("--roots", type=Path, help="roots file to verify against (default: those of this build)")


def run(args: argparse.Namespace, *, now: int) -> int:
    """Do what the parsed arguments say; `now` is Unix seconds.

    Raises:
        LicenceError: refused; nothing was written.
    """
    from licensing.vendor import run

    return run.run(args, now)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="keys_verb", required=True, metavar="KIND")
    root = verbs.add_parser("root", help="three root keys (current, next, spare) and the roots file a build pins")
    issuer = verbs.add_parser("issuer", help="an issuer's key and its certificate, signed by a root or by an issuer")
    for each in (root, issuer):
        each.add_argument("--name", required=True, type=_name, help="begins the names of the files")
        each.add_argument("-o", "--out", type=Path, default=Path(), metavar="DIR", help="folder (default: here)")
        each.add_argument("--encrypt", action="store_true", help="encrypt the new keys with a passphrase")
        each.add_argument(
            "--new-passphrase-file", type=Path, metavar="FILE", help="its first line; else it is asked for"
        )
    issuer.add_argument("--root-key", type=Path, metavar="FILE", help="signs the vendor's own issuers")
    _add_signing(issuer, desk=None, out=False)
    issuer.add_argument("--max-seats", type=_positive, default=10_000, metavar="N", help="largest licence it may sign")
    issuer.add_argument("--max-days", type=_positive, default=400, metavar="N", help="longest licence it may sign")
    issuer.add_argument(
        "--months", type=_positive, default=ISSUER_MONTHS, metavar="N", help=f"its life, <= {ISSUER_MONTHS}"
    )
    issuer.add_argument("--features", type=_features, default=FEATURES, metavar="A,B", help="default: all of them")
    issuer.add_argument("--perpetual", action="store_true", help="may sign licences that run for ever")
    issuer.add_argument("--delegate", action="store_true", help="may make resellers, within its own limits")


def _add_issue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customer", required=True, type=_words, metavar="NAME")
    parser.add_argument("--plan", required=True, choices=PLANS)
    _add_end(parser, required=True)
    _add_terms(parser, seats_required=True)
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--voucher", action="store_true", help="bound to nobody: works anywhere at once, for 14 days")
    to.add_argument("--site", metavar="KEY", help="bound to the site key that `stoker-license status` shows")
    parser.add_argument("--id", type=_id, help="licence id of at most 24 characters (default: a new one)")
    parser.add_argument("--rev", type=_positive, default=1, metavar="N")
    _add_signing(parser, desk=False)


def _add_end(parser: argparse.ArgumentParser, *, required: bool) -> None:
    end = parser.add_mutually_exclusive_group(required=required)
    end.add_argument(
        "--days", type=_positive, metavar="N", help="ends with the N-th day from today, in every time zone"
    )
    end.add_argument("--date", metavar="YYYY-MM-DD", help="ends with this day, in every time zone")
    end.add_argument("--expires-at", type=_positive, metavar="UNIX", help="ends at this second")


def _add_terms(parser: argparse.ArgumentParser, *, seats_required: bool = False) -> None:
    parser.add_argument(
        "--seats", required=seats_required, type=_positive, metavar="N", help="physical GPUs for the whole site"
    )
    for unit, what in (("nodes", "machines with an agent"), ("admins", "persons who use admin verbs in 30 days")):
        parser.add_argument(
            f"--max-{unit}", type=_limit, metavar="N", help=f"{what}: told beyond it, never refused (none: any number)"
        )
    parser.add_argument(
        "--edition", type=_edition, metavar="NAME", help=f"the features it opens: {', '.join(_names())}"
    )
    parser.add_argument(
        "--features", "--feature", type=_features, metavar="A,B", help="features beside those of the edition"
    )
    parser.add_argument("--trial-days", type=_positive, metavar="N", help="trial: its length from activation (30)")
    parser.add_argument("--gpu-hours", type=_positive, metavar="N", help="prepaid: how many are paid")
    parser.add_argument("--report-by", metavar="YYYY-MM-DD", help="pay-per-use: when the first report is due")
    parser.add_argument("--reseller", type=_id, metavar="ID", help="who sells it")
    parser.add_argument("--brand", type=_words, metavar="NAME", help="the name under which they sell it")
    parser.add_argument("--vm", action="store_true", default=None, help="may be bound to a site key without hardware")


def _add_answers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    activate = verbs.add_parser(
        "activate", help="answer a request: bind the licence to the site that asks, or renew it"
    )
    activate.add_argument(
        "request", type=Path, metavar="REQ", help="what export-request wrote, or its QR's text; - pastes it"
    )
    activate.add_argument("--licence", metavar="ID", help="which one, where the request names none")
    _add_end(activate, required=False)
    _add_signing(activate, desk=True)
    transfer = verbs.add_parser("transfer", help="move a licence to another site; twice a year")
    transfer.add_argument("release", type=Path, metavar="RELEASE", help="what the old site wrote; - pastes it")
    transfer.add_argument("--request", type=Path, metavar="REQ", help="the new site's request, if it is not in RELEASE")
    transfer.add_argument(
        "--beyond", type=_words, metavar="REASON", help="why it may move a third time in a year; kept"
    )
    _add_signing(transfer, desk=True)


def _add_revocation(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    revoke = verbs.add_parser("revoke", help="take back a licence, or an issuer's key; then write the list with crl")
    revoke.add_argument("subject", metavar="ID|KEY")
    revoke.add_argument("--reason", type=_words, help="shown to the buyer")
    _add_desk(revoke)
    crl = verbs.add_parser("crl", help="write the newest revocation list; every later file carries it too")
    crl.add_argument("--root-key", type=Path, metavar="FILE", help="sign it as a root (an issuer's key needs that)")
    _add_signing(crl, desk=True)


def _add_usage(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = verbs.add_parser("verify-usage", help="check usage reports, together with those received before")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    _add_desk(check)
    receipt = verbs.add_parser("receipt", help="accept a usage report: the next one is due later")
    receipt.add_argument("file", type=Path, metavar="FILE")
    receipt.add_argument("--next-by", metavar="YYYY-MM-DD", help="when (default: 35 days after a like period)")
    _add_signing(receipt, desk=True)


def _add_desk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--desk", type=Path, metavar="DIR", help=f"the folder of this desk (default: ${DESK_VARIABLE})")


def _add_signing(parser: argparse.ArgumentParser, *, desk: bool | None, out: bool = True) -> None:
    """`desk`: whether one is needed, may be named, or is of no use."""
    if desk is not None:
        _add_desk(parser)
    where = "" if desk is None else " (default: issuer.%s of the desk, or the only one there)"
    for name, end in (("--issuer-key", "key"), ("--issuer-cert", "cert")):
        parser.add_argument(
            name, type=Path, metavar="FILE", help=f"who signs{where % end if where else ': a reseller'}"
        )
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="opens encrypted keys; else it is asked for"
    )
    if out:
        parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the file to write, or - to print it")


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,11}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _words(text: str) -> str:
    """What is signed and shown: one line of at most 200 characters, nothing that acts on a terminal."""
    strange = next((char for char in text if not char.isprintable()), None)
    if strange is not None:
        raise argparse.ArgumentTypeError(f"{text[:60]!a} has the character U+{ord(strange):04X}; use what can be seen")
    if len(text) > 200 or not text.strip():
        raise argparse.ArgumentTypeError(f"{len(text)} characters are no name or reason; use 1 to 200")
    return text


def _limit(text: str) -> int:
    """0 stands for none, which no licence needs as a number."""
    return 0 if text == "none" else _positive(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot begin a file name; use letters, digits, '.', '_' and '-'")
    return text


def _id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,23}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id; use up to 24 letters, digits, '.', '_' and '-'")
    return text


def _names() -> list[str]:
    return [each.name for each in EDITIONS]


def _edition(text: str) -> str:
    if text not in _names():
        close = difflib.get_close_matches(text, _names(), n=1)
        meant = f"did you mean {close[0]}?" if close else f"known: {', '.join(_names())}"
        raise argparse.ArgumentTypeError(f"{text!r} is no edition; {meant}")
    return text


def _features(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word for word in text.split(",") if word))
    unknown = [word for word in found if word not in FEATURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is no feature; known: {', '.join(FEATURES)}")
    return found
