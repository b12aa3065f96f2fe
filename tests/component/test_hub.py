"""The hub over real Unix sockets, with agents in processes of their own that can be stopped and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.errors import ApiError, TransportError
from agent.api.refs import JobRef
from agent.api.types import (
    JobState,
    JobUpdate,
    LicenceStage,
    LicenceUpdate,
    LinkState,
    NodeStatus,
    NodeUpdate,
    SubmitRequest,
)
from agent.hub.fleet import CALL_TIMEOUT_S
from tests.fakes import vendor
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import REQUEST, Cluster, wait_until
from tests.fakes.hub_cluster import cluster as cluster
from tests.fakes.rawserver import STREAM_HEAD, chunk, raw_server, read_request


class TestCluster:
    def test_nodes_and_jobs_of_all(self, cluster: Cluster) -> None:
        assert cluster.client.hello().server == "hub"
        assert [(each.name, len(each.node.gpus)) for each in cluster.client.nodes() if each.node] == [
            ("n1", 8),
            ("n2", 8),
        ]
        assert [(job.node, job.id) for job in cluster.client.jobs()] == [("n2", 1), ("n1", 1)]
        assert len(cluster.client.jobs(limit=1)) == 1
        assert cluster.client.jobs(user="nobody") == []
        assert cluster.client.jobs(id="2,3") == cluster.client.jobs(qos="nobody's") == []
        with pytest.raises(ApiError, match="SLEEPING"):
            cluster.client.jobs(state="SLEEPING")

    def test_a_watcher_gets_everything_and_then_changes(self, cluster: Cluster) -> None:
        with cluster.client.watch() as stream:
            seen: set[object] = set()
            for message in stream:
                if isinstance(message, NodeUpdate):
                    seen.add(message.status.name)
                elif isinstance(message, JobUpdate):
                    seen.add((message.job.node, message.job.id))
                elif isinstance(message, LicenceUpdate):
                    seen.add("licence")
                if seen == {"n1", "n2", ("n1", 1), ("n2", 1), "licence"}:
                    break
            made = cluster.client.submit(REQUEST, "k").job
            for message in stream:
                if isinstance(message, JobUpdate) and message.job.id == made.id:
                    assert message.job.node == made.node
                    break

    def test_the_metrics_page_tells_who_is_up(self, cluster: Cluster) -> None:
        page = cluster.client.metrics()
        assert 'stoker_node_link{node="n2",state="up"} 1\n' in page
        assert 'stoker_node_gpus_free{node="n1"} 8\n' in page
        assert "lic_" not in page
        assert page.endswith("# EOF\n")

    def test_a_stopped_node_goes_stale_and_the_other_stays_fresh(self, cluster: Cluster) -> None:
        agent = cluster.agents["n1"]
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            wait_until(lambda: cluster.link("n1").link is LinkState.STALE)
            assert 1.5 < time.monotonic() - began < 15
            wait_until(lambda: cluster.link("n2").age_s < 1.5 and cluster.link("n2").link is LinkState.UP)
            assert cluster.link("n1").link is not LinkState.UP
            began = time.monotonic()
            jobs = cluster.client.jobs()
            assert {job.node for job in jobs} == {"n1", "n2"}  # of the silent one, what was last heard
            assert time.monotonic() - began < CALL_TIMEOUT_S
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        wait_until(lambda: cluster.link("n1").link is LinkState.UP)

    def test_a_killed_node_is_lost_at_once_and_found_again(self, cluster: Cluster) -> None:
        cluster.agents["n1"].kill()
        cluster.agents["n1"].wait(60)
        status = wait_until(lambda: (found := cluster.link("n1")).link is LinkState.LOST and found)
        assert isinstance(status, NodeStatus)
        assert status.reason
        assert status.node is not None  # what was last known stays visible
        with pytest.raises(ApiError, match="n1 cannot be reached") as caught:
            cluster.client.node("n1")
        assert (caught.value.status, caught.value.code) == (503, "node_lost")
        with fake_agent(cluster.sockets["n1"], "n1"):
            wait_until(lambda: cluster.link("n1").link is LinkState.UP)

    def test_a_node_under_another_name_is_refused(self, tmp_path: Path) -> None:
        with fake_agent(tmp_path / "s", "n7"):
            config = hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"}))
            with running_hub(config) as client:
                status = wait_until(lambda: (found := client.nodes()[0]).link is LinkState.LOST and found)
                assert isinstance(status, NodeStatus)
                assert "calls itself 'n7'" in (status.reason or "")

    def test_a_node_that_garbles_shows_a_protocol_error_and_the_other_lives(self, tmp_path: Path) -> None:
        def garble(sock: socket.socket, _: int) -> None:
            read_request(sock)
            sock.sendall(STREAM_HEAD + chunk(b"\x1b[2J{not json\n"))

        sockets = {"n1": tmp_path / "n1.sock", "n2": tmp_path / "n2.sock"}
        config = hub_config(tmp_path, nodes_of(sockets))
        with raw_server(sockets["n1"], garble), fake_agent(sockets["n2"], "n2"), running_hub(config) as client:
            wait_until(lambda: [each.link for each in client.nodes()] == [LinkState.LOST, LinkState.UP])
            reason = client.nodes()[0].reason or ""
            assert "does not speak Stoker's protocol" in reason
            assert reason.isprintable()


class TestJobs:
    def test_a_submit_goes_to_one_node_on_behalf_of_the_caller(self, cluster: Cluster) -> None:
        reply = cluster.client.submit(REQUEST, "k1")
        assert reply.created
        (request,) = [each for each in cluster.seen(reply.job.node)["seen"] if each["what"].startswith("POST")]
        assert request["Idempotency-Key"] == "k1"
        assert request["Stoker-User"] == reply.job.user != "alice"

    def test_a_repeated_submit_goes_to_the_same_node_even_after_a_restart_of_the_hub(self, tmp_path: Path) -> None:
        with ExitStack() as agents:
            sockets = {name: tmp_path / f"{name}.sock" for name in ("n1", "n2")}
            for name, gpus in (("n1", 4), ("n2", 8)):
                agents.enter_context(fake_agent(sockets[name], name, gpus))
            config = hub_config(tmp_path, nodes_of(sockets))
            with running_hub(config) as client:
                wait_until(lambda: all(each.link is LinkState.UP for each in client.nodes()))
                first = client.submit(msgspec.structs.replace(REQUEST, node="n1"), "k")  # the smaller one, by name
            with running_hub(config) as client:
                wait_until(lambda: all(each.link is LinkState.UP for each in client.nodes()))
                second = client.submit(REQUEST, "k")  # placed anew it would go to n2
                assert (second.created, second.job.node, second.job.id) == (False, "n1", first.job.id)
                with pytest.raises(ApiError) as caught:
                    client.submit(msgspec.structs.replace(REQUEST, node="n2"), "k")
                assert (caught.value.status, caught.value.code) == (409, "key_reused")

    @pytest.mark.parametrize(
        ("change", "status", "words"),
        [
            ({"node": "n11"}, 404, "did you mean 'n1'"),
            ({"script": "#!/bin/sh\n#SBATCH --gres=gpu:9\n"}, 400, "n1 has 8 S and 1 CPU .*, n2 has 8 S and 1 CPU"),
            ({"script": "#!/bin/sh\n#SBATCH --gres=gpu:h100:1\n"}, 400, "asks for 1 GPU of type h100"),
            ({"script": "#!/bin/sh\n#SBATCH --cpus-per-task=2\n"}, 400, "asks for 2 CPUs"),
            ({"script": "#!/bin/sh\n#SBATCH --gres=gpu:-1\n"}, 400, "gpu"),
            ({"script": "\x7fELF\x00\x01"}, 400, "."),
        ],
    )
    def test_bad_submits_reach_no_node(self, cluster: Cluster, change: dict[str, Any], status: int, words: str) -> None:
        with pytest.raises(ApiError, match=words) as caught:
            cluster.client.submit(msgspec.structs.replace(REQUEST, **change), "k")
        assert caught.value.status == status
        for name in ("n1", "n2"):
            assert not [each for each in cluster.seen(name)["seen"] if each["what"].startswith("POST")]

    def test_a_job_for_one_gpu_type_goes_to_the_node_that_has_it(self, tmp_path: Path) -> None:
        sockets = {name: tmp_path / f"{name}.sock" for name in ("n1", "n2")}
        with (
            fake_agent(sockets["n1"], "n1", 8, gpu_name="NVIDIA H100 80GB HBM3"),
            fake_agent(sockets["n2"], "n2", 4, gpu_name="NVIDIA A100-SXM4-80GB"),
            running_hub(hub_config(tmp_path, nodes_of(sockets))) as client,
        ):
            wait_until(lambda: all(each.link is LinkState.UP for each in client.nodes()))
            assert client.submit(script("#SBATCH --gres=gpu:a100:1"), "k").job.node == "n2"

    @pytest.mark.parametrize("status", [400, 403, 429])
    def test_a_node_that_refused_leaves_the_key_to_another(self, cluster: Cluster, status: int) -> None:
        with pytest.raises(ApiError, match="told to refuse") as caught:
            cluster.client.submit(script(f"# fake: refuse {status}", node="n1"), "k")
        assert caught.value.status == status
        reply = cluster.client.submit(script("", node="n2"), "k")
        assert (reply.created, reply.job.node) == (True, "n2")

    @pytest.mark.parametrize("status", [409, 503])
    def test_a_refusal_that_may_hide_a_stored_job_keeps_the_key_at_its_node(
        self, cluster: Cluster, status: int
    ) -> None:
        with pytest.raises(ApiError, match="told to refuse"):
            cluster.client.submit(script(f"# fake: refuse {status}", node="n2"), "k")
        assert cluster.client.submit(script(""), "k").job.node == "n2"  # placed anew it would go to n1

    def test_a_refused_repetition_does_not_free_the_key_of_a_job_that_was_stored(self, cluster: Cluster) -> None:
        made = cluster.client.submit(script("", node="n2"), "k").job
        for _ in range(2):
            with pytest.raises(ApiError, match="told to refuse"):
                cluster.client.submit(script("# fake: refuse 403"), "k")
        again = cluster.client.submit(script(""), "k")
        assert (again.created, again.job.node, again.job.id) == (False, "n2", made.id)

    def test_a_submit_without_an_answer_is_repeated_at_the_same_node(self, cluster: Cluster) -> None:
        with pytest.raises(ApiError) as caught:
            cluster.client.submit(script("# fake: drop", node="n2"), "k")
        assert caught.value.code == "node_unreachable"
        again = cluster.client.submit(script(""), "k")
        assert (again.created, again.job.node) == (False, "n2")

    def test_what_is_not_sent_does_not_free_the_key_of_a_stored_job(self, cluster: Cluster) -> None:
        cluster.client.submit(script("", node="n1"), "k")
        with pytest.raises(ApiError) as caught:
            cluster.client.submit(script("", node="n2"), "k")
        assert caught.value.code == "key_reused"
        cluster.agents["n1"].kill()
        wait_until(lambda: cluster.link("n1").link is LinkState.LOST)
        for _ in range(3):
            with pytest.raises(ApiError) as caught:
                cluster.client.submit(script(""), "k")
            assert caught.value.code == "node_lost"  # it may run there: no second one is made on n2

    def test_a_full_disk_is_a_refusal_with_its_reason_and_no_fault_of_the_hub(self, tmp_path: Path) -> None:
        root = Path(__file__).parents[2]
        argv = [sys.executable, "-c", SUBMIT_ON_A_FULL_DISK, str(tmp_path)]
        ran = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        told = json.loads(ran.stdout)
        assert (told["status"], told["code"]) == (503, "not_stored")
        assert "hub.db refused" in told["message"]
        assert "see whether its disk is full" in told["message"]
        assert told["after"] is True

    @pytest.mark.parametrize("key", ["", "x" * 129])
    def test_a_submit_without_a_key_is_refused(self, cluster: Cluster, key: str) -> None:
        with pytest.raises(ApiError) as caught:
            cluster.client.submit(REQUEST, key)
        assert caught.value.code == "bad_key"

    def test_a_bare_number_is_found_when_one_node_has_it(self, cluster: Cluster) -> None:
        made = cluster.client.submit(REQUEST, "k").job  # number 2, on one node only
        assert cluster.client.job(JobRef(id=made.id)).node == made.node
        assert cluster.client.cancel(JobRef(id=made.id)).state is JobState.CANCELLED
        assert cluster.client.log(JobRef(id=made.id), limit=3).data == b"\x00\x01\x02"

    def test_a_bare_number_of_several_names_them(self, cluster: Cluster) -> None:
        with pytest.raises(ApiError, match="write n1:1 or n2:1") as caught:
            cluster.client.job(JobRef(id=1))
        assert (caught.value.status, caught.value.code) == (409, "ambiguous_job")
        assert cluster.client.job(JobRef(id=1, node="n2")).node == "n2"
        with pytest.raises(ApiError, match="no node has a job 77"):
            cluster.client.job(JobRef(id=77))


def script(line: str, **more: Any) -> SubmitRequest:
    return msgspec.structs.replace(REQUEST, script=f"#!/bin/sh\n{line}\ntrue\n", **more)


SUBMIT_ON_A_FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from agent.api.errors import ApiError
from agent.api.types import LinkState
from tests.fakes.hub_cluster import REQUEST, wait_until
from tests.fakes.agent import fake_agent
from tests.fakes.hub import hub_config, nodes_of, running_hub
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
config = hub_config(folder, nodes_of({"n1": folder / "s"}))
with fake_agent(folder / "s", "n1"), running_hub(config) as client:
    wait_until(lambda: client.nodes()[0].link is LinkState.UP)
    client.submit(REQUEST, "before")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (config.hub_state_dir / "hub.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
    try:
        client.submit(REQUEST, "full")
        raise SystemExit("it was taken")
    except ApiError as error:
        told = {"status": error.status, "code": error.code, "message": error.message}
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    told["after"] = client.submit(REQUEST, "full").created
print(json.dumps(told))
"""


