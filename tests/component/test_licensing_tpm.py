"""What a TPM 2.0 is known by, asked of a real one in software; and what a device answers that is none."""

from __future__ import annotations

import hashlib
import os
import pty
import struct
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from licensing import hardware, tpm
from licensing.fingerprint import Kind
from tests.fakes.head import HEAD
from tests.fakes.tpm import AS_MADE, SoftTpm, soft_tpm

CERTIFICATE = bytes(range(256)) * 5 + b"end"


@pytest.fixture
def soft(tmp_path: Path) -> Iterator[SoftTpm]:
    with soft_tpm(tmp_path / "tpm") as made:
        yield made


@pytest.mark.parametrize("index", [0x01C00002, 0x01C0000A, 0x01C0001C])
def test_it_is_known_by_its_makers_certificate(soft: SoftTpm, index: int) -> None:
    soft.persist_key(0x81010001)
    soft.store(index, CERTIFICATE)
    assert tpm.endorsement(soft.root) == hashlib.sha256(CERTIFICATE).hexdigest()
    assert tpm.endorsement(soft.root) == hashlib.sha256(CERTIFICATE).hexdigest()


def test_without_a_certificate_it_is_known_by_its_key(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        with soft_tpm(tmp_path / name) as soft:
            assert tpm.endorsement(soft.root) is None, "what was never provisioned cannot be told from another"
            soft.persist_key(0x81010001)
            found += [tpm.endorsement(soft.root), tpm.endorsement(soft.root)]
    assert found[0] == found[1] is not None
    assert found[2] == found[3] is not None
    assert found[0] != found[2]


def test_a_certificate_that_only_the_owner_reads_is_read_as_the_owner(soft: SoftTpm) -> None:
    soft.store(0x01C00002, CERTIFICATE, AS_MADE & ~(1 << 18))
    assert tpm.endorsement(soft.root) == hashlib.sha256(CERTIFICATE).hexdigest()


def test_an_index_that_nothing_was_written_to_is_passed_over(soft: SoftTpm) -> None:
    soft.store(0x01C00002, b"")
    soft.store(0x01C0000A, CERTIFICATE)
    assert tpm.endorsement(soft.root) == hashlib.sha256(CERTIFICATE).hexdigest()


@pytest.mark.parametrize("code", [0x921, 0x90A, 0x922], ids=["locked out", "testing", "retry"])
def test_one_that_cannot_answer_now_is_not_taken_for_another(
    tmp_path: Path, soft: SoftTpm, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Its certificate is refused for a moment: its key alone would be a mark that was never enrolled."""
    soft.persist_key(0x81010001)
    soft.store(0x01C00002, CERTIFICATE)

    def busy(command: bytes) -> bytes:
        reads = command[6:10] == bytes.fromhex("0000014e")
        return struct.pack(">HII", 0x8001, 10, code) if reads else soft.ask(command)

    slave = _device(tmp_path, busy)
    with pytest.raises(tpm.TpmError, match=f"cannot answer now .*{code:x}"):
        tpm.endorsement(tmp_path)
    HEAD.build(tmp_path)
    kinds = [kind for kind, _ in hardware.Reader(tmp_path).read()]
    assert Kind.UUID in kinds
    assert Kind.TPM not in kinds
    os.close(slave)


def test_it_is_a_mark_of_the_platform(soft: SoftTpm) -> None:
    soft.store(0x01C00002, CERTIFICATE)
    HEAD.build(soft.root)
    marks = hardware.Reader(soft.root).read()
    assert (Kind.TPM, hashlib.sha256(CERTIFICATE).hexdigest()) in marks
    assert (Kind.UUID, HEAD.uuid) in [(kind, value.strip()) for kind, value in marks]


# --- what is no TPM ---


def _device(root: Path, answer: Callable[[bytes], bytes]) -> int:
    """A terminal in the place of the TPM; gives its other end."""
    ours, slave = pty.openpty()
    tty.setraw(slave)
    (root / "dev").mkdir(parents=True)
    (root / tpm.DEVICE).symlink_to(os.ttyname(slave))

    def serve() -> None:
        try:
            while command := os.read(ours, 4096):
                os.write(ours, answer(command))
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    return slave


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x80\x01\x00\x00\x00\x05\x00\x00\x00\x00", id="shorter than its header"),
        pytest.param(b"\x80\x01\x00\x00\x00\x0b\x00\x00\x00\x00ab", id="longer than it says"),
        pytest.param(b"\x80\x01\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x2e", id="cut short inside"),
        pytest.param(b"\x80\x01\x00\x00\x00\x20\x00\x00\x00\x00" + b"\xff" * 22, id="sizes that lead out of it"),
        pytest.param(b"garbage that is longer than the header of an answer", id="garbage"),
        pytest.param(b"", id="silence"),
    ],
)
def test_what_answers_as_no_tpm_does_is_told_and_the_other_marks_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    monkeypatch.setattr(tpm, "TIMEOUT_S", 0.05)
    slave = _device(tmp_path, lambda _: answer)
    with pytest.raises(tpm.TpmError):
        tpm.endorsement(tmp_path)
    HEAD.build(tmp_path)
    assert (Kind.UUID, HEAD.uuid) in [(kind, value.strip()) for kind, value in hardware.Reader(tmp_path).read()]
    assert "TPM" in caplog.text
    os.close(slave)


def test_what_is_no_device_is_not_asked(tmp_path: Path) -> None:
    assert tpm.endorsement(tmp_path) is None
    path = tmp_path / tpm.DEVICE
    path.parent.mkdir()
    path.write_bytes(b"x")
    assert tpm.endorsement(tmp_path) is None
    assert path.read_bytes() == b"x"
    path.unlink()
    os.mkfifo(path)
    assert tpm.endorsement(tmp_path) is None
    assert tpm.endorsement(Path("/nonexistent\0")) is None
