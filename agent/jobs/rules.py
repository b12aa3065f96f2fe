"""The site's rules, applied to a job that parsed well: what the configuration has, and what it allows whom.

Rules kept here: every name in the result is one that the configuration knows, or that it leaves free; what no wait can
help is refused at submit, naming the rule; applying the rules to their own result changes nothing, so that a job whose
partition or limit was changed later goes through here again. Reservations are the engine's to know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

import msgspec

from agent.config import Config, PartitionTable, QosTable
from agent.jobs.errors import SpecError
from agent.jobs.schedule.facts import MAX_WAYS
from agent.jobs.schedule.words import clock_span
from agent.jobs.spec import JobSpec

_MANY = 2**31

_T = TypeVar("_T")


def apply(
    spec: JobSpec,
    config: Config,
    *,
    user: str,
    groups: Collection[str],
    admin: bool = False,
    gpu_names: Iterable[str] = (),
) -> JobSpec:
    """Fill in what the job did not name, and refuse what the site does not have or allow.

    Args:
        spec: as parsed, or as applied before.
        config: the site's tables.
        user: whose job it is.
        groups: all Unix groups of the user.
        admin: the one who asks may raise a job's priority.
        gpu_names: models of the node's GPUs, whose words `--constraint` may name.

    Raises:
        SpecError: with the rule and what there is instead.
    """
    _check_priority(spec, admin)
    _check_nodes(spec, config)
    _check_array(spec, config)
    _check_licenses(spec, config)
    qos = _qos(spec, config, groups)
    partitions = _partitions(spec, config, qos, groups)
    _check_gpus(spec, config, partitions, qos)
    return msgspec.structs.replace(
        spec,
        partition=",".join(each.name for each in partitions),
        qos=qos.name,
        account=_account(spec, config, user),
        time_limit_s=_time_limit_s(spec, config, partitions, qos),
        features=_features(spec, config, gpu_names),
    )


def gpu_features(gpu_name: str) -> tuple[str, ...]:
    """The words of a GPU's model, which `--constraint` may name: `nvidia`, `h100`, `80gb`, `hbm3`."""
    return tuple(dict.fromkeys(word.lower() for word in re.split(r"[^A-Za-z0-9.]+", gpu_name) if word))


# --- partition, QOS and account ---------------------------------------------------------------------------------------


def _partitions(spec: JobSpec, config: Config, qos: QosTable, groups: Collection[str]) -> Sequence[PartitionTable]:
    """Those of the named ones in which the job may run, as Slurm keeps them; all of them must exist."""
    known = {each.name: each for each in config.partitions}
    if spec.partition is None:
        wanted = [next(each for each in config.partitions if each.default)]
    else:
        wanted = [_known("partition", name, known, config.name) for name in spec.partition.split(",")]
    refusals = [_why_not_partition(spec, config, each, qos, groups) for each in wanted]
    open_ones = [each for each, refusal in zip(wanted, refusals, strict=True) if refusal is None]
    if open_ones:
        return open_ones
    raise SpecError("; ".join(filter(None, refusals)), "--partition")


def _why_not_partition(
    spec: JobSpec, config: Config, partition: PartitionTable, qos: QosTable, groups: Collection[str]
) -> str | None:
    if _closed(partition.allow_groups, groups):
        return f"partition {partition.name} is for members of {_either(partition.allow_groups)} only"
    if partition.max_time_s is None or not spec.time_said:
        return None
    limit = spec.time_limit_s
    if limit is not None and limit <= partition.max_time_s:
        return None
    asked = "no time limit" if limit is None else f"a time limit of {clock_span(limit)}"
    longest = clock_span(partition.max_time_s)
    return f"the job asks for {asked}; the most in partition {partition.name} is {longest}: ask for less with --time"


def _qos(spec: JobSpec, config: Config, groups: Collection[str]) -> QosTable:
    known = {each.name: each for each in config.qos}
    qos = config.qos[0] if spec.qos is None else _known("qos", spec.qos, known, config.name)
    if _closed(qos.allow_groups, groups):
        raise SpecError(f"QOS {qos.name} is for members of {_either(qos.allow_groups)} only", "--qos")
    return qos


def _account(spec: JobSpec, config: Config, user: str) -> str | None:
    """The account to charge: the one named, else the first that the user is in. With none configured any name goes."""
    if not config.accounts:
        return spec.account
    if spec.account is not None:
        account = _known("account", spec.account, {each.name: each for each in config.accounts}, config.name)
        if account.users and user not in account.users:
            raise SpecError(f"{user} is not in account {account.name}; ask an admin to add the user to it", "--account")
        return account.name
    named = [each.name for each in config.accounts if user in each.users]
    anybodys = [each.name for each in config.accounts if not each.users]
    if not named and not anybodys:
        raise SpecError(f"{user} is in none of this node's accounts; ask an admin to add the user to one", "--account")
    return (named or anybodys)[0]


def _known(kind: str, name: str, known: dict[str, _T], node: str) -> _T:
    if name in known:
        return known[name]
    import difflib  # only for a mistake

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise SpecError(f"invalid {kind} specified: {name}; {node} has {_listed(known)}{hint}", f"--{kind}")


