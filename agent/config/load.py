"""One frozen `Config` from one TOML file, for agent, hub and the commands alike.

The file is found in this order: `--config`, `$STOKER_CONFIG`, `/etc/stoker/stoker.toml` when it exists,
`~/.config/stoker/stoker.toml`. With no file at all the defaults describe a user-mode agent in the caller's home.
A wrong key, type or value is an error that names file and line and, for a key, the one that was probably meant:
nothing is guessed and nothing is ignored.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec

from agent.api.decode import convert
from agent.api.givenfile import read_given
from agent.config.checks import check
from agent.config.resolved import Config, ConfigError
from agent.config.tables import File, GpuTable, HubNode, Mode, PartitionTable, PlainTables, QosTable

_MOST_BYTES = 1024 * 1024
SYSTEM_CONFIG = Path("/etc/stoker/stoker.toml")
_CPUS_PER_SIMULATED_GPU = 4
LIVE = ("jobs", "partitions", "qos", "accounts", "scheduler", "limits", "hooks", "reaper", "history", "health")
"""Fields of `Config` that may change while a daemon runs: everybody reads them anew each time."""


def load(path: Path | None = None, environ: dict[str, str] | None = None) -> Config:
    """Read the configuration, or the defaults when there is no file.

    Raises:
        ConfigError: the file is missing though named, unreadable, not TOML, or says something we do not understand.
    """
    env = dict(os.environ) if environ is None else environ
    found = _find(path, env)
    if found is None:
        return _resolve(File(), None, env)
    try:
        text = _text(found)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {found}: {error.strerror or error}; mend that, or name another file with "
            "--config or $STOKER_CONFIG"
        ) from error
    return _resolve(parse(text, str(found)), found, env, text)


def parse(text: str, origin: str) -> File:
    """Check TOML text against the tables.

    Raises:
        ConfigError: with `origin`, the line and what to write instead.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{origin}:{_line_told(str(error), text)}: not valid TOML: {error}; mend that line"
        ) from error
    try:
        return convert(data, File, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), text, data, origin)) from error


def merged(running: Config, changed: Config) -> tuple[Config, list[str]]:
    """What a daemon goes on with after its file was read again.

    Returns:
        `running` with the rules of the queue from `changed`, and the names of the other fields that differ: those are
        built into parts that live as long as the daemon, and need a restart.
    """
    live = {name: getattr(changed, name) for name in LIVE}
    kept = [name for name in Config.__struct_fields__ if name not in LIVE]
    differ = sorted(name for name in kept if getattr(running, name) != getattr(changed, name))
    return msgspec.structs.replace(running, **live), differ


def _decode(kind: type[Any], value: Any) -> Any:
    """What TOML has no type for: paths, with `~` filled in."""
    if kind is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError(f"Expected a path, got {value!r}")  # msgspec adds where it stands


def _text(path: Path) -> str:
    data = read_given(path, _MOST_BYTES)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"the configuration {path} is larger than {_MOST_BYTES // 1024} KiB, which none is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise ConfigError(
            f"{path}:{line}: the byte 0x{byte:02x} is not UTF-8, so the file is no TOML; save it as UTF-8, or name "
            "another file with --config or $STOKER_CONFIG"
        ) from error


def _find(path: Path | None, env: dict[str, str]) -> Path | None:
    named = path or (Path(env["STOKER_CONFIG"]) if env.get("STOKER_CONFIG") else None)
    if named is not None:
        return named
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/")) / ".config") / "stoker" / "stoker.toml"
    return next((each for each in (SYSTEM_CONFIG, home) if each.exists()), None)


def _resolve(file: File, path: Path | None, env: dict[str, str], text: str = "") -> Config:
    node = file.node
    system = path == SYSTEM_CONFIG
    mode = node.mode or (Mode.SYSTEM if system and os.geteuid() == 0 else Mode.USER)
    name = node.name or socket.gethostname().split(".")[0]
    origin = str(path) if path else "the default configuration"
    state_dir, run_dir = _default_dirs(mode if node.mode or not system else Mode.SYSTEM, env)
    config = Config(
        path=path,
        name=name,
        mode=mode,
        state_dir=(node.state_dir or state_dir).absolute(),
        run_dir=(node.run_dir or run_dir).absolute(),
        cpus=node.cpus if node.cpus is not None else _cpus(file.gpu),
        allow_root_jobs=node.allow_root_jobs,
        act_for=node.act_for,
        gpu=file.gpu,
        jobs=file.jobs,
        cluster=file.hub.cluster,
        hub_nodes=file.hub.nodes,
        hub_usage_days=file.hub.usage_days,
        partitions=_with_default(file.partitions) or (PartitionTable(name="main", default=True),),
        qos=file.qos or (QosTable(name="normal"),),
        **{name: getattr(file, name) for name in PlainTables.__struct_fields__},
    )
    check(config, lambda key: origin + _place(text, key))
    if not config.hub_nodes:
        return msgspec.structs.replace(config, hub_nodes=(HubNode(name=name, socket=config.agent_socket),))
    return config