class TestSeats:
    def voucher(self) -> str:
        now = int(time.time())
        issuer = vendor.changed(vendor.ISSUER_TERMS, iat=now - 9, nbf=now - 9, exp=now + 500 * vendor.DAY)
        licence = vendor.changed(vendor.VOUCHER, iat=now - 5, nbf=now - 5, exp=now + 300 * vendor.DAY, seats=12)
        return vendor.file(licence, issuer=issuer)

    def test_an_activation_seats_every_node_at_once(self, cluster: Cluster) -> None:
        assert cluster.client.licence().seats_total == 0
        assert cluster.client.activate(self.voucher()).stage is LicenceStage.ACTIVE
        for name in ("n1", "n2"):
            wait_until(partial(leases_put, cluster, name, 1))
        licence = wait_until(lambda: len((found := cluster.client.licence()).holders) == 2 and found)
        assert not isinstance(licence, bool)
        assert (licence.seats_total, licence.seats_used) == (12, 12)
        assert 'lic_seats{unit="gpu",state="used"} 12\n' in cluster.client.metrics()
        assert {holder.node: len(holder.gpu_uuids) for holder in licence.holders} in (
            {"n1": 8, "n2": 4},
            {"n1": 4, "n2": 8},
        )

    def test_a_lease_is_not_renewed_without_need_and_a_node_that_comes_back_is_asked(self, cluster: Cluster) -> None:
        cluster.client.activate(self.voucher())
        wait_until(partial(leases_put, cluster, "n1", 1))
        cluster.agents["n1"].kill()
        cluster.agents["n1"].wait(60)
        with fake_agent(cluster.sockets["n1"], "n1"):  # an agent that has lost its lease says number 0
            wait_until(partial(leases_put, cluster, "n1", 1))
        assert leases_put(cluster, "n2", 1)

    def test_no_seat_goes_to_a_gpu_that_was_never_read(self, tmp_path: Path) -> None:
        config = hub_config(tmp_path, nodes_of({"n1": tmp_path / "s"}))
        with fake_agent(tmp_path / "s", "n1", 3, unread=1), running_hub(config, vendor.ROOTS) as client:
            wait_until(lambda: client.nodes()[0].link is LinkState.UP)
            client.activate(self.voucher())
            (holder,) = wait_until(lambda: client.licence().holders)
            assert sorted(holder.gpu_uuids) == ["GPU-n1-1", "GPU-n1-2"]

    def test_a_bad_document_is_refused_and_nothing_changes(self, cluster: Cluster) -> None:
        with pytest.raises(ApiError) as caught:
            cluster.client.activate("not a licence")
        assert caught.value.code == "licence_armour"
        assert cluster.client.licence().seats_total == 0


def leases_put(cluster: Cluster, name: str, count: int) -> bool:
    try:
        return [each["what"] for each in cluster.seen(name)["seen"]].count("PUT /v1/lease") == count
    except TransportError:
        return False