# --- limits -----------------------------------------------------------------------------------------------------------


def _time_limit_s(spec: JobSpec, config: Config, partitions: Sequence[PartitionTable], qos: QosTable) -> int | None:
    """Of a job that did not say: the default of its first partition, as Slurm has it, within what all of them allow."""
    if not spec.time_said:
        default = partitions[0].default_time_s or config.jobs.default_time_s
        limits = (default, *(each.max_time_s for each in partitions), qos.max_wall_s)
        return min((each for each in limits if each is not None), default=None)
    limit = spec.time_limit_s
    if qos.max_wall_s is not None and (limit is None or limit > qos.max_wall_s):
        asked = "no time limit" if limit is None else f"a time limit of {clock_span(limit)}"
        longest = clock_span(qos.max_wall_s)
        raise SpecError(f"the job asks for {asked}; the most with QOS {qos.name} is {longest}: ask for less", "--time")
    return limit


def _check_gpus(spec: JobSpec, config: Config, partitions: Sequence[PartitionTable], qos: QosTable) -> None:
    """Refuse more GPUs than the job could ever be given at once."""
    widest = max(partitions, key=lambda each: _MANY if each.gpus is None else len(each.gpus))
    limits = (
        (None if widest.gpus is None else len(widest.gpus), f"partition {widest.name} has"),
        (qos.max_gpus_per_user, f"a user of QOS {qos.name} may hold"),
        (config.limits.max_gpus_per_user, "a user may hold"),
    )
    for most, who in limits:
        if most is not None and spec.gpus > most:
            raise SpecError(f"the job asks for {spec.gpus} GPUs; {who} {most}", "--gpus")
    if spec.shards > config.jobs.shards_per_gpu:
        most = config.jobs.shards_per_gpu
        raise SpecError(f"the job asks for {spec.shards} shards of one GPU; a GPU has {most}", "--gres")


def _check_priority(spec: JobSpec, admin: bool) -> None:
    if admin:
        return
    if spec.nice < 0:
        raise SpecError(f"--nice={spec.nice} raises the job's priority, which only an admin may", "--nice")
    if spec.priority is not None:
        raise SpecError("--priority sets the job's place in the queue, which only an admin may", "--priority")


def _check_array(spec: JobSpec, config: Config) -> None:
    most = config.limits.max_array_size
    if spec.array is None or spec.array.tasks[-1] < most:
        return
    if spec.sweep:
        raise SpecError(
            f"the sweep has {len(spec.array.tasks)} combinations; limits.max_array_size is {most}", "$.sweep"
        )
    raise SpecError(
        f"invalid job array specification: task {spec.array.tasks[-1]} is not below limits.max_array_size = {most}",
        "--array",
    )


# --- nodes, licences and features -------------------------------------------------------------------------------------


def _check_nodes(spec: JobSpec, config: Config) -> None:
    others = [name for name in spec.nodelist if not _is(name, config.name)]
    if others:
        more = "; a job of several nodes needs the cluster engine" if len(spec.nodelist) > 1 else ""
        raise SpecError(f"invalid node name specified: {others[0]}; this node is {config.name}{more}", "--nodelist")
    if any(_is(name, config.name) for name in spec.exclude):
        raise SpecError(f"--exclude leaves no node to run on: {config.name} is the only one", "--exclude")


def _is(name: str, node: str) -> bool:
    return name == node or name.split(".")[0] == node.split(".")[0]


def _check_licenses(spec: JobSpec, config: Config) -> None:
    have = config.jobs.licenses
    for name, count in spec.licenses:
        if name not in have:
            raise SpecError(f"invalid license specification: {name}; {config.name} has {_listed(have)}", "--licenses")
        if count > have[name]:
            raise SpecError(f"invalid license specification: {count} of {name}; there are {have[name]}", "--licenses")


def _features(spec: JobSpec, config: Config, gpu_names: Iterable[str]) -> tuple[str, ...]:
    """Features as the node spells them. Of several of which one is asked for all are kept: the scheduler takes one."""
    of_gpus = {each.lower(): each for name in gpu_names for each in gpu_features(name)}
    own = set(config.jobs.features)
    found: dict[str, None] = {}
    ways = 1
    for wanted in spec.features:
        spelt = {each: each if each in own else of_gpus.get(each.lower()) for each in wanted.split("|")}
        here = {each for each in spelt.values() if each is not None}
        if not here:
            has = _listed([*config.jobs.features, *of_gpus])
            raise SpecError(f"invalid feature specification: {wanted}; {config.name} has {has}", "--constraint")
        ways *= 1 if own & here else len(here)
        found["|".join(dict.fromkeys(name or typed for typed, name in spelt.items()))] = None
    if ways > MAX_WAYS:
        sentence = f"asks for one of {ways:,} combinations of features; at most {MAX_WAYS} are weighed: name fewer"
        raise SpecError(sentence, "--constraint")
    return tuple(found)


# --- words ------------------------------------------------------------------------------------------------------------


def _closed(allowed: Sequence[str], groups: Collection[str]) -> bool:
    return bool(allowed) and not set(allowed) & set(groups)


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else f"group {names[0]}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
