"""One frozen `Config` from one TOML file, for agent, hub and the commands alike.

The file is found in this order: `--config`, `$STOKER_CONFIG`, `/etc/stoker/stoker.toml` when it exists,
`~/.config/stoker/stoker.toml`. With no file at all the defaults describe a user-mode agent in the caller's home.
A wrong key, type or value is an error that names file and line and, for a key, the one that was probably meant:
nothing is guessed and nothing is ignored.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from agent.api.errors import StokerError
from agent.config.tables import (
    AccountTable,
    File,
    GpuTable,
    HistoryTable,
    HooksTable,
    HubNode,
    HubTable,
    JobsTable,
    LimitsTable,
    Mode,
    NodeTable,
    PartitionTable,
    QosTable,
    ReaperTable,
    SchedulerTable,
)

SYSTEM_CONFIG = Path("/etc/stoker/stoker.toml")
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
"""Names of nodes and clusters: host-name-like, safe in a path, a log line and a terminal."""

_SOCKET_PATH_MAX = 107
"""unix(7): `sun_path` holds 108 bytes with its NUL."""


class ConfigError(StokerError):
    """The configuration cannot be used; the message names file, line and key."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a daemon needs to know, resolved: no `None` left to interpret, every path absolute."""

    path: Path | None
    """The file it came from; `None` when there is none."""
    name: str
    mode: Mode
    state_dir: Path
    run_dir: Path
    allow_root_jobs: bool
    act_for: tuple[str, ...]
    gpu: GpuTable
    jobs: JobsTable
    cluster: str
    hub_nodes: tuple[HubNode, ...]
    partitions: tuple[PartitionTable, ...] = (PartitionTable(name="main", default=True),)
    """At least one, and exactly one is the default."""
    qos: tuple[QosTable, ...] = (QosTable(name="normal"),)
    """At least one; the first is the default."""
    accounts: tuple[AccountTable, ...] = ()
    scheduler: SchedulerTable = SchedulerTable()
    limits: LimitsTable = LimitsTable()
    hooks: HooksTable = HooksTable()
    reaper: ReaperTable = ReaperTable()
    history: HistoryTable = HistoryTable()

    @property
    def agent_socket(self) -> Path:
        """Where the agent listens."""
        return self.run_dir / "agent.sock"

    @property
    def hub_socket(self) -> Path:
        """Where the hub listens."""
        return self.run_dir / "hub.sock"

    @property
    def hub_state_dir(self) -> Path:
        """The hub's own state: placements and the licence."""
        return self.state_dir / "hub"


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
        text = found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {found}: {error}") from error
    return _resolve(parse(text, str(found)), found, env)


