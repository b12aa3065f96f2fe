"""What the tests of the self-test share: inspections made by hand, and an interpreter whose torch is a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.api.types import GpuProcess, GpuReading
from agent.gpu.inspection import GpuInspection, Inspection
from agent.selftest.compute import Answer, Told

HOUSE = Path(__file__).parents[2]
ENTRY = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
DEADLINE_S = 110.0
H100 = "NVIDIA H100 80GB HBM3"


def uuid(index: int) -> str:
    return f"GPU-{index}"


def inspection(
    index: int = 0,
    *,
    name: str = H100,
    memory_total_bytes: int | None = 85_520_809_984,
    temperature_c: int | None = 40,
    divided: bool = False,
    links: Mapping[str, int] | None = None,
    processes: tuple[GpuProcess, ...] = (),
    **more: Any,
) -> GpuInspection:
    """A healthy H100 at rest but for what is said."""
    reading = GpuReading(
        index=index,
        uuid=uuid(index),
        name=name,
        sampled_at=1.0,
        memory_total_bytes=memory_total_bytes,
        temperature_c=temperature_c,
        power_mw=650_000,
        sm_clock_mhz=1700,
        divided=divided,
        links=dict(links or {}),
        processes=processes,
    )
    healthy: dict[str, Any] = {
        "pcie_width": 16,
        "pcie_width_max": 16,
        "pcie_generation_max": 5,
        "nvlinks": 18,
        "slowdown_c": 87,
        "throttle": 0,
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "rows_remapped": 0,
        "pcie_replays": 0,
    }
    return GpuInspection(reading=reading, **(healthy | more))


def second_by_second(*gpus: GpuInspection | None) -> list[Inspection]:
    """A reading each second; `None` is a second without one."""
    return [Inspection(at=100.0 + second, gpus=(gpu,)) for second, gpu in enumerate(gpus) if gpu is not None]


def answer(*lines: Mapping[str, Any], problem: str | None = None) -> Answer:
    """What a child said."""
    return Answer([Told(**line) for line in lines], problem)


def pretender(folder: Path, answers: Mapping[str, Sequence[Mapping[str, Any]] | str]) -> Path:
    """An executable in the place of an interpreter with torch.

    Args:
        folder: where it is put.
        answers: of each task, the lines to say; a text is Python to run in their stead.
    """
    script = folder / "python-with-torch"
    script.write_text(
        f"#!{sys.executable} -I\n"
        "import json, os, sys, time\n"
        f"answers = json.loads({json.dumps(answers)!r})\n"
        "spec = json.loads(sys.argv[-1])\n"
        "mine = answers.get(spec['task'], [])\n"
        "if isinstance(mine, str):\n    exec(mine)\n    sys.exit(0)\n"
        "print('a library says hello')\n"
        "for line in mine:\n    print(json.dumps(line), flush=True)\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


def config_file(folder: Path, gpu: str = '[gpu]\nsource = "auto"\n', run_dir: Path | None = None) -> Path:
    """A node that has no agent unless one is started in `run_dir`."""
    path = folder / "stoker.toml"
    sockets = run_dir or folder / "run"
    path.write_text(
        f'[node]\nname = "n1"\nmode = "user"\nstate_dir = "{folder}/state"\nrun_dir = "{sockets}"\n{gpu}',
        encoding="utf-8",
    )
    return path


def command(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", ENTRY, "selftest", "--config", str(config), *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1"}


def selftest(config: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`stoker-agent selftest`, to its end."""
    return subprocess.run(
        command(config, *words),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=cwd or config.parent,
        env=environment(),
    )
