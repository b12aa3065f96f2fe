"""Reading a job script: is it one, and what do its `#SBATCH` lines say.

Rules kept here, as sbatch keeps them: the first line is `#!` and an interpreter; a directive begins in the first
column, in capitals; directives end at the first line that is neither empty nor a comment; within one, words are parted
by blanks, grouped by quotes, a backslash takes the next character as it is (but for a blank outside quotes, which ends
the word all the same), and an unquoted `#` ends the line.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.types import MAX_SCRIPT_BYTES
from agent.jobs.errors import SpecError

_MARK = "#SBATCH"
_FOREIGN = ("#PBS", "#BSUB")
"""What sbatch reads besides, unless told `--ignore-pbs`."""
_BLANKS = " \t\v\f\r\n"
"""isspace(3) of the C locale."""


def check(script: str, name: str) -> None:
    """Make sure that the text can be run as a script.

    Raises:
        SpecError: it is empty, too long, binary, has DOS line breaks, or does not say what runs it.
    """
    problem = _problem(script)
    if problem:
        raise SpecError(f"{name} {problem}", name)


def directives(script: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each `#SBATCH` line with its number (1-based), up to the first command.

    Raises:
        SpecError: a line cannot be taken apart; names it.
    """
    for number, line in _head(script):
        if line.startswith(_MARK):
            try:
                yield number, split_words(line[len(_MARK) :])
            except ValueError as error:
                raise SpecError(f"{name}:{number}: {error}", f"{name}:{number}") from None


def foreign_directives(script: str) -> Iterator[tuple[int, str]]:
    """The lines up to the first command that are directives of another system, with what they begin with."""
    for number, line in _head(script):
        if line.startswith(_FOREIGN):
            mark = next(each for each in _FOREIGN if line.startswith(each))
            if line[len(mark) :].strip():
                yield number, mark


def _head(script: str) -> Iterator[tuple[int, str]]:
    """The lines before the first command."""
    for number, line in enumerate(script.split("\n"), start=1):
        if not line.startswith("#") and line.strip() and not line.lstrip().startswith("#"):
            return
        yield number, line


def split_words(text: str) -> list[str]:
    """Part a directive into words.

    Raises:
        ValueError: a quote is not closed.
    """
    words: list[str] = []
    word: list[str] | None = None
    quote, escaped = "", False
    for char in text:
        if not quote and char in _BLANKS:
            words += [] if word is None else ["".join(word)]
            word, escaped = None, False
            continue
        if char == "#" and not quote and not escaped:
            break
        if char == "\\" and not escaped:
            escaped = True
            continue
        word = [] if word is None else word
        if escaped or (char not in "\"'" if not quote else char != quote):
            word.append(char)
            escaped = False
        else:
            quote = "" if quote else char
    if quote:
        raise ValueError(f"the quote {quote} is not closed in this #SBATCH line")
    return words + ([] if word is None else ["".join(word)])


def _problem(script: str) -> str | None:
    """Why the text cannot be run, as the end of a sentence; `None` when it can."""
    if not script.strip():
        return "is empty; a job script begins with a line such as #!/bin/bash"
    try:
        size = len(script.encode())
    except UnicodeEncodeError:
        return "is not UTF-8 text; a job script must be"
    if size > MAX_SCRIPT_BYTES:
        limit = f"the most is {MAX_SCRIPT_BYTES // 1024} KiB"
        return f"is {-(-size // 1024)} KiB long; {limit}: keep data in files and read them from the job"
    if "\0" in script:
        return "holds a NUL byte: it is a binary file, and a job script is text; write a script that runs it"
    if script.startswith("\ufeff"):
        return "begins with a byte order mark, which hides its #! line; save it as UTF-8 without one"
    if not script.startswith("#!"):
        return "does not look like a job script: its first line must begin with #! and an interpreter, e.g. #!/bin/bash"
    if not script.partition("\n")[0].removeprefix("#!").strip():
        return "names no interpreter in its first line; write for example #!/bin/bash"
    if "\r\n" in script:
        return r"has DOS line breaks (\r\n) where Unix ones (\n) are needed; convert it, e.g. with dos2unix"
    return None
