"""A real Prometheus scrapes a real agent and hub: through `stoker-agent metrics`, over nothing but the loopback."""

from __future__ import annotations

import http.client
import os
import select
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from tests.fakes.daemons import Box, box, wait_until
from tests.fakes.openmetrics import parsed
from tests.fakes.prometheus import DATA, Server, promtool, read_by_node_exporter, server
from tests.unit.test_monitoring import expressions, known, metrics_in

pytestmark = pytest.mark.xdist_group("prometheus")

PROGRAM = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
HOSTILE = 'x"} 1 # {evil="2"} \\n\\'


@contextmanager
def exporter(lab: Box, *words: str) -> Iterator[str]:
    """`stoker-agent metrics --listen` on a free port; the address that it told."""
    read_fd, write_fd = os.pipe()
    command = [sys.executable, "-c", PROGRAM, "--config", str(lab.config), "metrics", "--listen", "127.0.0.1:0", *words]
    process = subprocess.Popen(
        command, pass_fds=[write_fd], env={**os.environ, "STOKER_READY_FD": str(write_fd)}, stderr=subprocess.DEVNULL
    )
    os.close(write_fd)
    try:
        assert select.select([read_fd], [], [], 60)[0]
        yield os.read(read_fd, 200).decode().strip().removesuffix("/metrics")
    finally:
        os.close(read_fd)
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("scrape")
    with box(folder, gpus=4, more=f'[metrics]\ntextfile = "{folder}/stoker.prom"\ninterval_s = 1\n') as made:
        with made.agent.client() as client:
            script = "#!/bin/sh\n#SBATCH --gres=gpu:2\nsleep 600\n"
            request = SubmitRequest(
                script=script, script_name="s", flags=(f"--job-name={HOSTILE}",), work_dir=str(made.work_dir)
            )
            job = client.submit(request, "one").job
            wait_until(lambda: client.job(JobRef(id=job.id)).state is JobState.RUNNING, "it runs")
            more = SubmitRequest(script=script, script_name="s", flags=("--gres=gpu:4",), work_dir=str(made.work_dir))
            client.submit(more, "waits")
        yield made


@pytest.fixture(scope="module")
def address(lab: Box) -> Iterator[str]:
    with exporter(lab, "--hub") as found:
        yield found


@pytest.fixture(scope="module")
def prometheus(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    text = (DATA / "prometheus.yml").read_text()
    text = text.replace("http://127.0.0.1:9402", address).replace("15s", "1s")
    text = text.replace("- stoker-rules.yml", f"- {DATA / 'stoker-rules.yml'}")
    text = f"global: {{ evaluation_interval: 1s }}\n{text}"
    with server(tmp_path_factory.mktemp("prometheus"), text) as made:
        wait_until(lambda: len(made.query("up == 1")) == 2, "hub and node are scraped")
        yield made


def get(url: str, accept: str = "") -> tuple[str, str]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def refused(url: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url)
    return caught.value.code, caught.value.read().decode()


def test_hub_and_node_are_found_and_scraped_as_they_are_shipped(prometheus: Server) -> None:
    assert {target["labels"]["instance"]: target["health"] for target in prometheus.targets()} == {
        "hub": "up",
        "n1": "up",
    }
    assert [target["lastError"] for target in prometheus.targets()] == ["", ""]


def test_the_series_of_a_gpu_have_its_job_and_its_user(prometheus: Server) -> None:
    found = wait_until(lambda: prometheus.query('stoker_gpu_power_watts{instance="n1",job_id="1"}'), "they are there")
    assert len(found) == 2
    user = found[0]["metric"]["user"]
    (job,) = prometheus.query("stoker_job_info")
    assert (job["metric"]["user"], job["metric"]["job_id"]) == (user, "1")
    assert job["metric"]["name"] == HOSTILE
    joined = prometheus.query("stoker_gpu_power_watts * on (instance, uuid) group_left (name) stoker_gpu_info")
    assert {each["metric"]["name"] for each in joined} == {"Simulated H100 80GB"}
    assert len(prometheus.query('stoker_gpu_data_age_seconds{instance="n1"} < 5')) == 4
    assert prometheus.query("evil") == []


def test_every_expression_of_the_dashboard_gives_what_it_is_for(lab: Box, prometheus: Server) -> None:
    simulate(lab, "3", "ecc")
    wait_until(lambda: prometheus.query("stoker_incident_opened_timestamp_seconds"), "the incident is scraped")
    # On a calm cluster nothing rises: a filter that asks for more than 0 rightly gives nothing.
    shown = [each for each in expressions() if "> 0" not in each or "gpu_busy" in each]
    for expression in shown:
        wait_until(lambda each=expression: prometheus.query(each), f"a series for {expression}")  # type: ignore[misc]
    for expression in expressions():
        prometheus.query(expression)


def test_the_shipped_rules_are_loaded_and_none_is_at_fault(prometheus: Server) -> None:
    rules = wait_until(
        lambda: prometheus.rules() if all(rule["lastEvaluation"] > "1" for rule in prometheus.rules()) else None,
        "all rules were evaluated",
    )
    assert rules is not None
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule.get("lastError")} == {}


