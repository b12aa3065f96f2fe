"""What the vendor's verbs do: from parsed arguments to files. Their words are in `vendor_cli`.

Results go to stdout, remarks to stderr. A file is written last, after the desk noted it. That it can be written is seen
first: a request asked again gets the same text, but a licence that was signed and never written could not be had again.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from licensing import armour, files, keys, plans, usage_cli
from licensing.armour import Label
from licensing.document import PRODUCT, Issuer, Licence
from licensing.errors import ArmourError, KeyFileError, UsageError
from licensing.moments import when
from licensing.plans import DAY_S, NEVER, TRIAL_S, Plan
from licensing.vendor import inspect
from licensing.vendor.desk import Answer
from licensing.vendor.named import desk_folder, new_passphrase, open_desk, passphrase_asker, the_desk, the_signer
from licensing.vendor.sign import (
    Signer,
    end_of_day,
    load_signer,
    make_issuer,
    make_roots,
    read_paper,
    write_new,
)
from licensing.vendor.store import COLUMNS
from licensing.vendor_cli import DESK_VARIABLE

_MONTH_S = 31 * DAY_S


def run(args: argparse.Namespace, now: int) -> int:
    """Do what the parsed arguments say.

    Raises:
        LicenceError: refused; nothing was written.
    """
    if args.vendor_verb == "keys":
        return _root_keys(args) if args.keys_verb == "root" else _issuer_keys(args, now)
    if hasattr(args, "out"):
        _refuse_target(args.out, new=args.vendor_verb in _MAKING)
    return _VERBS[args.vendor_verb](args, now)


# --- keys ---


def _root_keys(args: argparse.Namespace) -> int:
    _make_folder(args.out)
    made = make_roots(args.name, args.out, passphrase=new_passphrase(args))
    for root in made.roots:
        print(f"{args.out / (root.name + '.key')}  {root.key}")
    print(f"{args.out / (args.name + '-roots.json')}  build with STOKER_VENDOR_ROOTS naming this file")
    return 0


def _issuer_keys(args: argparse.Namespace, now: int) -> int:
    if args.months > plans.ISSUER_MONTHS:
        raise UsageError(
            f"--months {args.months} is more than {plans.ISSUER_MONTHS}; make the next certificate when this one ends"
        )
    if (args.root_key is None) == (args.issuer_key is None) or (args.issuer_key is None) != (args.issuer_cert is None):
        raise UsageError("name who signs: --root-key FILE, or --issuer-key FILE with --issuer-cert FILE for a reseller")
    by: Path | Signer = args.root_key or load_signer(args.issuer_key, args.issuer_cert, passphrase_asker(args))
    exp = now + args.months * plans.ISSUER_MONTH_S
    terms = Issuer(
        id=f"iss-{secrets.token_hex(6)}",
        iat=now,
        nbf=now,
        exp=min(exp, by.issuer.exp) if isinstance(by, Signer) else exp,
        key="0" * 64,
        name=args.name,
        products=(PRODUCT,),
        max_seats=args.max_seats,
        max_term_s=args.max_days * DAY_S,
        features=args.features,
        delegate=int(args.delegate),
        perpetual=args.perpetual,
    )
    _make_folder(args.out)
    cert = make_issuer(by, args.out, terms, passphrase=passphrase_asker(args), new_passphrase=new_passphrase(args))
    print(f"{cert.with_suffix('.key')}\n{cert}  until {when(terms.exp)}")
    return 0


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KeyFileError(f"cannot make the folder {path}: {error.strerror}") from error


# --- licences ---


def _issue(args: argparse.Namespace, now: int) -> int:
    exp = _end(args, now)
    assert exp is not None
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
    signer = the_signer(args)
    licence = msgspec.structs.replace(licence, **_of_plan(args, exp, now), **_tried(args, signer), **_terms(args, now))
    folder = desk_folder(args)
    if folder is None:
        answer = Answer(licence=licence, text=signer.licence(licence))
        print(f"not noted at any desk; name one to renew it later: --desk DIR or ${DESK_VARIABLE}", file=sys.stderr)
    else:
        with open_desk(folder) as desk:
            answer = desk.issue(signer, licence, now)
    return _hand_out(args, answer)


def _of_plan(args: argparse.Namespace, exp: int, now: int) -> dict[str, int]:
    """What a plan needs; the end of a perpetual licence is that of its updates."""
    if args.plan == Plan.PERPETUAL:
        return {"updates_until": exp}
    if args.plan == Plan.TRIAL and args.trial_days is None:
        return {"term_s": TRIAL_S}
    if args.plan == Plan.PAY_PER_USE and args.report_by is None:
        return {"report_by": now + _MONTH_S + plans.REPORT_DUE_S}
    if args.plan == Plan.PREPAID and args.gpu_hours is None:
        raise UsageError("a prepaid licence says how many are paid: --gpu-hours N")
    return {}


def _tried(args: argparse.Namespace, signer: Signer) -> dict[str, object]:
    """An evaluation has all that its issuer may give, unless it says what it has."""
    if args.plan != Plan.EVALUATION or args.edition or args.features is not None:
        return {}
    highest = plans.EDITIONS[-1]
    features = tuple(each for each in highest.features if each in signer.issuer.features)
    return {"features": features, "edition": highest.name if features == highest.features else None}


def _terms(args: argparse.Namespace, now: int) -> dict[str, object]:
    """The fields of a licence that the command line names."""
    terms: dict[str, object] = {
        "seats": args.seats,
        "gpu_hours": args.gpu_hours,
        "reseller": args.reseller,
        "brand": args.brand,
        "vm": args.vm,
        "edition": args.edition,
        "term_s": args.trial_days and args.trial_days * DAY_S,
        "report_by": args.report_by and _due(args.report_by, now),
    }
    edition = plans.edition(args.edition) if args.edition else None
    if edition is not None or args.features is not None:
        both = (*(edition.features if edition else ()), *(args.features or ()))
        terms["features"] = tuple(dict.fromkeys(both))
    said = {name: value for name, value in terms.items() if value is not None}
    limits = {"max_nodes": args.max_nodes, "max_admins": args.max_admins}
    return said | {name: limit or None for name, limit in limits.items() if limit is not None}


def _renew(args: argparse.Namespace, now: int) -> int:
    exp = _end(args, now)
    assert exp is not None
    with the_desk(args) as desk:
        return _hand_out(args, desk.renew(the_signer(args), args.id, exp, now, **_terms(args, now)))


def _amend(args: argparse.Namespace, now: int) -> int:
    terms, exp = _terms(args, now), _end(args, now)
    if exp is not None:
        raise UsageError("the end of a licence is moved by: stoker-license vendor renew ID --date YYYY-MM-DD")
    if not terms:
        raise UsageError("say what changes: --seats, --edition, --features, --gpu-hours, --brand …")
    with the_desk(args) as desk:
        return _hand_out(args, desk.amend(the_signer(args), args.id, now, **terms))


def _activate(args: argparse.Namespace, now: int) -> int:
    with the_desk(args) as desk:
        text = _paper(args.request, Label.REQUEST)
        return _hand_out(args, desk.activate(the_signer(args), text, now, licence_id=args.licence, exp=_end(args, now)))


def _transfer(args: argparse.Namespace, now: int) -> int:
    request = _paper(args.request, Label.REQUEST) if args.request else None
    with the_desk(args) as desk:
        signer, text = the_signer(args), _paper(args.release, Label.RELEASE)
        return _hand_out(args, desk.transfer(signer, text, now, request=request, beyond=args.beyond))


def _paper(path: Path, label: Label) -> str:
    """The text of a paper of this kind; what cannot be read or is of another kind is refused by its name."""
    text = read_paper(path)
    try:
        armour.bare(label, text)
    except ArmourError as error:
        raise ArmourError(f"{files.origin(path)}: {error.message}") from error
    return text


# --- revocation ---


def _revoke(args: argparse.Namespace, now: int) -> int:
    with the_desk(args) as desk:
        what = desk.revocations.revoke(args.subject, args.reason or "", now)
        good = desk.revocations.truly_issued(args.subject) if what == "key" else 0
    by = " --root-key FILE" if what == "key" else ""
    print(f"{what} {args.subject} is revoked at this desk; now write the list: stoker-license vendor crl{by} -o FILE")
    if what == "key":
        print(
            f"note: of the licences that it signed {good} live on, which this desk issued; where the list comes, all "
            "others hold new jobs, those that a reseller issued at a desk of their own too",
            file=sys.stderr,
        )
    return 0


def _crl(args: argparse.Namespace, now: int) -> int:
    with the_desk(args) as desk:
        by = keys.load(args.root_key, passphrase_asker(args)) if args.root_key else the_signer(args)
        crl, text = desk.revocations.crl(by, now)
    _write(args.out, text)
    held = f"{counted(len(crl.licences), 'licence')}, {counted(len(crl.keys), 'key')}"
    _say(args, f"number {crl.number}: {held}; every later file carries it")
    return 0


# --- usage ---


def _verify_usage(args: argparse.Namespace, now: int) -> int:
    with the_desk(args) as desk:
        given = usage_cli.read_all([str(path) for path in args.files])
        findings = desk.verify_usage(given.reports, now)
    for each in given.reports:
        usage = each.usage
        hours, file = usage.gpu_ms / plans.MS_PER_HOUR, given.of(usage.id)
        print(f"{usage.id}  {usage.licence} number {usage.number}, to {when(usage.ends)}, {hours:.2f} GPU-hours{file}")
    return usage_cli.tell(findings, given)


def _receipt(args: argparse.Namespace, now: int) -> int:
    with the_desk(args) as desk:
        due = _due(args.next_by, now) if args.next_by else None
        receipt, text = desk.receipt(the_signer(args), usage_cli.read(str(args.file)), now, due)
    _write(args.out, text)
    _say(args, f"receipt {receipt.id} for {receipt.usage}; the next report is due {when(receipt.report_by)}")
    if receipt.first is not None and receipt.first > 1:
        missing = receipt.first - 1
        print(
            f"it is for {receipt.usage} and not for report number {missing}, which this desk has not acknowledged: "
            "ask the buyer for that file, and write its receipt too",
            file=sys.stderr,
        )
    return 0


# --- looking ---


def _list(args: argparse.Namespace, now: int) -> int:
    with the_desk(args) as desk:
        if args.csv is not None:
            _write(args.csv, desk.export_csv(args.words))
            return 0
        found = desk.search(args.words)
    if args.json:
        names = [name for name in COLUMNS if name != "text"]
        rows = [[None if getattr(each, name) == "" else getattr(each, name) for name in names] for each in found]
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows], ensure_ascii=False, indent=2))
        return 0
    if not found:
        print("no licence that this desk issued has these words", file=sys.stderr)
    for each in found:
        to = f"site {each.site[:16]}…" if each.site else "voucher"
        print(
            f"{each.id} rev {each.rev}  {each.why}, {each.customer}, {each.plan}, {each.seats} seats, {to}, "
            f"until {when(each.exp)}"
        )
    return 0


def _inspect(args: argparse.Namespace, now: int) -> int:
    for line in inspect.lines(read_paper(args.file), args.roots):
        print(line)
    return 0


_VERBS: dict[str, Callable[[argparse.Namespace, int], int]] = {
    "issue": _issue,
    "renew": _renew,
    "amend": _amend,
    "activate": _activate,
    "transfer": _transfer,
    "revoke": _revoke,
    "crl": _crl,
    "verify-usage": _verify_usage,
    "receipt": _receipt,
    "list": _list,
    "inspect": _inspect,
}
_MAKING = ("issue", "renew", "amend")
"""Each time they make another text; the others give the one that they gave before."""


# --- underneath ---


def _end(args: argparse.Namespace, now: int) -> int | None:
    if args.expires_at is None and args.date is None and args.days is None:
        return None
    if (args.expires_at or now + (args.days or 0) * DAY_S) > NEVER:
        raise UsageError("the licence would end after the year 9999; name an earlier end")
    exp: int = args.expires_at or end_of_day(args.date or when(now + args.days * DAY_S)[:10])
    if exp <= now:
        raise UsageError(f"the licence would have ended {when(exp)}; name a later end")
    return exp


def _due(date: str, now: int) -> int:
    """When a usage report is due: a day that is over would hold new jobs from the start."""
    due = end_of_day(date)
    if due <= now:
        raise UsageError(f"the usage report would have been due {when(due)}; name a later day")
    return due


def counted(number: int, word: str) -> str:
    """`1 key`, `2 keys`."""
    return f"{number} {word}{'s' if number != 1 else ''}"


def _hand_out(args: argparse.Namespace, answer: Answer) -> int:
    _write(args.out, answer.text)
    licence = answer.licence
    kind = "licence" if licence.site else "voucher"
    again = "; answered before, this is the same file" if answer.repeated else ""
    until = f"updates until {when(licence.exp)}" if plans.is_perpetual(licence) else f"until {when(licence.exp)}"
    _say(args, f"{kind} {licence.id} rev {licence.rev}, {licence.seats} GPU seats, {until}{again}")
    for remark in answer.remarks:
        print(f"note: {remark}", file=sys.stderr)
    return 0


def _refuse_target(out: str, *, new: bool) -> None:
    try:
        files.refuse_target(out)
    except FileExistsError as error:
        if new:
            raise KeyFileError(f"{out} exists and is not overwritten; name another file") from error
    except OSError as error:
        raise KeyFileError(f"cannot write {out}: {error.strerror}; name another file") from error


def _write(out: str, text: str) -> None:
    if out == "-":
        sys.stdout.write(text)
    else:
        write_new(Path(out), text)


def _say(args: argparse.Namespace, words: str) -> None:
    """Beside a file that goes to stdout nothing else does."""
    if args.out == "-":
        print(words, file=sys.stderr)
    else:
        print(f"{args.out}  {words}")