def parse(text: str, origin: str) -> File:
    """Check TOML text against the tables.

    Raises:
        ConfigError: with `origin`, the line and what to write instead.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(data, File, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), text, origin)) from error


def _decode(kind: type[Any], value: Any) -> Any:
    """What TOML has no type for: paths, with `~` filled in."""
    if kind is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError(f"Expected a path, got {value!r}")  # msgspec adds where it stands


def _find(path: Path | None, env: dict[str, str]) -> Path | None:
    named = path or (Path(env["STOKER_CONFIG"]) if env.get("STOKER_CONFIG") else None)
    if named is not None:
        return named
    home = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/")) / ".config") / "stoker" / "stoker.toml"
    return next((each for each in (SYSTEM_CONFIG, home) if each.exists()), None)


def _resolve(file: File, path: Path | None, env: dict[str, str]) -> Config:
    node = file.node
    system = path == SYSTEM_CONFIG
    mode = node.mode or (Mode.SYSTEM if system and os.geteuid() == 0 else Mode.USER)
    name = node.name or socket.gethostname().split(".")[0]
    origin = str(path) if path else "the default configuration"
    _check_name(name, "node.name", origin)
    _check_name(file.hub.cluster, "hub.cluster", origin)
    state_dir, run_dir = _default_dirs(mode if node.mode or not system else Mode.SYSTEM, env)
    config = Config(
        path=path,
        name=name,
        mode=mode,
        state_dir=(node.state_dir or state_dir).absolute(),
        run_dir=(node.run_dir or run_dir).absolute(),
        allow_root_jobs=node.allow_root_jobs,
        act_for=node.act_for,
        gpu=file.gpu,
        jobs=file.jobs,
        cluster=file.hub.cluster,
        hub_nodes=file.hub.nodes,
        partitions=_with_default(file.partitions) or (PartitionTable(name="main", default=True),),
        qos=file.qos or (QosTable(name="normal"),),
        accounts=file.accounts,
        scheduler=file.scheduler,
        limits=file.limits,
        hooks=file.hooks,
        reaper=file.reaper,
        history=file.history,
    )
    _check_values(config, origin)
    if not config.hub_nodes:
        return msgspec.structs.replace(config, hub_nodes=(HubNode(name=name, socket=config.agent_socket),))
    return config


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


def _check_name(name: str, key: str, origin: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"{origin}: {key} = {name!r} is not a name; use letters, digits, '.', '_' and '-', at most 64"
        )


def _check_values(config: Config, origin: str) -> None:
    for path in (config.agent_socket, config.hub_socket):
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            raise ConfigError(
                f"{origin}: the socket path {path} is longer than the {_SOCKET_PATH_MAX} bytes that Linux allows; "
                "set node.run_dir to a shorter folder"
            )
    if config.gpu.source not in ("auto", "nvml", "simulated", "none"):
        raise ConfigError(f"{origin}: gpu.source = {config.gpu.source!r}; use auto, nvml, simulated or none")
    if config.jobs.launcher not in ("auto", "systemd", "fork"):
        raise ConfigError(f"{origin}: jobs.launcher = {config.jobs.launcher!r}; use auto, systemd or fork")
    if not 0 <= config.gpu.simulated_count <= 64:
        raise ConfigError(f"{origin}: gpu.simulated_count = {config.gpu.simulated_count}; use 0 to 64")
    if not 0.05 <= config.gpu.period_s <= 60:
        raise ConfigError(f"{origin}: gpu.period_s = {config.gpu.period_s}; use 0.05 to 60 seconds")
    for key in ("grace_s", "log_head_bytes", "log_tail_bytes", "output_max_bytes", "max_pending"):
        if getattr(config.jobs, key) < 0:
            raise ConfigError(f"{origin}: jobs.{key} = {getattr(config.jobs, key)} is negative")
    if config.jobs.default_time_s is not None and config.jobs.default_time_s < 1:
        raise ConfigError(f"{origin}: jobs.default_time_s = {config.jobs.default_time_s}; use seconds, or leave it out")
    _check_hub_nodes(config, origin)


def _check_hub_nodes(config: Config, origin: str) -> None:
    seen: set[str] = set()
    for node in config.hub_nodes:
        _check_name(node.name, "hub.nodes.name", origin)
        if node.name in seen:
            raise ConfigError(f"{origin}: hub.nodes names {node.name} twice; every node needs its own name")
        seen.add(node.name)
        if (node.socket is None) == (node.ssh is None):
            raise ConfigError(f"{origin}: hub.nodes {node.name} needs either socket = … or ssh = …, and not both")
        if node.ssh is not None and not node.host_key:
            raise ConfigError(
                f"{origin}: hub.nodes {node.name} has no host_key; the hub trusts no host on first use. Print it with: "
                f"ssh-keyscan -t ed25519 {node.ssh.rpartition('@')[2]}   and compare it on the node itself"
            )


# --- error texts ------------------------------------------------------------------------------------------------------


def _explain(message: str, text: str, origin: str) -> str:
    """Turn msgspec's sentence (``… - at `$.node.name` ``) into file, line and advice."""
    where = re.search(r" - at `\$\.?([^`]*)`$", message)
    path = where.group(1) if where else ""
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


def _dotted(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _did_you_mean(table: str, key: str) -> str:
    known = _known_keys(table)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}"


def _known_keys(table: str) -> list[str]:
    tables: dict[str, Any] = {"": File, "node": NodeTable, "gpu": GpuTable, "jobs": JobsTable, "hub": HubTable}
    tables["hub.nodes"] = HubNode
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
