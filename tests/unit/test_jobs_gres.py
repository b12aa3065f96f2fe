"""GPUs and shards, as options name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import gres
from agent.jobs.grammar import GrammarError
from agent.jobs.gres import GpuRequest, GresRequest


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("gpu", GresRequest(gpus=GpuRequest(count=1))),
        ("gpu:2", GresRequest(gpus=GpuRequest(count=2))),
        ("gpu:0", GresRequest(gpus=GpuRequest(count=0))),
        ("gpu:h100", GresRequest(gpus=GpuRequest(count=1, type="h100"))),
        ("gpu:h100:2", GresRequest(gpus=GpuRequest(count=2, type="h100"))),
        ("gres:gpu:2", GresRequest(gpus=GpuRequest(count=2))),
        ("gres/gpu:2", GresRequest(gpus=GpuRequest(count=2))),
        ("none", GresRequest(gpus=GpuRequest(count=0))),
        ("NONE", GresRequest(gpus=GpuRequest(count=0))),
        ("shard", GresRequest(shards=1)),
        ("shard:3", GresRequest(shards=3)),
        ("gres:shard:3", GresRequest(shards=3)),
        ("gpu:0,shard:2", GresRequest(gpus=GpuRequest(count=0), shards=2)),
        ("shard:0,gpu:2", GresRequest(gpus=GpuRequest(count=2))),
    ],
)
def test_gres(text: str, asked: GresRequest) -> None:
    assert gres.gres(text) == asked


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("2", GpuRequest(count=2)),
        ("h100:2", GpuRequest(count=2, type="h100")),
        ("h100=2", GpuRequest(count=2, type="h100")),
        ("a100-sxm", GpuRequest(count=1, type="a100-sxm")),
    ],
)
def test_gpus(text: str, asked: GpuRequest) -> None:
    assert gres.gpus(text) == asked


@pytest.mark.parametrize(
    ("reader", "text", "said"),
    [
        (gres.gres, "", "names nothing"),
        (gres.gres, "gpu:", "ends with a colon"),
        (gres.gres, "gpu:-1", "is not a number of GPUs"),
        (gres.gres, "gpu::2", "is not a number of GPUs"),
        (gres.gres, "gpu:h100:x", "is not a number of GPUs"),
        (gres.gres, "gpu:h100:2:3", "is not a number of GPUs"),
        (gres.gres, "gpu:" + "9" * 5000, "is not a number of GPUs"),
        (gres.gres, "gpu:1k", "is not a number of GPUs"),
        (gres.gres, "GPU:1", "asks for 'GPU'"),
        (gres.gres, "gpu:1,", "names nothing"),
        (gres.gres, "gpu:1,gpu:2", "names gpu twice"),
        (gres.gres, "gpu:h100:1,gpu:a100:1", "names gpu twice"),
        (gres.gres, "gpu:1,shard:1", "a job has either"),
        (gres.gres, "shard:x", "is not a number of shards"),
        (gres.gres, "shard:", "is not a number of shards"),
        (gres.gres, "shard:h100:1", "is not a number of shards"),
        (gres.gres, "mps:100", "asks for 'mps'"),
        (gres.gres, "license:1", "asks for 'license'"),
        (gres.gpus, "", "is not a number of GPUs"),
        (gres.gpus, "-1", "is not a number of GPUs"),
        (gres.gpus, ":2", "is not a number of GPUs"),
        (gres.gpus, "h100:", "is not a number of GPUs"),
        (gres.gpus, "h 100:1", "is not a number of GPUs"),
        (gres.gpus, "\x1b[31m", "is not a number of GPUs"),
        (gres.gpus, "h100:1,a100:1", "names GPUs of several types"),
    ],
)
def test_bad_values_are_refused(reader: Callable[[str], Any], text: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        reader(text)


@given(st.sampled_from([gres.gres, gres.gpus]), st.one_of(st.text(), st.text("gpushardn:,0123456789h/", max_size=20)))
def test_any_text_is_read_or_refused(reader: Callable[[str], Any], text: str) -> None:
    try:
        reader(text)
    except GrammarError as error:
        assert str(error)