def _cpus(gpu: GpuTable) -> int:
    own = len(os.sched_getaffinity(0))
    return max(own, _CPUS_PER_SIMULATED_GPU * gpu.simulated_count) if gpu.source == "simulated" else own


def _with_default(partitions: tuple[PartitionTable, ...]) -> tuple[PartitionTable, ...]:
    """The first partition is the default one when none says so."""
    if not partitions or any(each.default for each in partitions):
        return partitions
    return (msgspec.structs.replace(partitions[0], default=True), *partitions[1:])


def _default_dirs(mode: Mode, env: dict[str, str]) -> tuple[Path, Path]:
    if mode is Mode.SYSTEM:
        return Path("/var/lib/stoker"), Path("/run/stoker")
    home = Path(env.get("HOME", "/"))
    state = Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "stoker"
    runtime = env.get("XDG_RUNTIME_DIR")
    return state, Path(runtime) / "stoker" if runtime else state / "run"


# --- error texts ------------------------------------------------------------------------------------------------------


def _line_told(message: str, text: str) -> int:
    """The line that tomllib's sentence names: `(at line 3, column 5)` or `(at end of document)`."""
    found = re.search(r"\(at line (\d+), column \d+\)$", message)
    return int(found.group(1)) if found else max(1, len(text.splitlines()))


def _place(text: str, key: str) -> str:
    """`:7`, where a key such as `jobs.grace_s` is set; nothing if it is not in the file, or in a table of several."""
    table, _, last = key.rpartition(".")
    line = _line_of(text, table, last)
    there = text.splitlines()[line - 1 : line]
    is_set = there and re.match(rf"\s*[\"']?{re.escape(last)}[\"']?\s*[.=]", there[0])
    return f":{line}" if is_set and f"[[{table}]]" not in text else ""


def _explain(message: str, text: str, data: dict[str, Any], origin: str) -> str:
    """Turn msgspec's sentence (``… - at `$.node.name` ``) into file, line and advice."""
    where = re.search(r" - at `\$\.?([^`]*)`$", message)
    path = _named(where.group(1) if where else "", message, data)
    what = message[: where.start()] if where else message
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown:
        key = unknown.group(1)
        table = re.sub(r"\[.*?\]", "", path)
        line = _line_of(text, table, key)
        return f"{origin}:{line}: unknown key {_dotted(table, key)!r}{_did_you_mean(table, key)}"
    table, _, key = re.sub(r"\[.*?\]", "", path).rpartition(".")
    if "enum value" in what:  # the only enum of the file
        what += f"; use {' or '.join(Mode)}"
    return f"{origin}:{_line_of(text, table, key)}: {_dotted(table, key)}: {what[:1].lower()}{what[1:]}"


def _named(path: str, message: str, data: Any) -> str:
    """`health.for_s.ecc` for `health.for_s[...]`: where the keys are the site's own, msgspec does not name the key."""
    got = re.search(r"got `([^`]*)`", message)
    for part in path.removesuffix("[...]").split("."):
        data = data.get(part) if isinstance(data, dict) else None
    if not path.endswith("[...]") or got is None or not isinstance(data, dict):
        return path
    kinds = {str: "str", int: "int", float: "float", bool: "bool", list: "array", dict: "object"}
    key = next((key for key, value in data.items() if kinds.get(type(value), "datetime") == got[1]), None)
    return path if key is None else f"{path.removesuffix('[...]')}.{key}"


def _dotted(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _did_you_mean(table: str, key: str) -> str:
    import difflib  # only for a mistake

    known = _known_keys(table)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}"


def _known_keys(table: str) -> list[str]:
    tables: dict[str, Any] = {"": File, "hub.nodes": HubNode}
    for field in msgspec.structs.fields(File):
        inner = get_args(field.type)
        tables[field.encode_name] = inner[0] if inner else field.type
    return sorted(field.encode_name for field in msgspec.structs.fields(tables.get(table, File)))


def _line_of(text: str, table: str, key: str) -> int:
    """Line (1-based) on which `key` of `table` is set; the table's own line when the key is not found, else 1."""
    current, header_line = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([A-Za-z0-9_.\"-]+)\s*\]\]?", line)
        if header:
            current = header.group(1)
            if current == _dotted(table, key) or current == table:
                header_line = number
        elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return number
    return header_line
