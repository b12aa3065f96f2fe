"""`sshare`: the fair share of accounts and users. sshare(1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.api import program
from agent.api.queue import Share
from tui import safe
from tui.slurm import ask
from tui.slurm.argv import Options, ToolError, Words

HELP = "Usage: sshare [-a] [-A ACCOUNTS] [-u USERS] [-h] [-P | -p] [-l] [-o COLUMNS]\n"
OPTIONS = Options(
    "accounts:A= all:a cluster:M= clusters= format:o= help json! long:l noheader:h parsable:p parsable2:P "
    "partition:m! usage users:u= user= Users:U verbose:v version:V"
)
_COLUMNS = (
    ("Account", -20), ("User", 10), ("RawShares", 10), ("NormShares", 11), ("RawUsage", 11), ("EffectvUsage", 13),
    ("FairShare", 10),
)  # fmt: skip


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    words = OPTIONS.read(argv)
    if words.rest:
        raise ToolError(f"Unrecognized option: {program.printable(words.rest[0])}")
    users = ask.users(words.listed("users", "user"))
    if not users and "all" not in words and ask.me() != "root":
        users = [ask.me()]
    accounts = words.listed("accounts")
    queue = ask.Queue.open(environ)
    queue.check_clusters(words)
    columns = _chosen(words)
    found = safe.clean(queue.client.shares())
    kept = [each for each in found if (not users or each.user in users) and (not accounts or each.account in accounts)]
    places = [[title for title, _ in _COLUMNS].index(title) for title, _ in columns]
    rows = [_cells(each) for each in sorted(kept, key=lambda each: (each.account, each.user))]
    _print(columns, [[row[place] for place in places] for row in rows],
           parsable="parsable" in words or "parsable2" in words, end="|" * ("parsable" in words),
           header="noheader" not in words)  # fmt: skip
    return 0


def _chosen(words: Words) -> list[tuple[str, int]]:
    """`--format=Account%30,User`: a name, or a beginning of it, and its width.

    Raises:
        ToolError: a column is not known.
    """
    if "format" not in words:
        return list(_COLUMNS)
    chosen = []
    for text in words.listed("format"):
        name, percent, width = text.partition("%")
        found = next((each for each in _COLUMNS if name and each[0].lower().startswith(name.lower())), None)
        shape = width.removeprefix("-")
        if found is None or (percent and not (shape.isascii() and shape.isdecimal() and len(shape) < 5)):
            raise ToolError(f'Invalid field requested: "{program.printable(text)}"')
        chosen.append((found[0], int(width) if percent else found[1]))
    return chosen


def _cells(each: Share) -> list[str]:
    return [
        f" {each.account}", each.user, str(each.shares), f"{each.shares_norm:.6f}", str(round(each.usage_gpu_s)),
        f"{each.usage_norm:.6f}", f"{each.fairshare:.6f}",
    ]  # fmt: skip


def _print(
    columns: Sequence[tuple[str, int]], rows: list[list[str]], *, parsable: bool, end: str, header: bool
) -> None:
    titles = [title for title, _ in columns]
    if parsable:
        for row in [titles, *rows] if header else rows:
            print("|".join(row) + end)
        return
    if header:
        print("".join(f"{_fit(title, width)} " for title, width in columns))
        print("".join(f"{'-' * abs(width)} " for _, width in columns))
    for row in rows:
        print("".join(f"{_fit(text, width)} " for text, (_, width) in zip(row, columns, strict=True)))


def _fit(text: str, width: int) -> str:
    cut = text if len(text) <= abs(width) else text[: abs(width) - 1] + "+"
    return cut.ljust(-width) if width < 0 else cut.rjust(width)
