"""`GET /v1/history`: one metric of a GPU or of the node over a time, in at most so many buckets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from agent.api.errors import ApiError
from agent.api.program import meant
from agent.api.telemetry import GPU_METRICS, HOST, HOST_METRICS, MAX_POINTS, MetricHistory
from agent.server.base import json_response, query_int, query_one, shown
from agent.telemetry.lookback import Lookback

if TYPE_CHECKING:
    from agent.gpu.sampler import Sampler
    from agent.telemetry.history import History

_POINTS = 300
_SINCE_S = 3600
_LAST_MOMENT = 2**32 - 1


class HistoryRoutes:
    """The handler."""

    def __init__(self, node: str, *, history: History | None, sampler: Sampler) -> None:
        self._node = node
        self._history = history
        self._sampler = sampler

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the address below `root`."""
        router.add_get(f"{root}/history", self._look_back)

    async def _look_back(self, request: web.Request) -> web.Response:
        """`?metric=&gpu=&from=&to=&points=`: `gpu` an index, a UUID, or absent for the node; times are Unix seconds."""
        if self._history is None:
            sentence = f'{self._node} keeps no history: telemetry.history is "off" in its configuration'
            raise ApiError(404, "no_history", sentence)
        now = int(time.time())
        series = self._series(query_one(request, "gpu"), self._history)
        known = HOST_METRICS if series == HOST else GPU_METRICS
        metric = _metric(query_one(request, "metric"), known)
        until = _bounded(request, "to", now, _LAST_MOMENT)
        since = _bounded(request, "from", max(0, until - _SINCE_S), _LAST_MOMENT, least=0)
        points = _bounded(request, "points", _POINTS, MAX_POINTS)
        if since >= until:
            raise ApiError(400, "bad_query", f"from={since} is not before to={until}", "from")
        try:
            found = await self._history.look_back(series, metric, since=since, until=until, points=points, now=now)
        except OSError as error:
            raise ApiError(
                503, "disk", f"the history cannot be read: {error.strerror}; see the state's disk"
            ) from error
        return json_response(self._told(series, metric, known[metric], found, since))

    def _series(self, gpu: str | None, history: History) -> str:
        """The series that is meant.

        Raises:
            ApiError: 404, with what there is.
        """
        if gpu is None or gpu == HOST:
            return HOST
        readings = [reading for reading, _ in self._sampler.view().gpus]
        found = next((each.uuid for each in readings if gpu in (each.uuid, str(each.index))), None)
        if found is None and gpu in history.series():
            return gpu  # one that is gone has a past all the same
        if found is None:
            there = ", ".join(str(each.index) for each in readings) or "none"
            raise ApiError(404, "no_such_gpu", f"{self._node} has no GPU {shown(gpu)}; its GPUs: {there}", "gpu")
        return found

    def _told(self, series: str, metric: str, unit: str, found: Lookback | None, since: int) -> MetricHistory:
        spreads = found.spreads if found is not None else []
        return MetricHistory(
            node=self._node,
            series=series,
            metric=metric,
            unit=unit,
            begin=found.begin if found is not None else since,
            width_s=found.width_s if found is not None else 1,
            least=tuple(None if spread is None else spread[0] for spread in spreads),
            mean=tuple(None if spread is None else spread[1] for spread in spreads),
            most=tuple(None if spread is None else spread[2] for spread in spreads),
        )


def _metric(asked: str | None, known: Mapping[str, str]) -> str:
    if asked is None or asked not in known:
        what = "metric is missing" if asked is None else f"there is no metric {shown(asked)}"
        hint = "" if asked is None else meant(asked, known)
        raise ApiError(
            400, "bad_query", f"{what}{f'{hint} Known' if hint else '; known'}: {', '.join(known)}", "metric"
        )
    return asked


def _bounded(request: web.Request, name: str, default: int, most: int, *, least: int = 1) -> int:
    value = query_int(request, name, default, least=least)
    if value is None or value > most:
        raise ApiError(400, "bad_query", f"{name}={shown(request.query[name])} is more than {most}", name)
    return value
