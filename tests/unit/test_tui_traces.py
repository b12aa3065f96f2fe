"""The last minutes of a node's load: cells, gaps, nodes that come and go."""

from __future__ import annotations

from agent.api.types import LinkState, NodeStatus, NodeUpdate
from tests.fakes.values import gpu, node, up
from tui.cluster import Cluster, NodeView
from tui.traces import CELL_S, CELLS, Traces


def views(*loads: int | None, link: LinkState = LinkState.UP) -> list[NodeView]:
    cluster = Cluster()
    for number, load in enumerate(loads):
        described = node(f"n{number}", (gpu(0, node=f"n{number}", load=load or 0),))
        status = up(described) if load is not None else NodeStatus(name=f"n{number}", link=link, age_s=99.0)
        cluster.apply(NodeUpdate(status=status), 0.0)
    return cluster.nodes(0.0)


def test_a_cell_is_the_mean_of_its_time_and_the_newest_stands_right() -> None:
    traces = Traces()
    for load, at in ((0, 0.0), (100, 1.0), (100, CELL_S), (100, CELL_S + 1)):
        traces.note(views(load), at)
    assert traces.drawn("n0") == "·" * (CELLS - 2) + "▅█"


def test_a_time_without_a_word_is_a_gap_and_old_cells_fall_off() -> None:
    traces = Traces()
    traces.note(views(100), 0.0)
    traces.note(views(None, link=LinkState.LOST), CELL_S)
    traces.note(views(100), 4 * CELL_S)
    assert traces.drawn("n0").endswith("█···█")
    traces.note(views(0), 100 * CELL_S)
    assert traces.drawn("n0") == "·" * (CELLS - 1) + "▁"


def test_a_node_that_is_gone_is_forgotten() -> None:
    traces = Traces()
    traces.note(views(100, 100), 0.0)
    traces.note(views(100), 1.0)
    assert traces.drawn("n1") == "·" * CELLS == traces.drawn("never")
