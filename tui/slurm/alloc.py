"""Options of `srun` and `salloc`: which are the job's, as for sbatch, and which are the command's own.

Rules kept here: what is no option of the command's own is read by the scanner that sbatch has, so it is honoured or
refused as there; reading stops at the command, whose words are its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from agent.api.errors import ApiError
from agent.api.options import OptionError, scan
from agent.api.types import SubmitReply, SubmitRequest
from tui import handin, submit
from tui.slurm import ask
from tui.slurm.argv import ToolError, refused


class Asked(msgspec.Struct):
    """A command line taken apart."""

    job: list[str] = msgspec.field(default_factory=list)
    """sbatch's words."""
    own: list[str] = msgspec.field(default_factory=list)
    """The command's own words, as typed."""
    names: set[str] = msgspec.field(default_factory=set)
    """Long names of `own`."""
    command: list[str] = msgspec.field(default_factory=list)


def read(argv: Sequence[str], own: Mapping[str, tuple[str, str]]) -> Asked:
    """Take a command line apart.

    Args:
        argv: the words.
        own: long name → its letter and whether it takes a value: `=`, `?` (attached only) or empty.

    Raises:
        ToolError: a word is nobody's option.
    """
    asked, index = Asked(), 0
    argv = list(argv)
    while index < len(argv):
        word = argv[index]
        if word == "--" or not word.startswith("-") or word == "-":
            index += word == "--"
            break
        if _is_bundle(word, own):
            argv[index : index + 1] = [word[:2], f"-{word[2:]}"]
            continue
        index += _take_own(argv, index, own, asked) or _take_job(argv, index, asked)
    asked.command = list(argv[index:])
    return asked


def request(
    queue: ask.Queue, asked: Asked, command: Sequence[str], *, name: str, environ: Mapping[str, str]
) -> SubmitRequest:
    """The job that runs `command`; its output is shown, so no file is made of it."""
    names = [each.name for each in queue.nodes()]
    here = os.uname().nodename.split(".")[0]
    made = submit.request(
        [f"--job-name={name}", "--output=/dev/null", *asked.job],
        environ={key: value for key, value in environ.items() if not key.startswith("SBATCH_")},
        work_dir=submit.here(),
        umask=submit.current_umask(),
        node=here if len(names) > 1 and here in names else None,
        command=command,
    )
    return msgspec.structs.replace(made, script_name=name)  # what is refused is the user's command, and not our wrapper


def hand_in(
    queue: ask.Queue, asked: Asked, command: Sequence[str], *, name: str, environ: Mapping[str, str]
) -> SubmitReply:
    """Hand that job in.

    Raises:
        ToolError: it is refused.
    """
    made = request(queue, asked, command, name=name, environ=environ)
    try:
        return handin.hand_in(queue.client, made, os.urandom(16).hex())
    except ApiError as error:
        raise ToolError(error.message) from error


def _is_bundle(word: str, own: Mapping[str, tuple[str, str]]) -> bool:
    """Whether a word begins with a switch of the command's own that others hang on to: `-ln2`."""
    return not word.startswith("--") and len(word) > 2 and any((word[1], "") == each for each in own.values())


def _take_own(argv: Sequence[str], index: int, own: Mapping[str, tuple[str, str]], asked: Asked) -> int:
    """How many words an option of the command's own takes; 0 when this is none."""
    word = argv[index]
    name, equals, _ = word[2:].partition("=") if word.startswith("--") else _by_letter(word, own)
    if name not in own:
        return 0
    takes = own[name][1]
    count = 2 if takes == "=" and not equals else 1
    if index + count > len(argv):
        said = f"TOOL: option '--{name}' requires an argument"
        raise ToolError(f'{said}\nTry "TOOL --help" for more information', code=255, bare=True)
    asked.own += argv[index : index + count]
    asked.names.add(name)
    return count


def _by_letter(word: str, own: Mapping[str, tuple[str, str]]) -> tuple[str, str, str]:
    """A short option's long name, and what is attached as its value."""
    name = next((long for long, (letter, _) in own.items() if letter == word[1]), "")
    return name, word[2:3], word[2:]


def _take_job(argv: Sequence[str], index: int, asked: Asked) -> int:
    """How many words an option of the job's takes."""
    try:
        used = scan([argv[index], "value"])[1]
    except OptionError as error:
        raise refused(error) from None
    if index + used > len(argv):
        raise refused(OptionError(f"{argv[index]!r} needs a value", argv[index]))
    asked.job += argv[index : index + used]
    return used
