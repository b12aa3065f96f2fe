"""What a part of a GPU is counted as."""

from __future__ import annotations

import pytest

from agent.api.types import GpuReading
from agent.server.resources import _metered


def reading(**fields: object) -> GpuReading:
    known = {"index": 0, "uuid": "MIG-1", "name": "NVIDIA H100 80GB HBM3", "sampled_at": 1.0, "mig_parent": "GPU-1"}
    return GpuReading(**{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "profile", "share"),
    [
        ("NVIDIA H100 80GB HBM3", "1g.10gb", 142),
        ("NVIDIA H100 80GB HBM3", "3g.40gb", 428),
        ("NVIDIA H100 80GB HBM3", "7g.80gb", 1000),
        ("NVIDIA H100 80GB HBM3", "1c.3g.40gb", 142),
        ("NVIDIA A30", "2g.12gb", 500),
        ("NVIDIA H100 80GB HBM3", None, 250),
    ],
)
def test_a_mig_instance_counts_by_its_slices_else_by_its_memory(name: str, profile: str | None, share: int) -> None:
    parent = reading(uuid="GPU-1", name=name, mig_parent=None, memory_total_bytes=80 << 30)
    found = _metered(reading(mig_profile=profile, memory_total_bytes=20 << 30), parent)
    assert (found.gpu, found.sku, found.share) == ("GPU-1", name, share)


def test_all_instances_of_a_gpu_are_never_more_than_the_whole() -> None:
    parent = reading(uuid="GPU-1", mig_parent=None)
    shares = [_metered(reading(mig_profile=profile), parent).share for profile in ("3g.40gb", "3g.40gb", "1g.10gb")]
    assert sum(shares) <= 1000
