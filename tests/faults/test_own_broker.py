"""A host that runs its own broker: what a kill of either leaves behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeml.repository import Repository
from support import brokers
from support.own_site import CertifiedClient, own_site
from support.ports import free_port
from support.programs import programs
from support.waiting import until

KILLS = 3


def broker_pid(folder):
    """The process that runs by a folder's configuration; None when there is none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_text()
        except OSError:
            continue
        if "mosquitto\0" in arguments and f"{folder}/mosquitto.conf" in arguments:
            return int(path.parent.name)
    return None


@pytest.mark.nightly
def test_broker_that_is_killed_is_started_again_and_clients_return(tmp_path):
    """The host reports each end, connects again, and announces; a device's certificate works as before."""
    with own_site(tmp_path / "repo") as site:
        client = CertifiedClient(site, site.certify("barn-1", "device", tmp_path / "barn-1.pem"))
        try:
            until(lambda: client.is_up, "the device is connected")
            for kill in range(1, KILLS + 1):
                lost = client.failures
                os.kill(broker_pid(tmp_path / "repo" / "broker"), signal.SIGKILL)
                until(lambda lost=lost: client.failures > lost and client.is_up, "the device has noticed, and is back")
                # One connection at the start, and one after each kill.
                until(lambda kill=kill: site.count("connected") == kill + 1, "the host is back")
                assert site.count("broker-ended") == kill
        finally:
            client.close()
    assert broker_pid(tmp_path / "repo" / "broker") is None


@pytest.mark.nightly
def test_killed_host_takes_its_broker_along_and_the_next_one_has_the_port(tmp_path):
    """No orphan keeps the port: the kernel ends the child, and the next host waits for it."""
    Repository.init(tmp_path / "repo", passphrase="")
    port, enroll = free_port(), free_port()
    command = ("-m", "edgeml", "fleet", "serve", "--repo", str(tmp_path / "repo"), "--with-broker",
               f"localhost:{port}", "--enroll", f"localhost:{enroll}")  # fmt: skip
    with programs() as started:
        for run in range(KILLS):
            log = tmp_path / f"host-{run}.log"
            host = started.start(log, *command)
            until(lambda log=log: "announced" in log.read_text(), "the host serves")
            assert brokers.listens(port)
            host.kill()
        until(lambda: broker_pid(tmp_path / "repo" / "broker") is None, "the broker has ended")


@pytest.mark.nightly
def test_host_that_is_stopped_stops_its_broker_in_order(tmp_path):
    """SIGTERM: the broker writes its messages, and nothing is left."""
    Repository.init(tmp_path / "repo", passphrase="")
    port = free_port()
    command = ("-m", "edgeml", "fleet", "serve", "--repo", str(tmp_path / "repo"), "--with-broker",
               f"localhost:{port}", "--enroll", f"localhost:{free_port()}")  # fmt: skip
    with programs() as started:
        host = started.start(tmp_path / "host.log", *command)
        until(lambda: "announced" in (tmp_path / "host.log").read_text(), "the host serves")
        host.stop()
    assert broker_pid(tmp_path / "repo" / "broker") is None
    assert (tmp_path / "repo" / "broker" / "data" / "mosquitto.db").is_file()
    assert re.search(r"terminating", (tmp_path / "host.log").read_text())


@pytest.mark.nightly
def test_wrong_start_is_reported_with_the_brokers_own_words(tmp_path):
    """A taken port, and a host name that no device could use."""
    Repository.init(tmp_path / "repo", passphrase="")
    with brokers.mosquitto(tmp_path / "other") as other:
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "edgeml", "fleet", "serve", "--repo", tmp_path / "repo", "--with-broker",
             f"localhost:{other.port}"], capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 5, done.stderr
        assert f"another program listens on port {other.port}" in done.stderr
        assert time.monotonic() - began_s < 60
