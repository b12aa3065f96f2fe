"""How large a job is: tasks, CPUs, GPUs and memory out of the options that say so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import SubmitRequest
from agent.jobs import shape
from agent.jobs.errors import SpecError
from agent.jobs.said import collect
from agent.jobs.shape import Shape

GIB = 2**30
BARE: dict[str, Any] = {
    "tasks": 1,
    "ntasks_per_node": None,
    "cpus_per_task": 1,
    "cpus_said": False,
    "gpus": 0,
    "gpu_type": None,
    "gpus_per_task": None,
    "shards": 0,
    "memory_bytes": None,
    "memory_per_cpu_bytes": None,
    "memory_per_gpu_bytes": None,
}


def read(words: str) -> Shape:
    request = SubmitRequest(script="#!/bin/sh\n", script_name="s.sh", flags=tuple(words.split()), work_dir="/")
    return shape.read(collect(request, "s.sh"))


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("", {}),
        # tasks and CPUs
        ("-n 4", {"tasks": 4, "cpus_said": True}),
        ("-n 4 -c 2", {"tasks": 4, "cpus_per_task": 2, "cpus_said": True}),
        ("-N 1 --ntasks-per-node=4", {"tasks": 4, "ntasks_per_node": 4, "cpus_said": True}),
        ("-n 2 --ntasks-per-node=4", {"tasks": 2, "ntasks_per_node": 4, "cpus_said": True}),
        ("-n 4 --ntasks-per-node=4", {"tasks": 4, "ntasks_per_node": 4, "cpus_said": True}),
        ("-N 1-3 -c 2", {"cpus_per_task": 2, "cpus_said": True}),
        # GPUs: three words for one number
        ("-G 2", {"gpus": 2}),
        ("--gpus-per-node=2", {"gpus": 2}),
        ("--gres=gpu:2", {"gpus": 2}),
        ("--gres=gpu:2 -G 2 --gpus-per-node=2", {"gpus": 2}),
        ("--gres=gpu:h100:2 -G 2", {"gpus": 2, "gpu_type": "h100"}),
        ("--gres=gpu:2 -G h100:2", {"gpus": 2, "gpu_type": "h100"}),
        ("-G h100:0", {}),
        ("--gres=none -G 0", {}),
        ("--gres=shard:3", {"shards": 3}),
        ("--gres=shard:3 -G 0", {"shards": 3}),
        # per task
        ("-n 1 --gpus-per-task=2", {"gpus": 2, "gpus_per_task": 2}),
        ("-N 1 --gpus-per-task=2", {"gpus": 2, "gpus_per_task": 2}),
        (
            "--ntasks-per-node=2 --gpus-per-task=1",
            {"tasks": 2, "ntasks_per_node": 2, "cpus_said": True, "gpus": 2, "gpus_per_task": 1},
        ),
        ("-n 4 --gpus-per-task=2", {"tasks": 4, "cpus_said": True, "gpus": 8, "gpus_per_task": 2}),
        (
            "-n 4 --gpus-per-task=a100:1 -G 4",
            {"tasks": 4, "cpus_said": True, "gpus": 4, "gpu_type": "a100", "gpus_per_task": 1},
        ),
        ("-G 4 --gpus-per-task=2", {"tasks": 2, "cpus_said": True, "gpus": 4, "gpus_per_task": 2}),
        ("--gpus-per-task=0 -n 3", {"tasks": 3, "cpus_said": True}),
        # per GPU
        ("-G 2 --ntasks-per-gpu=2", {"tasks": 4, "cpus_said": True, "gpus": 2}),
        ("-n 4 --ntasks-per-gpu=2", {"tasks": 4, "cpus_said": True, "gpus": 2}),
        ("-n 4 -G 2 --ntasks-per-gpu=2", {"tasks": 4, "cpus_said": True, "gpus": 2}),
        ("-G 2 --cpus-per-gpu=6", {"gpus": 2, "cpus_per_task": 12, "cpus_said": True}),
        ("-G 3 -n 2 --cpus-per-gpu=1", {"gpus": 3, "tasks": 2, "cpus_per_task": 2, "cpus_said": True}),
        # memory
        ("--mem=2G", {"memory_bytes": 2 * GIB}),
        ("--mem=0", {}),
        ("--mem-per-cpu=1G", {"memory_bytes": GIB, "memory_per_cpu_bytes": GIB}),
        (
            "--mem-per-cpu=1G -n 2 -c 3",
            {
                "tasks": 2,
                "cpus_per_task": 3,
                "cpus_said": True,
                "memory_bytes": 6 * GIB,
                "memory_per_cpu_bytes": GIB,
            },
        ),
        ("--mem-per-cpu=0 -n 2", {"tasks": 2, "cpus_said": True}),
        ("--mem-per-gpu=4G -G 2", {"gpus": 2, "memory_bytes": 8 * GIB, "memory_per_gpu_bytes": 4 * GIB}),
        (
            "--mem-per-gpu=4G --gpus-per-task=1 -n 2",
            {
                "tasks": 2,
                "cpus_said": True,
                "gpus": 2,
                "gpus_per_task": 1,
                "memory_bytes": 8 * GIB,
                "memory_per_gpu_bytes": 4 * GIB,
            },
        ),
    ],
)
def test_shapes(words: str, fields: dict[str, Any]) -> None:
    assert read(words) == Shape(**(BARE | fields))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-N 2", "--nodes=2 needs the cluster engine"),
        ("-n 4 --ntasks-per-node=2", "--ntasks=4 with --ntasks-per-node=2 needs the cluster engine"),
        ("-G 2 --gres=gpu:3", "--gpus=2 contradicts --gres=gpu:3; say how many GPUs once"),
        ("-G 2 --gpus-per-node=3", "--gpus=2 contradicts --gpus-per-node=3"),
        ("-G h100:2 --gres=gpu:a100:2", "--gpus=h100:2 contradicts --gres=gpu:a100:2"),
        ("-G 2 --gres=shard:2", "--gres=shard:2 contradicts --gpus=2; a job has either whole GPUs or shards"),
        ("-n 1 --gpus-per-task=1 --gres=shard:2", "contradicts --gpus-per-task=1; a job has either"),
        ("-G 3 -n 2 --gpus-per-task=2", "--gpus-per-task=2 contradicts --gpus=3"),
        ("--gpus-per-task=2", "--gpus-per-task=2 without either --gpus or -n/--ntasks is not allowed: say how many"),
        ("--gpus-per-node=2 --gpus-per-task=2", "--gpus-per-task=2 without either --gpus or -n/--ntasks is not"),
        ("-G 3 --gpus-per-task=2", "--gpus-per-task=2 contradicts --gpus=3; the one is no multiple of the other"),
        ("--gpus-per-task=1 --ntasks-per-gpu=1", "--ntasks-per-gpu=1 contradicts --gpus-per-task=1; use only one"),
        ("-G 1 --ntasks-per-gpu=1 --ntasks-per-node=1", "--ntasks-per-gpu=1 contradicts --ntasks-per-node=1"),
        ("--ntasks-per-gpu=2", "--ntasks-per-gpu=2 needs a number of GPUs"),
        ("-G 2 -n 3 --ntasks-per-gpu=2", "--ntasks=3 contradicts --ntasks-per-gpu=2; which makes 4 tasks"),
        ("-n 3 --ntasks-per-gpu=2", "--ntasks-per-gpu=2 contradicts --ntasks=3; 3 tasks are no multiple"),
        ("--cpus-per-gpu=2", "--cpus-per-gpu=2 needs a number of GPUs"),
        ("-G 1 -c 2 --cpus-per-gpu=2", "--cpus-per-gpu=2 contradicts --cpus-per-task=2"),
        ("--mem=1G --mem-per-cpu=1G", "--mem-per-cpu=1G contradicts --mem=1G; --mem, --mem-per-cpu and --mem-per-gpu"),
        ("-G1 --mem-per-gpu=1G --mem-per-cpu=1G", "--mem-per-gpu=1G contradicts --mem-per-cpu=1G"),
        ("--mem-per-gpu=1G", "--mem-per-gpu=1G needs a number of GPUs"),
        ("-n 999999999 --mem-per-cpu=1T", "is more memory than a machine can have"),
        ("-n 999999999 -c 2", "--cpus-per-task=2 makes more than 999999999 of them"),
        ("-G 99999 --ntasks-per-gpu=99999", "makes more than 999999999 of them"),
        ("-n 0", "--ntasks=0 is not a count"),
        ("-n 2x", "--ntasks=2x is not a count"),
    ],
)
def test_contradictions(words: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(words)
    assert said in str(caught.value)
    assert caught.value.field.startswith("--")


numbers = st.integers(0, 9).map(str)
options = st.sampled_from(
    [
        *("--ntasks", "--ntasks-per-node", "--ntasks-per-gpu", "--cpus-per-task", "--cpus-per-gpu", "--gpus"),
        *("--gpus-per-node", "--gpus-per-task", "--gres=gpu:", "--gres=shard:", "--mem", "--mem-per-cpu"),
        "--mem-per-gpu",
    ]
)


@given(st.lists(st.tuples(options, numbers), max_size=5))
def test_any_mixture_is_consistent_or_refused(said: list[tuple[str, str]]) -> None:
    words = [name + number if name.endswith(":") else f"{name}={number}" for name, number in said]
    try:
        size = read(" ".join(words))
    except SpecError as error:
        assert str(error)
        return
    assert size.tasks >= 1
    assert size.cpus_per_task >= 1
    assert not (size.gpus and size.shards)
    if size.gpus_per_task:
        assert size.gpus == size.tasks * size.gpus_per_task
    if size.memory_per_cpu_bytes:
        assert size.memory_bytes == size.memory_per_cpu_bytes * size.tasks * size.cpus_per_task
    if size.memory_per_gpu_bytes:
        assert size.memory_bytes == size.memory_per_gpu_bytes * size.gpus
