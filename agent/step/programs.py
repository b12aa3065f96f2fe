"""`srun --multi-prog FILE`: which rank runs what. srun(1), MULTIPLE PROGRAM CONFIGURATION.

    0      ./server %t          the rank's number
    1-3,5  ./worker %o          its place in this line: 0, 1, 2, 3; for `*` the rank's number again
    *      sleep 60             whoever is left; the last line

Rules kept here, each as seen of srun 22.05: words part at blanks, single quotes keep them together, a double quote is a
letter like others; a backslash takes the next letter as it stands and joins lines at their end; `%` and any letter but
t and o is left out; nothing is put in for % between single quotes; every rank has one line. Cheap imports only (see
`words`).
"""

# ruff: noqa: PTH123

from __future__ import annotations

from agent.step.words import StepError, shown

_MOST_BYTES = 1024 * 1024


def read(path: str, ranks: int, more: list[str]) -> list[list[str]]:
    """The command of each rank.

    Args:
        path: the file.
        ranks: of the step.
        more: words for the end of every command.

    Raises:
        StepError: it cannot be read, is wrong, or leaves out a rank.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StepError(f"Could not open multi_prog config file {shown(path)}: {why}") from error
    if len(text) > _MOST_BYTES or "\0" in text:
        raise StepError(f"Configuration file {shown(path)} invalid, it is too large or no text")
    programs: dict[int, list[str]] = {}
    rest: str | None = None
    for number, line in _lines(text):
        spec, _, command = line.replace("\t", " ").partition(" ")
        try:
            if rest is not None and spec != "*":
                raise StepError("Task range specification with asterisk must be last")
            if not _split(command, 0, 0):
                raise StepError("")
            if spec == "*":
                rest = command if rest is None else rest
                continue
            for place, rank in enumerate(_ranks(spec, ranks)):
                if rank in programs:
                    raise StepError(f"Duplicate record for task {rank}")
                programs[rank] = _split(command, rank, place)
        except StepError as error:
            said = f"{error.message}\nsrun: error: " if error.message else ""
            raise StepError(f"{said}Line {number} of configuration file {shown(path)} invalid") from None
    for rank in range(ranks):
        if rank not in programs and rest is None:
            raise StepError(f"Configuration file {shown(path)} invalid, no record for task id {rank}")
        programs.setdefault(rank, _split(rest or "", rank, rank))
    return [programs[rank] + more for rank in range(ranks)]


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that say something, joined where a backslash ends one, with the number of each."""
    found: list[tuple[int, str]] = []
    joined, first = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        whole, at = (joined + line).strip(), first
        joined, first = "", 0
        if whole and not whole.startswith("#"):
            found.append((at, whole))
    if joined.strip() and not joined.strip().startswith("#"):
        found.append((first, joined.strip()))
    return found


def _ranks(spec: str, ranks: int) -> list[int]:
    found: list[int] = []
    for part in spec.split(","):
        low, dash, high = part.partition("-")
        if not _is_number(low) or (dash and not _is_number(high)):
            raise StepError(f"Invalid task range specification ({shown(part)})")
        first, last = int(low), int(high or low)
        if first > last:
            raise StepError(f"Invalid task range, {first}-{last}")
        if last >= ranks:
            raise StepError(f"Invalid task id, {last} >= ntasks")
        found += range(first, last + 1)
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


def _split(command: str, rank: int, place: int) -> list[str]:
    """A command's words for one rank.

    Raises:
        StepError: a quote has no end.
    """
    words: list[str] = []
    word: str | None = None
    index, quoted = 0, False
    while index < len(command):
        char = command[index]
        index += 1
        if char == "'":
            quoted, word = not quoted, word or ""
        elif quoted:
            word = (word or "") + char
        elif char == "\\":
            word = (word or "") + command[index : index + 1]
            index += 1
        elif char == "%":
            word = (word or "") + {"t": str(rank), "o": str(place)}.get(command[index : index + 1], "")
            index += 1
        elif char.isspace():
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + char
    if quoted:
        raise StepError("A single quote has no end")
    return [*words, *([] if word is None else [word])]
