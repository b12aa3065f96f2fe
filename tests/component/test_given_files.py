"""What a command is given to read is a plain file, `-`, or a pipe with a writer: one without never hangs a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.api.givenfile import NotPlainError, read_given
from licensing import files
from tests.fakes.vendor import EVALUATION_FILE

_PROGRAMS = {
    "stoker-license": "import sys; from agent.__main__ import license_main; sys.exit(license_main())",
    "stoker-agent": "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())",
    "stoker": "import sys; from tui.__main__ import main; sys.exit(main())",
}
_ISSUE = "vendor issue --voucher --customer X --plan yearly --seats 1 --days 9 -o -"
_COMMANDS = [
    "stoker-license activate FIFO",
    "stoker-license import-response FIFO",
    "stoker-license transfer FIFO --yes",
    "stoker-license usage verify FIFO",
    "stoker-license usage verify --licence FIFO x.usage",
    "stoker-license audit verify FIFO",
    "stoker-license --config FIFO status",
    "stoker-license vendor inspect FIFO",
    "stoker-license vendor inspect x.licence --roots FIFO",
    "stoker-license vendor activate FIFO --desk DESK -o -",
    "stoker-license vendor transfer FIFO --desk DESK -o -",
    "stoker-license vendor verify-usage FIFO --desk DESK",
    "stoker-license vendor receipt FIFO --desk DESK -o -",
    f"stoker-license {_ISSUE} --issuer-key FIFO --issuer-cert DESK/issuer.cert",
    f"stoker-license {_ISSUE} --issuer-key DESK/issuer.key --issuer-cert FIFO",
    "stoker-license vendor keys issuer --name x --root-key FIFO -o DESK",
    "stoker-license vendor keys root --name x --encrypt --new-passphrase-file FIFO -o DESK",
    "stoker-agent --config FIFO config check",
    "stoker-agent selftest --order FIFO",
    "stoker-agent selftest --verify FIFO",
    "stoker submit FIFO",
]


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    (tmp_path / "x.licence").write_text(EVALUATION_FILE.read_text())
    return path


def desk(folder: Path) -> Path:
    made = folder / "desk"
    if not made.exists():
        run = ["vendor", "keys", "root", "--name", "R", "-o", str(made)]
        assert typed("stoker-license", *run).returncode == 0
        key = str(made / "R-root-current.key")
        run = ["vendor", "keys", "issuer", "--name", "issuer", "--root-key", key, "-o", str(made)]
        assert typed("stoker-license", *run).returncode == 0
    return made


def typed(program: str, *words: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", _PROGRAMS[program], *words]
    env = os.environ | {"STOKER_SOCKET": "/nonexistent/hub.sock", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(argv, input=text, check=False, capture_output=True, text=True, timeout=60, env=env, cwd=cwd)


@pytest.mark.parametrize("line", _COMMANDS)
def test_a_pipe_without_a_writer_is_refused_at_once_and_named(line: str, fifo: Path, tmp_path: Path) -> None:
    at_desk = desk(tmp_path) if "DESK" in line else tmp_path
    program, *words = (word.replace("FIFO", str(fifo)).replace("DESK", str(at_desk)) for word in line.split())
    done = typed(program, *words, cwd=tmp_path)
    assert done.returncode != 0
    assert str(fifo) in done.stderr, done
    assert any(each in done.stderr for each in ("not a plain file", "not a regular file")), done
    assert "Traceback" not in done.stderr


def test_both_homes_read_to_their_bound_and_refuse_what_is_no_plain_file(tmp_path: Path) -> None:
    """Two, because `licensing` knows nobody."""
    (tmp_path / "file").write_bytes(b"123456789")
    for read in (read_given, files.read_given):
        assert read(tmp_path / "file", 4) == b"12345"
        assert read(tmp_path / "file", 9) == b"123456789"
        for wrong in (Path("/dev/null"), Path("/dev/zero")):
            with pytest.raises(OSError, match="not a plain file"):
                read(wrong, 4)
        with pytest.raises(IsADirectoryError):
            read(tmp_path, 4)
        with pytest.raises(OSError, match="null"):
            read(Path("a\0b"), 4)
    with pytest.raises(NotPlainError):
        read_given(Path("/dev/null"), 4)


def in_bash(words: str) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -c '{_PROGRAMS['stoker-license']}' {words}"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True, timeout=60, env=env)


@pytest.mark.parametrize(
    ("given", "code"), [("<(sleep 0.3; cat FILE)", 0), ("<(true)", 5), ("<(yes | head -c 600000)", 5)]
)
def test_a_pipe_that_somebody_writes_to_is_read_to_its_end(given: str, code: int, fifo: Path) -> None:
    done = in_bash(f"vendor inspect {given.replace('FILE', str(fifo.with_name('x.licence')))}")
    assert (done.returncode, "lic-evaluation" in done.stdout) == (code, code == 0), done
    assert "Traceback" not in done.stderr


def test_a_key_does_not_come_through_a_pipe(tmp_path: Path) -> None:
    done = in_bash(f"vendor keys issuer --name x --root-key <(echo x) -o {tmp_path}/d")
    assert (done.returncode, "not a plain file" in done.stderr) == (5, True), done


def test_a_pipe_whose_writer_never_ends_is_given_up(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIPE_S", 0.2)
    read_end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    try:
        os.write(writer, b"half of it")
        with pytest.raises(TimeoutError, match=r"not all was written within 0\.2 s"):
            files.read_given_or_stdin(fifo, 100)
        os.write(writer, b"more than is read")
        assert files.read_given_or_stdin(fifo, 4) == b"more "
    finally:
        os.close(writer)
        os.close(read_end)


def test_a_paper_is_pasted_to_the_vendor(tmp_path: Path) -> None:
    """`-` is standard input for whatever a site sent; keys and certificates are files."""
    text = EVALUATION_FILE.read_text()
    shown = typed("stoker-license", "vendor", "inspect", "-", text=text, cwd=tmp_path)
    assert (shown.returncode, "lic-evaluation" in shown.stdout) == (0, True), shown
    empty = typed("stoker-license", "vendor", "activate", "-", "--desk", str(desk(tmp_path)), "-o", "-", text="")
    assert empty.returncode == 5
    large = typed("stoker-license", "vendor", "inspect", "-", text="x" * 600_000)
    assert (large.returncode, "standard input is larger than" in large.stderr) == (5, True), large


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_an_editor_or_shell_that_writes_marks_is_read(tmp_path: Path, code: str) -> None:
    (tmp_path / "saved").write_text(EVALUATION_FILE.read_text(), encoding=code, newline="\r\n")
    shown = typed("stoker-license", "vendor", "inspect", "saved", cwd=tmp_path)
    assert (shown.returncode, "lic-evaluation" in shown.stdout) == (0, True), shown
    (tmp_path / "cut").write_bytes(b"\xff\xfe\x00")
    shown = typed("stoker-license", "vendor", "inspect", "cut", cwd=tmp_path)
    assert (shown.returncode, "cut is not text" in shown.stderr) == (5, True), shown
