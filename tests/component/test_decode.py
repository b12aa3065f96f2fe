"""Reading a kind for the first time from several threads at once: msgspec alone crashes the interpreter there."""

import subprocess
import sys
import textwrap

_READ_BY_FOUR = """
    import sys, threading, types
    from agent.api.decode import convert, decode

    def kinds(depth):
        source = "from __future__ import annotations\\nimport msgspec\\n"
        for n in range(depth):
            source += f"class Kind{n}(msgspec.Struct):\\n"
            source += "".join(f"    field{k}: dict[str, list[int]] | None = None\\n" for k in range(5))
            source += f"    inner: Kind{n - 1} | None = None\\n" if n else ""
        module = types.ModuleType("kinds")
        sys.modules["kinds"] = module
        exec(source, vars(module))
        return module

    def read(kind):
        gate.wait()
        assert decode(b'{"field0":{"x":[1]},"inner":{"field1":null}}', kind).field0 == {"x": [1]}
        assert convert({"inner": {"inner": {"field0": {"y": [2]}}}}, kind).inner.inner.field0 == {"y": [2]}

    sys.setswitchinterval(1e-6)
    for _ in range(60):
        module, gate = kinds(25), threading.Barrier(4)
        readers = [threading.Thread(target=read, args=(getattr(module, f"Kind{n}"),)) for n in (24, 20, 24, 15)]
        for reader in readers: reader.start()
        for reader in readers: reader.join()
    print("read")
"""


def test_threads_may_read_a_kind_for_the_first_time_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(_READ_BY_FOUR)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("read\n", "", 0)
