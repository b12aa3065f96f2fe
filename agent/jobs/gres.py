"""GPUs and parts of them, as `--gpus`, `--gpus-per-node`, `--gpus-per-task` and `--gres` name them.

Rules kept here: of Slurm's generic resources a node has `gpu` and `shard`, any other is refused by its name; each
stands in a list once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.jobs.grammar import GrammarError

_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_GPU_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """How many GPUs, and of which type when that matters."""

    count: int
    type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GresRequest:
    """What `--gres` says."""

    gpus: GpuRequest | None = None
    """`None`: it does not name GPUs at all."""
    shards: int = 0


def gres(text: str) -> GresRequest:
    """Read `--gres`: `gpu`, `gpu:2`, `gpu:h100:2`, `shard:1` or `none`, several joined by commas."""
    if text.lower() == "none":
        return GresRequest(gpus=GpuRequest(count=0))
    found: GpuRequest | None = None
    shards = 0
    for part in text.split(","):
        kind, _, rest = re.sub(r"^gres[:/]", "", part).partition(":")
        if kind == "gpu":
            gpus_twice = found is not None
            found = gpus(rest) if rest else _bare(part)
            if gpus_twice:
                raise GrammarError("names gpu twice; a job gets GPUs of one type: write gpu:COUNT or gpu:TYPE:COUNT")
        elif kind == "shard":
            shards += _shards(part, rest)
        else:
            what = f"asks for {kind[:40]!r}" if kind else "names nothing"
            raise GrammarError(f"{what}; this node has gpu and shard: write gpu:COUNT, gpu:TYPE:COUNT, shard:COUNT")
    if found and found.count and shards:
        raise GrammarError("asks for whole GPUs and for shards of one; a job has either gpu:COUNT or shard:COUNT")
    return GresRequest(gpus=found, shards=shards)


def gpus(text: str) -> GpuRequest:
    """Read `--gpus`: `2`, `h100:2` (sbatch takes `h100=2` for it, too), or `h100` for one."""
    gpu_type, _, count = re.sub(r"^([^:=]+)=", r"\1:", text).rpartition(":")
    if not gpu_type and _GPU_TYPE.fullmatch(text):
        return GpuRequest(count=1, type=text)
    if "," in text:
        raise GrammarError("names GPUs of several types; this node gives a job GPUs of one: write COUNT or TYPE:COUNT")
    if not _COUNT.fullmatch(count) or (gpu_type and not _GPU_TYPE.fullmatch(gpu_type)) or text.startswith(":"):
        raise GrammarError("is not a number of GPUs; write COUNT or TYPE:COUNT, such as 2 or h100:2")
    return GpuRequest(count=int(count), type=gpu_type or None)


def _bare(text: str) -> GpuRequest:
    if text.endswith(":"):
        raise GrammarError("ends with a colon; write gpu:COUNT")
    return GpuRequest(count=1)


def _shards(part: str, rest: str) -> int:
    if part.endswith("shard"):
        return 1
    if not _COUNT.fullmatch(rest):
        raise GrammarError("is not a number of shards; write shard:COUNT, such as shard:1")
    return int(rest)
