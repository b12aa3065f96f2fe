"""`stoker-agent metrics`: the page of `GET /metrics` on stdout, or served on this machine's loopback for Prometheus.

Agent and hub listen on no port. Who wants to scrape starts this beside them: a process of its own, with no rights but
its account's, that passes on nothing but pages of metrics.

    /metrics               the agent's page; with --hub the hub's
    /nodes/NAME/metrics    with --hub: that node's page, through the hub
    /targets               all of these, for Prometheus's `http_sd_configs`

Rules kept here: it listens on the loopback alone, for whoever reaches it may read; a page comes whole or not at all;
what is not a page of metrics is not passed on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from agent.api.client import Client
from agent.api.errors import ApiError, StokerError
from agent.api.unix import UnixTransport

TIMEOUT_S = 9.0
"""Below the 10 s after which Prometheus gives up by default."""
PLACES = 16
"""Requests that are answered at a time; more are told to come again."""
_PLAIN = "text/plain; version=0.0.4"


def run(socket: Path, listen: str | None, *, hub: bool) -> int:
    """Print the page, or with `listen` serve until a signal; the exit status.

    Raises:
        StokerError: the service does not answer, or `listen` cannot be listened on.
    """
    address = None if listen is None else _address(listen)
    with Client(UnixTransport(socket), timeout_s=TIMEOUT_S) as client:
        if address is None:
            sys.stdout.write(_page(client, "/metrics", _PLAIN)[1])
            return 0
        try:
            asyncio.run(_serve(_Pages(client, hub=hub).app(), *address))
        except OSError as error:
            why = error.strerror or str(error)
            raise StokerError(f"cannot listen on {listen}: {why}; name another port, or end what uses it") from error
    return 0


class _Pages:
    """The handlers."""

    def __init__(self, client: Client, *, hub: bool) -> None:
        self._client = client
        self._hub = hub
        self._free = PLACES

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._own)
        app.router.add_get("/targets", self._targets)
        if self._hub:
            app.router.add_get("/nodes/{name}/metrics", self._node)
        return app

    async def _own(self, request: web.Request) -> web.Response:
        return await self._answer(request, "/metrics")

    async def _node(self, request: web.Request) -> web.Response:
        name = request.rel_url.raw_path.split("/")[2]  # as it was sent, so that nothing in it can become a path
        return await self._answer(request, f"/v1/nodes/{name}/metrics")

    async def _targets(self, request: web.Request) -> web.Response:
        try:
            names = [each.name for each in await asyncio.to_thread(self._client.nodes)]
        except StokerError as error:
            return _refused(error)
        paths = {f"/nodes/{name}/metrics": name for name in names} | {"/metrics": "hub"}
        if not self._hub:
            paths = {"/metrics": names[0]}
        found = [
            {"targets": [request.host], "labels": {"__metrics_path__": path, "instance": name}}
            for path, name in paths.items()
        ]
        return web.Response(text=json.dumps(found), content_type="application/json")

    async def _answer(self, request: web.Request, path: str) -> web.Response:
        if not self._free:
            return web.Response(status=503, text="too many ask at once; ask less often\n")
        self._free -= 1
        accept = ",".join(request.headers.getall("Accept", []))
        try:
            kind, text = await asyncio.to_thread(_page, self._client, path, accept)
        except StokerError as error:
            return _refused(error)
        finally:
            self._free += 1
        return web.Response(body=text.encode(), headers={"Content-Type": kind, "Vary": "Accept"})


async def _serve(app: web.Application, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=32).start()
        _tell_ready(runner)
        await stop.wait()
    finally:
        await runner.cleanup()


def _tell_ready(runner: web.AppRunner) -> None:
    """Say where, and to a parent that waits (`STOKER_READY_FD`) as well."""
    host, port = runner.addresses[0][:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    print(f"stoker-agent metrics: {where}", file=sys.stderr, flush=True)
    ready_fd = os.environ.pop("STOKER_READY_FD", "")
    if ready_fd.isdecimal():
        os.write(int(ready_fd), f"{where}\n".encode())
        os.close(int(ready_fd))


def _page(client: Client, path: str, accept: str) -> tuple[str, str]:
    """Content type and text.

    Raises:
        StokerError: there is no page, and why.
    """
    answer = client.request_raw("GET", path, headers={"Accept": accept})
    pieces = []
    try:
        while piece := answer.read():
            pieces.append(piece)
    finally:
        answer.close()
    text, kind = b"".join(pieces).decode("utf-8", "replace"), answer.header("Content-Type") or ""
    if answer.status != 200 or not kind.startswith(("text/plain", "application/openmetrics-text")):
        raise ApiError(answer.status, "no_metrics", f"{client.where} has no metrics at {path}: {text[:500]}")
    return kind, text


def _refused(error: StokerError) -> web.Response:
    status = error.status if isinstance(error, ApiError) and error.status >= 400 else 503
    return web.Response(status=status, text=f"{error}\n")


def _address(text: str) -> tuple[str, int]:
    """Host and port of `--listen`.

    Raises:
        StokerError: it is no address of the loopback.
    """
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port) if port.isascii() and port.isdecimal() else -1
    except ValueError:
        raise StokerError(f"--listen {text!r} is no address; write 127.0.0.1:9402 or [::1]:9402") from None
    if not 0 <= number <= 65535:
        raise StokerError(f"--listen {text!r} has no port; write {host}:9402")
    if not address.is_loopback:
        raise StokerError(
            f"--listen {text!r} is not on the loopback, and whoever reached it could read without a login who runs "
            "what; write 127.0.0.1:9402, and put a proxy with TLS and a password before it, or use metrics.textfile"
        )
    return str(address), number
