"""A real TPM 2.0 in software (swtpm, of libtpms) behind a character device; what a maker puts into one."""

from __future__ import annotations

import os
import pty
import shutil
import socket
import struct
import subprocess
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from licensing import tpm
from tests.fakes.daemons import wait_until

_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
_PLATFORM, _OWNER, _ENDORSEMENT = 0x4000000C, 0x40000001, 0x4000000B
AS_MADE = 1 << 0 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 30
"""A maker's index: written by the platform, read by everybody, never locked out."""
_ECC_KEY = bytes.fromhex(
    "0023000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100003001000200000"
)
"""The endorsement key's template of the TCG for NIST P-256, up to its point, which is left to the TPM."""


class SoftTpm:
    """One that was started; `root` is a machine's root with its device."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("swtpm")
        if program is None:
            pytest.skip("no swtpm; install swtpm")
        self.root = folder / "root"
        where, state = folder / "tpm.sock", folder / "state"
        state.mkdir(parents=True)
        self._process = subprocess.Popen(
            [program, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={where}",
             "--flags", "not-need-init,startup-clear"],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(where.exists, "it listens")
        self._link = socket.socket(socket.AF_UNIX)
        self._link.connect(str(where))
        self._device, slave = pty.openpty()
        tty.setraw(slave)
        self._kept = slave
        (self.root / "dev").mkdir(parents=True)
        (self.root / tpm.DEVICE).symlink_to(os.ttyname(slave))
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        """Between the device and the TPM, a command and its answer at a time, the answer in two parts."""
        try:
            while command := os.read(self._device, 4096):
                answer = self.ask(command)
                os.write(self._device, answer[:7])
                os.write(self._device, answer[7:])
        except OSError:
            return

    def ask(self, command: bytes) -> bytes:
        """What it answers."""
        self._link.sendall(command)
        return self._link.recv(4096)

    def run(self, code: int, handles: tuple[int, ...], words: bytes) -> bytes:
        """A command by an empty password, which must be taken; what is behind the header of the answer."""
        body = struct.pack(f">{len(handles)}I", *handles) + _PASSWORD + words
        answer = self.ask(struct.pack(">HII", 0x8002, 10 + len(body), code) + body)
        assert struct.unpack_from(">I", answer, 6) == (0,), answer.hex()
        return answer[10:]

    def store(self, index: int, content: bytes, attributes: int = AS_MADE) -> None:
        """Put a certificate at an NV index, as the maker does."""
        public = struct.pack(">IHIHH", index, 0x000B, attributes, 0, len(content))
        self.run(0x12A, (_PLATFORM,), struct.pack(">HH", 0, len(public)) + public)
        for at in range(0, len(content), 512):
            part = content[at : at + 512]
            self.run(0x137, (_PLATFORM, index), struct.pack(">H", len(part)) + part + struct.pack(">H", at))

    def persist_key(self, handle: int) -> None:
        """Make the endorsement key and keep it at a handle."""
        public = _ECC_KEY[:-4] + struct.pack(">H32xH32x", 32, 32)
        made = self.run(0x131, (_ENDORSEMENT,), struct.pack(">HI", 4, 0) + struct.pack(">H", len(public)) + public
                        + struct.pack(">HI", 0, 0))  # fmt: skip
        (key,) = struct.unpack_from(">I", made)
        self.run(0x120, (_OWNER, key), struct.pack(">I", handle))

    def close(self) -> None:
        """End it."""
        self._link.close()
        self._process.terminate()
        self._process.wait(60)
        os.close(self._kept)
        os.close(self._device)


@contextmanager
def soft_tpm(folder: Path) -> Iterator[SoftTpm]:
    """A TPM of this folder; started again in it, it is the same one."""
    made = SoftTpm(folder)
    try:
        yield made
    finally:
        made.close()
