"""The stack of docker/compose.yaml: its files as their programs read them, and its smoke test without containers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import steadymr
from pacs_peers import Orthanc, free_port, orthanc, running, tool

from steadymr.config import load_settings
from steadymr.source.wire.monitor import Metrics

DOCKER = Path(__file__).parents[1] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_itself_finds_nothing_wrong_with_either_kind(tmp_path: Path) -> None:
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        options = [option for file in files for option in ("-f", DOCKER / file)]
        done = subprocess.run([tool("docker-compose"), *options, "config"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_file_that_the_stack_mounts_is_there() -> None:
    mounts = [mount.split(":")[0] for service in COMPOSE["services"].values() for mount in service.get("volumes", ())]
    files = [DOCKER / mount for mount in mounts if mount.startswith(".")]
    assert len(files) > 8
    assert [str(file) for file in files if not file.exists()] == []


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_passwords_are_files_that_git_does_not_know() -> None:
    environment = [name for service in COMPOSE["services"].values() for name in service.get("environment", {})]
    assert [name for name in environment if "PASSWORD" in name] == ["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert {secret["file"].rpartition("/")[0] for secret in COMPOSE["secrets"].values()} == {"./secrets"}
    assert "/docker/secrets/" in (DOCKER.parent / ".gitignore").read_text().splitlines()


def test_services_start_in_the_order_of_the_chain_and_wait_for_health() -> None:
    waits = {
        name: {other for other, how in service["depends_on"].items() if how["condition"] == "service_healthy"}
        for name, service in COMPOSE["services"].items()
        if "depends_on" in service
    }
    assert waits["steadymr"] == {"orthanc"}
    assert waits["gadgetron"] == {"steadymr"}
    assert all("healthcheck" in COMPOSE["services"][other] for others in waits.values() for other in others)


def test_prometheus_reads_its_files() -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "config", DOCKER / "prometheus/prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_board_and_alerts_ask_only_for_metrics_that_the_server_has() -> None:
    rendered = Metrics().render().decode()
    there = set(re.findall(r"^# TYPE (\S+)", rendered, re.M))
    asked = (DOCKER / "grafana/dashboards/steadymr.json").read_text() + (DOCKER / "prometheus/rules.yml").read_text()
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"steadymr_[a-z_]+", asked)}
    assert names
    assert names <= there, names - there


def test_the_stacks_settings_are_settings(tmp_path: Path) -> None:
    settings = load_settings(DOCKER / "steadymr/site.yaml")
    assert settings.live.deliver_to in settings.destinations


@contextmanager
def stack(folder: Path) -> Iterator[tuple[int, Orthanc, Path]]:
    """What compose starts but for Gadgetron: steadymr and Orthanc with the stack's own files, on free ports."""
    users = folder / "users.json"
    users.write_text('{"RegisteredUsers": {"steadymr": "drawn"}}')
    config = json.loads((DOCKER / "orthanc/orthanc.json").read_text())
    kept = ("Name", "DicomPort", "HttpPort", "RemoteAccessAllowed")
    changes: dict[str, Any] = {key: value for key, value in config.items() if key not in kept}
    pacs = orthanc(folder / "orthanc", **changes, **json.loads(users.read_text()))
    settings = yaml.safe_load((DOCKER / "steadymr/site.yaml").read_text())
    settings["destinations"]["orthanc"]["url"] = f"{pacs.url}?calling_ae=STEADYMR"
    settings["live"]["outbox"] = str(folder / "outbox")
    site, port = folder / "site.yaml", free_port()
    site.write_text(yaml.safe_dump({**settings, "samples": 4, "diffusion": {"levels": 4}, "methods": ["classical"]}))
    with running(pacs), subprocess.Popen(steadymr("serve", "--port", port, "--config", site)) as server:
        try:
            _wait_for(port, server)
            yield port, pacs, users
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("steadymr serve does not listen")


def test_the_smoke_test_finds_the_flagged_series_in_orthanc(tmp_path: Path) -> None:
    with stack(tmp_path) as (port, pacs, users):
        command = [sys.executable, DOCKER / "smoke.py", "--mrd", f"127.0.0.1:{port}", "--users", users]
        command += ["--orthanc", f"http://127.0.0.1:{pacs.http_port}", "--timeout", "60"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Orthanc holds" in done.stdout
