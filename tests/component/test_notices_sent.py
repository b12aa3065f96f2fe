"""Notices that go to a URL, and what cannot be reached, against real servers."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config import HooksTable
from agent.engine import courier, message
from tests.fakes.notices import job


@pytest.mark.parametrize("scheme", ["unix", "http"])
def test_the_url_is_posted_to(tmp_path: Path, scheme: str) -> None:
    got: list[dict[str, Any]] = []
    answers = [500, 302, 204]

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        status = answers.pop(0)
        return web.Response(status=status, text="try later" if status == 500 else "", headers={"Location": "/"})

    async def act() -> None:
        app = web.Application()
        app.router.add_post("/", take)
        runner = web.AppRunner(app)
        await runner.setup()
        socket = Path(f"/tmp/stk-notice-{os.getpid()}.sock")
        site = web.UnixSite(runner, str(socket)) if scheme == "unix" else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"unix://{socket}" if scheme == "unix" else f"http://127.0.0.1:{runner.addresses[0][1]}/"
        hooks, made = HooksTable(notify_url=url, timeout_s=5), message.of_job(job(1), "END", 0)
        try:
            with pytest.raises(courier.DeliveryError, match="answered 500: try later"):
                await courier.send(hooks, made.body("lab"), made)
            with pytest.raises(courier.DeliveryError, match="answered 302"):
                await courier.send(hooks, made.body("lab"), made)
            await courier.send(hooks, made.body("lab"), made)
        finally:
            await runner.cleanup()
            socket.unlink(missing_ok=True)

    asyncio.run(act())
    assert [each["event"] for each in got] == ["END"] * 3


def _certificate(folder: Path) -> ssl.SSLContext:
    """A server's of 127.0.0.1, which vouches for itself: in `folder / "cert.pem"`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


_POST = """
import asyncio, sys
from agent.daemon import _import_web
_import_web()
from agent.config import HooksTable
from agent.engine import courier, message
from tests.component.test_notices import job
made = message.of_job(job(1), "END", 0)
try:
    asyncio.run(courier.send(HooksTable(notify_url=sys.argv[1], timeout_s=20), made.body("lab"), made))
except courier.DeliveryError as error:
    sys.exit(str(error))
"""


def test_an_https_url_is_posted_to_where_the_machine_trusts_it_and_else_not(tmp_path: Path) -> None:
    """In a process that imported aiohttp as the agent does: without the machine's certificates."""
    got: list[str] = []

    async def take(request: web.Request) -> web.Response:
        got.append((await request.json())["event"])
        return web.Response()

    async def post(url: str, **trusted: str) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _POST, url, stderr=subprocess.PIPE, env={**os.environ, **trusted}
        )
        _, said = await child.communicate()
        return child.returncode, said.decode()

    async def act() -> None:
        app = web.Application()
        app.router.add_post("/", take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_certificate(tmp_path)).start()
        try:
            url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
            status, said = await post(url)
            assert status == 1
            assert "certificate" in said.lower()
            assert await post(url, SSL_CERT_FILE=str(tmp_path / "cert.pem")) == (0, "")
        finally:
            await runner.cleanup()

    asyncio.run(act())
    assert got == ["END"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "unix:///no/such.sock", "http://no-such-host.invalid/"])
def test_a_url_that_is_not_there_says_so(url: str) -> None:
    made = message.of_job(job(1), "END", 0)
    with pytest.raises(courier.DeliveryError, match=url.split("/")[-2] if "http" in url else "no/such.sock"):
        asyncio.run(courier.send(HooksTable(notify_url=url, timeout_s=5), made.body("lab"), made))


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    made = message.of_job(job(1), "END", 0)
    with pytest.raises(courier.DeliveryError, match="cannot run /no/such: No such file"):
        asyncio.run(courier.send(HooksTable(notify_command=Path("/no/such")), made.body("lab"), made))
