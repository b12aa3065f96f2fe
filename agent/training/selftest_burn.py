"""Full load on one device for a time, every result compared: the same product must come out the same each time.

On a GPU the results fill four fifths of its memory, so that bad cells are met. With one stream and one kernel results
are the same bit for bit, and a bit that is not is an error of the hardware.

Shapes: M, K, N sides of the product, all equal.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from agent.training.selftest_rates import Emit, waiter

MEMORY_SHARE = 0.8
TELL_S = 1.0


def burn(spec: dict[str, Any], emit: Emit) -> None:
    """Tell about each second how fast it went and how many values were wrong; the last line says `done`."""
    device, until = torch.device(spec["device"]), time.monotonic() + float(spec["seconds"])
    cuda = device.type == "cuda"
    size = int(spec.get("size") or (8192 if cuda else 512))
    dtype = torch.bfloat16 if cuda else torch.float32
    a_MK, b_KN = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    right_MN = torch.mm(a_MK, b_KN)
    results = _buffers(right_MN, cuda)
    wait = waiter(device)
    while True:
        products, begun = 0, time.monotonic()
        while time.monotonic() - begun < TELL_S:
            for each_MN in results:
                torch.mm(a_MK, b_KN, out=each_MN)
            wait()
            products += len(results)
        took = time.monotonic() - begun
        wrong = sum(_wrong(each_MN, right_MN, cuda) for each_MN in results)
        emit(burn=products, value=int(2 * size**3 * products / took / 1e9), unit="GFLOP/s", wrong=wrong)
        if time.monotonic() >= until:
            emit(done=True)
            return


def _buffers(like_MN: Tensor, cuda: bool) -> list[Tensor]:
    count = 2
    if cuda:
        free = torch.cuda.mem_get_info(like_MN.device)[0]
        # Comparing takes a mask of one byte a value beside each result.
        count = max(1, int(MEMORY_SHARE * free / (like_MN.numel() * like_MN.element_size())))
    return [torch.empty_like(like_MN) for _ in range(count)]


def _wrong(got_MN: Tensor, right_MN: Tensor, exactly: bool) -> int:
    """Values that differ. On a CPU threads share a sum differently from time to time, so there only by a thousandth."""
    if exactly:
        return int((got_MN != right_MN).sum())
    return int((~torch.isclose(got_MN, right_MN, rtol=1e-3, atol=1e-2)).sum())
