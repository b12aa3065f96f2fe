"""How fast one device computes and copies: matrix products per dtype, its memory, and the bus to the host.

The products are of random data, because a GPU draws less power, and so runs faster, on zeros. The best of the sizes
counts: which size suits a kernel is not a property of the board.

Shapes: M, K, N sides of the product, all equal here.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Emit = Callable[..., None]
GIB = 1024**3
MAYBE = ("fp8", "int8")
"""What not every GPU and torch offers; everything else has to work."""


def versions(_: dict[str, Any], emit: Emit) -> None:
    """What computes here; said before any GPU is touched, so that one that hangs is not taken for a missing torch."""
    nccl = None
    if torch.version.cuda and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    emit(torch=str(torch.__version__), cuda=torch.version.cuda, nccl=nccl, python=platform.python_version())


def rates(spec: dict[str, Any], emit: Emit) -> None:
    """All rates of one device: `cuda` is the first one visible."""
    versions(spec, emit)
    device, seconds = torch.device(spec["device"]), float(spec["seconds"])
    sizes = [int(size) for size in spec.get("sizes") or ((4096, 8192) if device.type == "cuda" else (512,))]
    for name, make in _products(device).items():
        _emit_product(emit, name, make, sizes, seconds, device)
    copied = int(spec.get("copy_bytes") or (2 * GIB if device.type == "cuda" else GIB // 8))
    emit(figure="memory", value=_memory_mb_s(device, copied, seconds), unit="MB/s")
    if device.type == "cuda":
        for name, value in _bus_mb_s(device, copied // 4, seconds).items():
            emit(figure=name, value=value, unit="MB/s")


def per_call_s(call: Callable[[], object], wait: Callable[[], None], seconds: float) -> float:
    """Seconds that one call takes, from about `seconds` of them in a row, after three that do not count."""
    for _ in range(3):
        call()
    wait()
    count = 1
    while True:
        begun = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        took = time.perf_counter() - begun
        if took >= 0.5 * seconds:
            return took / count
        count = max(2 * count, int(count * seconds / max(took, 1e-6)))


def waiter(device: torch.device) -> Callable[[], None]:
    """Returns when the device has done what it was given."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def product(device: torch.device, size: int, dtype: torch.dtype) -> Callable[[], object]:
    """A matrix product into a buffer that is kept."""
    a_MK, b_KN = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    c_MN = torch.empty(size, size, device=device, dtype=dtype)
    return lambda: torch.mm(a_MK, b_KN, out=c_MN)


def _emit_product(
    emit: Emit, name: str, make: Callable[[int], Callable[[], object]], sizes: list[int], seconds: float, device: Any
) -> None:
    best, why = 0.0, None
    for size in sizes:
        try:
            best = max(best, 2 * size**3 / per_call_s(make(size), waiter(device), seconds))
        except (RuntimeError, AttributeError, ValueError, TypeError) as error:
            if name not in MAYBE:
                raise
            # If the device itself broke, all that follows raises too.
            why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if best:
        emit(figure=f"gemm {name}", value=int(best / 1e9), unit="GFLOP/s")
    else:
        emit(figure=f"gemm {name}", value=None, unit="GFLOP/s", why=why)


def _products(device: torch.device) -> dict[str, Callable[[int], Callable[[], object]]]:
    plain = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type != "cuda":
        return {name: _plain(device, dtype, "highest") for name, dtype in plain.items()}
    return {
        "fp32": _plain(device, torch.float32, "highest"),
        "tf32": _plain(device, torch.float32, "high"),
        "fp16": _plain(device, torch.float16, "highest"),
        "bf16": _plain(device, torch.bfloat16, "highest"),
        "fp8": lambda size: _fp8(device, size),
        "int8": lambda size: _int8(device, size),
    }


def _plain(device: torch.device, dtype: torch.dtype, precision: str) -> Callable[[int], Callable[[], object]]:
    def make(size: int) -> Callable[[], object]:
        torch.set_float32_matmul_precision(precision)
        return product(device, size, dtype)

    return make


def _fp8(device: torch.device, size: int) -> Callable[[], object]:
    """Needs compute capability 8.9; the second factor has to lie column by column."""
    a_MK, b_NK = (torch.randn(size, size, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(
        a_MK, b_NK.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _int8(device: torch.device, size: int) -> Callable[[], object]:
    a_MK, b_NK = (torch.randint(-128, 128, (size, size), device=device, dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a_MK, b_NK.t())


def _memory_mb_s(device: torch.device, size: int, seconds: float) -> int:
    """Bytes read and written by a copy within the device's memory."""
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    source, target = _bytes(size, device), _bytes(size, device)
    return int(2 * size / per_call_s(lambda: target.copy_(source), waiter(device), seconds) / 1e6)


def _bus_mb_s(device: torch.device, size: int, seconds: float) -> dict[str, int]:
    """Copies between page-locked host memory and the device."""
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = _bytes(size, device)
    ways = {
        "host to device": lambda: there.copy_(host, non_blocking=True),
        "device to host": lambda: host.copy_(there, non_blocking=True),
    }
    return {name: int(size / per_call_s(copy, waiter(device), seconds) / 1e6) for name, copy in ways.items()}


def _bytes(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, dtype=torch.uint8, device=device)
