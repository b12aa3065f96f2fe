"""The history's files: what is kept, for how long, and through which faults."""

import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.telemetry import GPU_METRICS
from agent.telemetry.bucket import Spread
from agent.telemetry.lookback import choose_tier, choose_width, look_back
from agent.telemetry.ringfile import TIERS, RingFile, RingFileError, Tier, file_bytes, row_bytes

METRICS = ("power_w", "temperature_c", "fan_percent")
SMALL = (Tier(width_s=1, rows=128), Tier(width_s=10, rows=128), Tier(width_s=60, rows=128), Tier(width_s=600, rows=128))
T0 = 1_800_000_000
"""A multiple of every width."""


def opened(path: Path, boot_id: str = "boot-1", metrics: tuple[str, ...] = METRICS) -> RingFile:
    return RingFile.open(path, metrics, boot_id, SMALL)


def steady(value: float) -> list[Spread | None]:
    return [(value - 1, value, value + 2), (value, value, value), None]


def stored(ring: RingFile, metric: str, since: int, until: int, points: int) -> list[Spread | None]:
    return look_back(ring, metric, since=since, until=until, points=points, now=until).spreads


def test_what_was_noted_is_told_second_by_second(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    for second in range(60):
        ring.add(T0 + second + 0.25, steady(float(second)))
    found = look_back(ring, "power_w", since=T0, until=T0 + 60, points=60, now=T0 + 59)
    assert (found.width_s, found.begin) == (1, T0)
    assert found.spreads == [(n - 1.0, float(n), n + 2.0) for n in range(60)]


def test_coarser_buckets_keep_the_least_the_mean_and_the_most(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    for second in range(1200):
        ring.add(T0 + second, steady(float(second)))
    ring.sync()
    assert stored(ring, "power_w", T0, T0 + 1200, 2) == [(-1.0, 299.5, 601.0), (599.0, 899.5, 1201.0)]


def test_a_gap_stays_a_gap_and_an_absent_metric_absent(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    for second in [*range(5), *range(8, 10)]:
        ring.add(T0 + second, steady(1.0))
    told = stored(ring, "power_w", T0, T0 + 10, 10)
    assert [spread is None for spread in told] == [False] * 5 + [True] * 3 + [False] * 2
    assert stored(ring, "fan_percent", T0, T0 + 10, 10) == [None] * 10


def test_the_lap_before_is_not_told_as_this_one(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    ring.add(T0, steady(5.0))
    ring.add(T0 + 10, steady(6.0))
    assert stored(ring, "power_w", T0 + 127, T0 + 137, 10)[1] is None  # where T0's row lies


def test_the_open_buckets_go_on_after_a_restart(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    for second in range(30):
        ring.add(T0 + second, steady(10.0))
    ring.close()
    ring = opened(tmp_path / "g.ring")
    for second in range(30, 60):
        ring.add(T0 + second, steady(20.0))
    ring.sync()
    assert stored(ring, "power_w", T0, T0 + 60, 1) == [(9.0, 15.0, 22.0)]


def test_a_clock_that_is_set_back_adds_to_what_was_there(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    ring.add(T0 + 50, steady(10.0))
    ring.add(T0, steady(30.0))
    ring.add(T0 + 50, steady(20.0))
    ring.sync()
    assert stored(ring, "power_w", T0 + 50, T0 + 51, 1) == [(9.0, 15.0, 22.0)]


def test_the_size_is_the_stated_one_from_its_making_on(tmp_path: Path) -> None:
    path = tmp_path / "g.ring"
    ring = opened(path)
    before = path.stat()
    assert before.st_size == file_bytes(len(METRICS), SMALL)
    assert before.st_blocks * 512 >= before.st_size, "no hole is left that a full disk could refuse"
    for lap in range(400):
        ring.add(T0 + 7 * lap, steady(1.0))
    assert path.stat().st_size == before.st_size
    assert file_bytes(len(GPU_METRICS)) < 30_000_000, "thirty megabytes a GPU for a year"
    assert row_bytes(len(GPU_METRICS)) == 256
    assert all(tier.rows * 256 % 4096 == 0 for tier in TIERS)


def test_rows_torn_by_a_power_cut_are_gaps_after_it(tmp_path: Path) -> None:
    """Simulated: bytes are changed in the file, as blocks that reached the disk in part would be."""
    path = tmp_path / "g.ring"
    ring = opened(path)
    for second in range(20):
        ring.add(T0 + second, steady(5.0))
    ring.close()
    place = 4096 + (T0 + 7) % 128 * row_bytes(len(METRICS))
    with path.open("r+b") as file:
        file.seek(place + 16)
        file.write(b"\xff" * 8)
    ring = opened(path, boot_id="boot-2")
    told = stored(ring, "power_w", T0, T0 + 20, 20)
    assert [n for n, spread in enumerate(told) if spread is None] == [7]


def test_a_file_that_makes_no_sense_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "g.ring"
    path.write_bytes(os.urandom(9000))
    ring = opened(path)
    ring.add(T0, steady(1.0))
    assert (tmp_path / "g.ring.damaged").stat().st_size == 9000
    assert RingFile.metrics_of(path) == METRICS


@pytest.mark.parametrize("size", [0, 100, 4096, 5000])
def test_a_file_cut_short_is_made_anew_and_keeps_what_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "g.ring"
    opened(path).close()
    os.truncate(path, size)
    ring = opened(path)
    ring.add(T0, steady(1.0))
    assert path.stat().st_size == file_bytes(len(METRICS), SMALL)
    assert stored(ring, "power_w", T0, T0 + 1, 1) == [(0.0, 1.0, 3.0)]


def test_another_versions_metrics_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "g.ring"
    ring = opened(path)
    for second in range(600):
        ring.add(T0 + second, steady(5.0))
    ring.close()
    newer = opened(path, metrics=("clock_mhz", "power_w"))
    assert stored(newer, "power_w", T0 + 590, T0 + 600, 10) == [(4.0, 5.0, 7.0)] * 10
    assert stored(newer, "power_w", T0, T0 + 600, 10)[:9] == [(4.0, 5.0, 7.0)] * 9
    assert stored(newer, "clock_mhz", T0, T0 + 600, 10) == [None] * 10


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "g.ring").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RingFileError, match=r"g\.ring cannot be opened: .*; see its disk"):
        opened(tmp_path / "g.ring")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


_REFUSED = """
import resource, sys
from pathlib import Path
from tests.component.test_telemetry_ring import T0, opened, steady

ring = opened(Path(sys.argv[1]))
refused = 0
# No byte beyond the two finest rings is written: EFBIG, by the kernel, as a disk that is full says ENOSPC.
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
for second in range(180):
    if second in (65, 85):
        resource.setrlimit(resource.RLIMIT_FSIZE, (ring._places[2] if second == 65 else limits[0], limits[1]))
    try:
        ring.add(T0 + second, steady(float(second)))
    except OSError:
        refused += 1
ring.close()
print(refused)
"""


def test_what_a_disk_refuses_to_the_coarse_rings_they_get_later(tmp_path: Path) -> None:
    """It refuses when the first minute is full and is to be written, for fifteen seconds: no second is lost, none comes
    twice.
    """
    path = tmp_path / "g.ring"
    done = subprocess.run([sys.executable, "-c", _REFUSED, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "15\n", "")
    ring = opened(path)
    minutes = ring.columns(2, "power_w", T0 // 60, T0 // 60 + 2)
    assert list(minutes.seconds) == [60, 60, 60]
    assert (list(minutes.least), list(minutes.most)) == ([-1, 59, 119], [61, 121, 181])
    (year,) = ring.columns(3, "power_w", T0 // 600, T0 // 600).seconds
    assert year == 180


_WRITER = """
import sys
from pathlib import Path
from agent.telemetry.ringfile import RingFile, Tier
rows = [Tier(width_s=width, rows=128) for width in (1, 10, 60, 600)]
ring = RingFile.open(Path(sys.argv[1]), ("power_w", "temperature_c", "fan_percent"), "boot-1", rows)
second = int(sys.argv[2])
print("open", flush=True)
while True:
    ring.add(second, [(second % 100, second % 100 + 1, second % 100 + 2)] * 3)
    second += 1
"""


def test_kill_9_in_the_middle_leaves_every_row_old_or_new(tmp_path: Path) -> None:
    path, chance = tmp_path / "g.ring", random.Random(7)
    for round_ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(T0 + 10_000 * round_)], stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(timeout=chance.uniform(0.0, 0.05))  # the random moment is the point
            child.send_signal(signal.SIGKILL)
    ring = opened(path)
    for index, tier in enumerate(SMALL):
        columns = ring.columns(index, "power_w", 0, tier.rows - 1)
        for number, seconds, least, mean, most in zip(
            columns.numbers, columns.seconds, columns.least, columns.mean, columns.most, strict=True
        ):
            assert seconds == 0 or (least <= mean <= most and number * tier.width_s >= T0)
            assert index > 0 or seconds == 0 or mean == number % 100 + 1
    assert not ring.torn()


spans = st.integers(1, 366 * 86400)


@settings(max_examples=300)
@given(span=spans, ago=st.integers(0, 86400), points=st.integers(1, 2000))
def test_never_more_buckets_than_asked_for(span: int, ago: int, points: int) -> None:
    now = T0 + 12345
    until = now - ago
    since = until - span
    tier = TIERS[choose_tier(TIERS, since=since, until=until, points=points, now=now)]
    width_s = choose_width(tier.width_s, since=since, until=until, points=points)
    assert width_s % tier.width_s == 0
    count = -(-until // width_s) - since // width_s
    assert 1 <= count <= points or points == 1


@settings(max_examples=50)
@given(
    seconds=st.lists(st.integers(0, 300), min_size=1, max_size=60, unique=True),
    since=st.integers(-20, 300),
    span=st.integers(1, 400),
    points=st.integers(1, 50),
)
def test_what_is_told_is_what_a_plain_sum_tells(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], since: int, span: int, points: int
) -> None:
    ring = RingFile.open(
        tmp_path_factory.mktemp("ring") / "g.ring", ("v",), "b", (Tier(width_s=1, rows=4096), *SMALL[1:])
    )
    value = {second: math.floor(math.sin(second) * 100) for second in sorted(seconds)}
    for second, it in value.items():
        ring.add(T0 + second, [(it - 1.0, float(it), it + 1.0)])
    begin, end = T0 + since, T0 + since + span
    found = look_back(ring, "v", since=begin, until=end, points=points, now=T0 + 1000)
    ring.close()
    for at, spread in enumerate(found.spreads):
        first = found.begin + at * found.width_s - T0
        within = [it for second, it in value.items() if first <= second < first + found.width_s]
        if found.width_s < 10 or len(within) == 0:
            assert (spread is None) == (not within)
        if spread is not None and within and found.width_s < 10:
            assert spread == pytest.approx((min(within) - 1, sum(within) / len(within), max(within) + 1))


steps = st.tuples(st.integers(-40, 90), st.sampled_from([0.25, 1.0]), st.integers(-50, 50), st.sampled_from("...so"))


@settings(max_examples=60)
@given(steps=st.lists(steps, min_size=1, max_size=60))
def test_every_ring_holds_what_a_plain_sum_tells_whatever_clock_and_restarts_do(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float, int, str]]
) -> None:
    path, tiers = (
        tmp_path_factory.mktemp("ring") / "g.ring",
        tuple(Tier(width_s=w, rows=8192) for w in (1, 10, 60, 600)),
    )
    ring = RingFile.open(path, ("v", "absent"), "b", tiers)
    at, noted = T0, list[tuple[int, float, int]]()
    for step, seconds, value, then in steps:
        at += step
        ring.add(at + 0.5, [(value - 1.0, float(value), value + 2.0), None], seconds)
        noted.append((at, seconds, value))
        if then == "s":
            ring.sync()
        elif then == "o":
            ring.close()
            ring = RingFile.open(path, ("v", "absent"), "b", tiers)
    ring.sync()
    for index, tier in enumerate(tiers):
        for number in {at // tier.width_s for at, _, _ in noted}:
            within = [(seconds, value) for at, seconds, value in noted if at // tier.width_s == number]
            total = sum(seconds for seconds, _ in within)
            found = ring.columns(index, "v", number, number)
            assert (found.numbers[0], found.seconds[0]) == (number, total)
            values = [value for _, value in within]
            assert (found.least[0], found.most[0]) == (min(values) - 1, max(values) + 2)
            assert found.mean[0] == pytest.approx(sum(s * v for s, v in within) / total, abs=1e-3)
            assert math.isnan(ring.columns(index, "absent", number, number).mean[0])
    assert not ring.torn()
    ring.close()


def test_a_metric_that_comes_and_goes_has_its_own_weight_in_every_ring(tmp_path: Path) -> None:
    ring = opened(tmp_path / "g.ring")
    for second in range(600):
        is_there = second % 60 < 15
        ring.add(T0 + second, [(1.0, 4.0 if second < 300 else 8.0, 9.0) if is_there else None, (2.0, 3.0, 4.0), None])
    ring.sync()
    for index, spread in ((1, (1.0, 4.0, 9.0)), (2, (1.0, 4.0, 9.0)), (3, (1.0, 6.0, 9.0))):
        found = ring.columns(index, "power_w", T0 // SMALL[index].width_s, T0 // SMALL[index].width_s)
        assert (found.least[0], found.mean[0], found.most[0]) == spread
        assert ring.columns(index, "temperature_c", T0 // SMALL[index].width_s, T0 // SMALL[index].width_s).mean[0] == 3
    ring.close()
