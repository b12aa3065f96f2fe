"""Whether the values of a configuration make sense, alone and together. Types and keys were checked before.

Each check yields what is wrong as `key = value: what to do`; the first one found is the error, so that a typing error
is not buried under what follows from it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from agent.api.health import IncidentKind
from agent.api.program import meant
from agent.config.resolved import Config, ConfigError
from agent.config.tables import HooksTable, MetricsTable

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
"""Names of nodes, clusters, partitions and the like: host-name-like, safe in a path, a log line and a terminal."""

_SOCKET_PATH_MAX = 107
"""unix(7): `sun_path` holds 108 bytes with its NUL."""

_WORDS = {
    "gpu.source": ("auto", "nvml", "simulated", "none"),
    "gpu.simulated_layout": ("nvswitch", "islands", "mig"),
    "jobs.shard_memory": ("warn", "stop", "off"),
    "jobs.launcher": ("auto", "systemd", "fork"),
    "telemetry.history": ("year", "month", "days", "hour", "off"),
    "jobs.confine_gpus": ("auto", "on", "off"),
    "hooks.notify_incidents": ("info", "warning", "critical", "off"),
    "scheduler.preempt": ("off", "qos", "partition"),
    "scheduler.preempt_mode": ("requeue", "cancel"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "node.cpus": (1, 65536),
    "gpu.simulated_count": (0, 64),
    "gpu.period_s": (0.05, 60),
    "gpu.fast_s": (0.05, 10),
    "jobs.grace_s": (0, 86400),
    "jobs.default_time_s": (1, 10**9),
    "jobs.log_head_bytes": (0, 2**40),
    "jobs.log_tail_bytes": (0, 2**40),
    "jobs.output_max_bytes": (0, 2**50),
    "jobs.max_pending": (0, 10**7),
    "jobs.shards_per_gpu": (1, 1024),
    "scheduler.half_life_s": (60, 10**9),
    "scheduler.max_age_s": (60, 10**9),
    "scheduler.weight_age": (0, 10**9),
    "scheduler.weight_fairshare": (0, 10**9),
    "scheduler.weight_jobsize": (0, 10**9),
    "scheduler.weight_partition": (0, 10**9),
    "scheduler.weight_qos": (0, 10**9),
    "limits.max_running_per_user": (0, 10**7),
    "limits.max_submit_per_user": (0, 10**7),
    "limits.max_gpus_per_user": (0, 10**5),
    "limits.max_array_size": (1, 10**6),
    "hooks.timeout_s": (1, 3600),
    "reaper.idle_s": (60, 10**8),
    "reaper.grace_s": (0, 10**8),
    "reaper.below_percent": (1, 99),
    "history.keep_days": (1, 10**5),
    "history.backup_s": (60, 7 * 86400),
    "metrics.interval_s": (1, 3600),
    "hub.usage_days": (400, 10**5),
}


def check(config: Config, origin: Callable[[str], str]) -> None:
    """Look at everything.

    Args:
        config: as it was read.
        origin: file and line of a key.

    Raises:
        ConfigError: with that, the key, its value and what to write.
    """
    for found in _all(config):
        raise ConfigError(f"{origin(found.split(' ', 1)[0])}: {found}")


def _all(config: Config) -> Iterator[str]:
    yield from _sockets(config)
    yield from _name("node.name", config.name)
    yield from _name("hub.cluster", config.cluster)
    yield from _words(config)
    yield from _ranges(config)
    yield from _partitions(config)
    yield from _qos(config)
    yield from _accounts(config)
    yield from _counted(config)
    yield from _hooks(config.hooks)
    yield from _hub_nodes(config)
    yield from _health(config)
    yield from _metrics(config.metrics)


def _sockets(config: Config) -> Iterator[str]:
    for path in (config.agent_socket, config.hub_socket):
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            yield (
                f"the socket path {path} is longer than the {_SOCKET_PATH_MAX} bytes that Linux allows; "
                "set node.run_dir to a shorter folder"
            )


def _name(key: str, name: str) -> Iterator[str]:
    if not re.fullmatch(NAME_PATTERN, name):
        yield f"{key} = {name!r} is not a name; use letters, digits, '.', '_' and '-', at most 64"


def _names(key: str, names: Sequence[str]) -> Iterator[str]:
    """Names of one kind: each a name, and each once."""
    for name in names:
        yield from _name(key, name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        yield f"{key} = {twice[0]!r} stands there twice; every one needs its own name"


def _value(config: Config, key: str) -> object:
    table, _, name = key.partition(".")
    if table == "node":
        return getattr(config, name)
    if table == "hub":
        return getattr(config, f"hub_{name}")
    return getattr(getattr(config, table), name)


def _words(config: Config) -> Iterator[str]:
    for key, words in _WORDS.items():
        value = _value(config, key)
        if value not in words:
            yield f"{key} = {value!r}; use {_or(words)}"


def _ranges(config: Config) -> Iterator[str]:
    for key, (least, most) in _RANGES.items():
        value = _value(config, key)
        if isinstance(value, int | float) and not least <= value <= most:
            yield f"{key} = {value}; use {least:g} to {most:g}"


def _health(config: Config) -> Iterator[str]:
    known = [kind.value for kind in IncidentKind]
    for kind, action in config.health.policy.items():
        if kind not in known:
            yield f"health.policy.{_shown(kind)} is no kind of incident{meant(kind, known)}; use {_or(known)}"
        if action not in ("drain", "hold", "tell"):
            yield f"health.policy.{kind} = {action!r}; use drain, hold or tell"
    for table, patience in (("for_s", config.health.for_s), ("clear_s", config.health.clear_s)):
        for kind, seconds in patience.items():
            if kind not in known:
                yield f"health.{table}.{_shown(kind)} is no kind of incident{meant(kind, known)}; use {_or(known)}"
            elif not 0 <= seconds <= 86400:
                yield f"health.{table}.{kind} = {seconds:g}; use 0 to 86400 seconds"


def _metrics(metrics: MetricsTable) -> Iterator[str]:
    for key, path in (("textfile", metrics.textfile), ("hub_textfile", metrics.hub_textfile)):
        if path is not None and (not path.is_absolute() or path.suffix != ".prom"):
            yield f"metrics.{key} = {str(path)!r}; write an absolute path ending in .prom, as node_exporter wants"
    if metrics.textfile is not None and metrics.textfile == metrics.hub_textfile:
        yield f"metrics.textfile and metrics.hub_textfile are both {str(metrics.textfile)!r}; name two files"


def _partitions(config: Config) -> Iterator[str]:
    yield from _names("partitions.name", [each.name for each in config.partitions])
    defaults = [each.name for each in config.partitions if each.default]
    if len(defaults) > 1:
        yield f"partitions {_and(defaults)} are both the default; leave default = true on one"
    for each in config.partitions:
        where = f"partitions {each.name!r}"
        yield from _seconds(f"{where}: default_time_s", each.default_time_s)
        yield from _seconds(f"{where}: max_time_s", each.max_time_s)
        if each.default_time_s and each.max_time_s and each.default_time_s > each.max_time_s:
            yield f"{where}: default_time_s = {each.default_time_s} is over its max_time_s = {each.max_time_s}"
        if not 0 <= each.priority_tier <= 65533:
            yield f"{where}: priority_tier = {each.priority_tier}; use 0 to 65533"
        if each.gpus is not None and any(index < 0 for index in each.gpus):
            yield f"{where}: gpus = {list(each.gpus)}; use the indexes that nvidia-smi shows"


def _qos(config: Config) -> Iterator[str]:
    names = [each.name for each in config.qos]
    yield from _names("qos.name", names)
    for each in config.qos:
        where = f"qos {each.name!r}"
        for other in each.preempts:
            if other not in names:
                yield f"{where}: preempts names {other!r}, which is no QOS here; known: {', '.join(names)}"
            if other == each.name:
                yield f"{where}: it cannot preempt itself; take {other!r} out of preempts"
        yield from _seconds(f"{where}: max_wall_s", each.max_wall_s)
        for key in ("priority", "max_gpus_per_user", "max_jobs_per_user", "max_submit_per_user"):
            value = getattr(each, key)
            if value is not None and value < 0:
                yield f"{where}: {key} = {value} is negative"


def _accounts(config: Config) -> Iterator[str]:
    yield from _names("accounts.name", [each.name for each in config.accounts])
    for each in config.accounts:
        if each.shares < 1:
            yield f"accounts {each.name!r}: shares = {each.shares}; use 1 or more"
        for user, shares in each.users.items():
            if shares < 1:
                yield f"accounts {each.name!r}: users.{user} = {shares}; use 1 or more"


def _counted(config: Config) -> Iterator[str]:
    for name, count in config.jobs.licenses.items():
        yield from _name("jobs.licenses", name)
        if count < 0:
            yield f"jobs.licenses.{name} = {count} is negative"
    for feature in config.jobs.features:
        yield from _name("jobs.features", feature)


def _hooks(hooks: HooksTable) -> Iterator[str]:
    for key in ("prolog", "epilog", "task_prolog", "task_epilog", "notify_command"):
        path = getattr(hooks, key)
        if path is not None and not path.is_absolute():
            yield f"hooks.{key} = {str(path)!r} is not an absolute path"
    if hooks.notify_url is not None:
        url = urlsplit(hooks.notify_url)
        sound = url.path.startswith("/") and not url.netloc if url.scheme == "unix" else bool(url.netloc)
        if url.scheme not in ("http", "https", "unix") or not sound:
            yield f"hooks.notify_url = {hooks.notify_url!r}; write http://HOST/PATH, https://… or unix:///run/relay.sock"


def _hub_nodes(config: Config) -> Iterator[str]:
    yield from _names("hub.nodes.name", [node.name for node in config.hub_nodes])
    for node in config.hub_nodes:
        if (node.socket is None) == (node.ssh is None):
            yield f"hub.nodes {node.name} needs either socket = … or ssh = …, and not both"
        elif node.ssh is not None and not node.host_key:
            yield (
                f"hub.nodes {node.name} has no host_key; the hub trusts no host on first use. Print it with: "
                f"ssh-keyscan -t ed25519 {node.ssh.rpartition('@')[2]}   and compare it on the node itself"
            )


def _seconds(key: str, value: int | None) -> Iterator[str]:
    if value is not None and value < 1:
        yield f"{key} = {value}; use seconds, or leave it out"


def _shown(key: str) -> str:
    """A key of the site's own choice: TOML takes any text for one."""
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else repr(key[:80])


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}"