def test_a_hung_gpu_has_no_values_but_its_age(lab: Box, prometheus: Server) -> None:
    simulate(lab, "2", "hung")
    of_gpu = '{instance="n1",gpu="2"}'
    wait_until(lambda: prometheus.query('stoker_gpu_state{gpu="2",state="hung"} == 1'), "it hangs")
    wait_until(lambda: not prometheus.query(f"stoker_gpu_power_watts{of_gpu}"), "its old values are gone")
    first = float(prometheus.query(f"stoker_gpu_data_age_seconds{of_gpu}")[0]["value"][1])
    wait_until(
        lambda: float(prometheus.query(f"stoker_gpu_data_age_seconds{of_gpu}")[0]["value"][1]) > first + 1, "it ages"
    )
    simulate(lab, "2", "ok")
    wait_until(lambda: prometheus.query(f"stoker_gpu_power_watts{of_gpu}"), "it is back")


def test_both_formats_by_what_is_asked_for_from_the_agent_and_through_the_hub(lab: Box, address: str) -> None:
    for path in ("/metrics", "/nodes/n1/metrics"):
        kind, text = get(address + path, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        assert kind.startswith("application/openmetrics-text")
        parsed(text)
        kind, text = get(address + path, "*/*")
        assert kind.startswith("text/plain")
        assert list(text_string_to_metric_families(text))
        assert promtool("check", "metrics", given=text) == ""


def test_every_metric_on_the_pages_is_a_known_one(address: str) -> None:
    names = {family.sample_name for family in known()}
    pages = get(f"{address}/metrics")[1] + get(f"{address}/nodes/n1/metrics")[1]
    assert metrics_in("\n".join(line for line in pages.splitlines() if not line.startswith("#"))) <= names


def test_nothing_but_pages_of_metrics_is_passed_on(lab: Box, address: str) -> None:
    for path in ("/v1/jobs", "/nodes/n1/jobs", "/nodes/n1%2Fjobs%3F/metrics", "/nodes/../jobs/metrics", "/"):
        assert refused(address + path)[0] == 404
    status, said = refused(f"{address}/nodes/n9/metrics")
    assert (status, "n9" in said) == (404, True)
    host = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    host.request("POST", "/metrics", body="x")
    assert host.getresponse().status == 405


def test_an_agent_alone_is_served_too_and_printed(lab: Box) -> None:
    with exporter(lab) as found:
        assert 'stoker_build_info{version="' in get(f"{found}/metrics")[1]
        assert '"instance": "n1"' in get(f"{found}/targets")[1]
        assert refused(f"{found}/nodes/n1/metrics")[0] == 404
    printed = metrics(lab)
    assert printed.returncode == 0
    assert promtool("check", "metrics", given=printed.stdout) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "0.0.0.0:9402"), "is not on the loopback, and whoever reached it could read"),
        (("--listen", "localhost:9402"), "'localhost:9402' is no address; write 127.0.0.1:9402"),
        (("--listen", "127.0.0.1:x"), "has no port; write 127.0.0.1:9402"),
    ],
)
def test_where_it_does_not_listen(lab: Box, words: tuple[str, ...], said: str) -> None:
    done = metrics(lab, *words)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_port_that_is_taken_is_named(lab: Box, address: str) -> None:
    done = metrics(lab, "--listen", address.removeprefix("http://"))
    assert done.returncode == 1
    assert f"cannot listen on {address.removeprefix('http://')}: " in done.stderr


