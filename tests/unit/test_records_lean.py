"""The shim's cheap stand-ins for the standard library, held against the real thing, with and without their C halves."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import lean
from agent.engine.order import Order
from agent.engine.records import AttemptDir, Claim, Exit, RecordError

HOUSE = Path(lean.__file__).parents[2]

texts = st.text(st.characters(exclude_categories=[], exclude_characters=""))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_parse_json_agrees_with_json(value: object) -> None:
    assert lean.parse_json(json.dumps(value).encode() + b"\n") == value


@given(st.binary(max_size=40))
def test_parse_json_refuses_what_json_refuses(data: bytes) -> None:
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with pytest.raises(ValueError):
            lean.parse_json(data)
    else:
        got = lean.parse_json(data)
        assert got == expected or (isinstance(got, float) and math.isnan(got))


@pytest.mark.parametrize(
    "text", ["", "{", "[1 2]", '{"a": 1} x', "{'a': 1}", '"\n"', "[1,]", "nul", '{"a"', "\ufeff1", "\v0", "0\xa0"]
)
def test_parse_json_says_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        lean.parse_json(text.encode())


@given(
    st.dictionaries(
        texts, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
    )
)
def test_to_json_is_json(fields: dict[str, str | int | float | bool | None]) -> None:
    assert json.loads(lean.to_json(fields)) == fields


def test_without_the_private_modules_everything_still_works(tmp_path: Path) -> None:
    """Another interpreter has no `_json`, `_signal`, `_ctypes.dlopen`: the public modules do."""
    code = (
        "import sys\n"
        "import json, signal, ctypes\n"
        f"sys.path.append({str(HOUSE)!r})\n"
        "sys.modules['_json'] = sys.modules['_signal'] = sys.modules['_ctypes'] = None\n"
        "from agent.engine import lean\n"
        "assert lean.parse_json(b'{\"a\": [1, null]}') == {'a': [1, None]}\n"
        "assert lean.to_json({'a': '\\u00e9', 'b': True}) == b'{\"a\": \"\\\\u00e9\", \"b\": true}\\n'\n"
        "assert int(lean.signal.SIGTERM) == 15\n"
        "lean.become_subreaper()\n"
        "answer = ctypes.c_int()\n"
        "ctypes.CDLL(None).prctl(37, ctypes.byref(answer), 0, 0, 0)\n"
        "assert answer.value == 1\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


# --- claims -----------------------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
raw_words = st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
names = words.filter(lambda name: bool(name) and "=" not in name)


@given(
    st.lists(words | raw_words, max_size=5),
    st.dictionaries(names, words | raw_words, max_size=5),
    st.none() | st.integers(0, 10**9),
)
def test_what_the_agent_claims_is_what_the_shim_reads(
    tmp_path_factory: pytest.TempPathFactory, args: list[str], env: dict[str, str], limit_s: int | None
) -> None:
    attempt = AttemptDir(tmp_path_factory.mktemp("state") / "jobs" / "1" / "1")
    claim = Claim(argv=("/bin/true", *args), env=env, work_dir="/tmp", time_limit_s=limit_s)
    attempt.create(claim)
    record = lean.parse_json((attempt.path / "claim").read_bytes())
    assert isinstance(record, dict)
    order = Order(record)
    assert order.program.argv[1:] == [each.encode("utf-8", "surrogateescape") for each in args]
    assert order.program.env == {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape") for name, value in env.items()
    }
    assert order.limit_s == limit_s
    assert attempt.read_claim() == claim


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"argv": ()}, "absolute path"),
        ({"argv": ("true",)}, "absolute path"),
        ({"argv": ("/bin/true", "a\0b")}, "NUL"),
        ({"argv": ("/bin/true", "\ud800")}, "no bytes"),
        ({"env": {"A": "x\0y"}}, "NUL"),
        ({"env": {"A=B": "x"}}, "odd name"),
        ({"env": {"": "x"}}, "odd name"),
        ({"work_dir": "here"}, "not absolute"),
        ({"output_path": "out"}, "not absolute"),
        ({"error_path": "err"}, "not absolute"),
        ({"uid": 5}, "uid"),
        ({"grace_s": -1.0}, "negative"),
        ({"time_limit_s": -1}, "negative"),
        ({"log_tail_bytes": -1}, "negative"),
    ],
)
def test_row_54_a_claim_that_no_process_can_be_given_is_refused_before_it_is_stored(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    attempt = AttemptDir(tmp_path / "jobs" / "1" / "1")
    fields: dict[str, object] = {"argv": ("/bin/true",), "env": {}, "work_dir": "/"}
    with pytest.raises(RecordError, match=said):
        attempt.create(Claim(**{**fields, **change}))  # type: ignore[arg-type]
    assert not attempt.path.exists()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(0, 255), st.floats(0, 1e9))
def test_an_exit_record_of_the_shim_is_read_by_the_agent(
    tmp_path_factory: pytest.TempPathFactory, detail: str, code: int, run_s: float
) -> None:
    attempt = AttemptDir(tmp_path_factory.mktemp("attempt"))
    fields: dict[str, str | int | float | bool | None] = {
        "code": code,
        "signal": None,
        "why": None,
        "detail": detail,
        "ended_at": 1,
        "run_s": run_s,
        "oom": False,
        "swept": 0,
        "log_bytes": 0,
    }
    (attempt.path / "exit").write_bytes(lean.to_json(fields))
    assert attempt.read_exit() == Exit(**fields)  # type: ignore[arg-type]
