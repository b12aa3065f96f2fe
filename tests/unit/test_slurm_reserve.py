"""A reservation of several nodes is one: the same name and the same times on all of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agent.api.queue import Reservation, ReservationRequest
from agent.jobs import times
from tui.slurm import ask, reserve

NOW = 1_795_000_000


class Client:
    """Two nodes that hear of it a second apart, and read its times as nodes do."""

    def __init__(self) -> None:
        self.made: dict[str | None, Reservation] = {}

    def reserve(self, request: ReservationRequest, node: str | None) -> Reservation:
        heard = NOW + len(self.made)
        start = times.at(request.start, now=heard)
        end = start + 3600 if request.end is None else times.at(request.end, now=heard)
        name = request.name or f"root_{7 - len(self.made)}"
        self.made[node] = Reservation(name=name, start_at=start, end_at=end)
        return self.made[node]


@pytest.mark.parametrize("end", [{"duration": "60"}, {"endtime": "now+25hours"}, {"endtime": "now+2days"}])
def test_all_nodes_get_the_first_ones_name_and_times(monkeypatch: pytest.MonkeyPatch, end: dict[str, str]) -> None:
    client = Client()
    nodes = [SimpleNamespace(name="n1"), SimpleNamespace(name="n2")]
    queue = SimpleNamespace(client=client, nodes=lambda: nodes)
    monkeypatch.setattr(ask.Queue, "open", lambda _: queue)
    words = {"user": "root", "starttime": "now+1day", "nodes": "n[1-2]", **end}
    asked = ["reservation", *(f"{key}={value}" for key, value in words.items())]
    assert reserve.create(asked, {}) == 0
    assert client.made["n1"] == client.made["n2"]
    assert client.made["n1"].name == "root_7"