def test_the_textfile_follows_and_goes_with_the_agent(tmp_path: Path) -> None:
    file = tmp_path / "stoker.prom"
    table = f'[metrics]\ntextfile = "{file}"\ninterval_s = 1\n'
    with box(tmp_path / "box", gpus=2, hub=False, more=table) as made:
        wait_until(file.exists, "it is written")
        first = page_time(file)
        wait_until(lambda: page_time(file) > first, "it is written again")
        assert promtool("check", "metrics", given=file.read_text()) == ""
        assert file.stat().st_mode & 0o777 == 0o644
        made.agent.stop()
        assert not file.exists()
        made.config.write_text(made.config.read_text().replace(str(file), f"{tmp_path}/none/stoker.prom"))
        made.agent.start()
        with made.agent.client() as client:
            wait_until(lambda: "stoker_textfile_errors_total 2" in client.metrics(), "it is counted")
            assert "stoker_gpu_power_watts" in client.metrics()
        assert made.agent.log.read_text().count(f"there is no folder {tmp_path}/none: make it") == 1


def test_node_exporter_reads_both_textfiles_and_finds_nothing_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    with box(tmp_path / "box", gpus=2, voucher=False) as made:
        for daemon in (made.hub, made.agent):
            daemon.stop()
        with made.config.open("a") as config:
            config.write(f'[metrics]\ntextfile = "{folder}/a.prom"\nhub_textfile = "{folder}/h.prom"\ninterval_s = 1\n')
        for daemon in (made.agent, made.hub):
            daemon.start()
        wait_until(lambda: "stoker_node_gpus{" in _text(folder / "h.prom"), "the hub has found the agent")
        wait_until(lambda: "stoker_gpu_power_watts{" in _text(folder / "a.prom"), "the GPUs are read")
        read = read_by_node_exporter(folder)
        assert "node_textfile_scrape_error 0" in read
        assert 'stoker_gpu_power_watts{gpu="1",uuid="' in read
        assert 'stoker_node_gpus{node="n1"} 2' in read
        made.hub.stop()
        assert [each.name for each in folder.iterdir()] == ["a.prom"]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_service_that_is_away_is_said_so_and_not_shown_old(tmp_path: Path) -> None:
    with box(tmp_path / "box", gpus=1, hub=False) as made, exporter(made) as found:
        assert get(f"{found}/metrics")[1]
        made.agent.kill()
        status, said = refused(f"{found}/metrics")
        assert status == 503
        assert "nobody listens on" in said
        made.agent.start()
        assert get(f"{found}/metrics")[1]


def test_many_at_once_are_answered_or_told_to_come_again(lab: Box, address: str) -> None:
    statuses: list[int] = []

    def ask() -> None:
        try:
            statuses.append(200 if get(f"{address}/nodes/n1/metrics")[1] else 0)
        except urllib.error.HTTPError as error:
            statuses.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(statuses) <= {200, 503, 429}
    assert 200 in statuses
    assert get(f"{address}/metrics")[1]


def page_time(file: Path) -> float:
    lines = [line for line in file.read_text().splitlines() if line.startswith("stoker_page_timestamp_seconds ")]
    assert abs(float(lines[0].split()[1]) - time.time()) < 60
    return float(lines[0].split()[1])


def metrics(lab: Box, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "--config", str(lab.config), "metrics", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def simulate(lab: Box, gpu: str, fault: str) -> None:
    command = [sys.executable, "-c", PROGRAM, "--config", str(lab.config), "simulate", "gpu", gpu, fault]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
