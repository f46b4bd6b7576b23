"""What the resident server tells about itself: health, readiness and Prometheus metrics, on a port of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_TEXT = "text/plain; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_SCORES = tuple(step / 10 for step in range(1, 11))


class Metrics:
    """Counters of one server, in a registry of its own so that several servers can live in one process."""

    def __init__(self) -> None:
        """Everything starts at zero."""
        self.registry = CollectorRegistry()
        self.scans = Counter("steadymr_scans", "Scans by how they ended", ["outcome"], registry=self.registry)
        self.errors = Counter("steadymr_errors", "Failed scans by kind of error", ["kind"], registry=self.registry)
        self.scans_running = Gauge("steadymr_scans_running", "Scans under way", registry=self.registry)
        self.scan_seconds = Histogram(
            "steadymr_scan_seconds", "Scan from first to last byte", buckets=_SECONDS, registry=self.registry
        )
        self.messages_sent = Counter("steadymr_messages_sent", "By kind", ["kind"], registry=self.registry)
        self.stage_seconds = Histogram(
            "steadymr_stage_seconds", "Time by stage", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self.scores = Histogram("steadymr_score", "Stability scores", buckets=_SCORES, registry=self.registry)
        self.verdicts = Counter("steadymr_verdicts", "Images by verdict", ["verdict"], registry=self.registry)
        self.gpu_bytes = Gauge("steadymr_gpu_bytes", "GPU memory in use", registry=self.registry)
        self.gpu_waiting = Gauge("steadymr_gpu_waiting", "Scans that wait for the GPU", registry=self.registry)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class HealthServer:
    """``/healthz`` while the process lives, ``/readyz`` while it takes new scans, ``/metrics``."""

    def __init__(self, host: str, port: int, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        """Bind the port; port 0 takes any."""
        self._server = ThreadingHTTPServer((host, port), _handler(metrics, is_ready))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="health")

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(metrics: Metrics, is_ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/healthz":
            return 200, _TEXT, b"alive\n"
        if path == "/readyz":
            return (200, _TEXT, b"ready\n") if is_ready() else (503, _TEXT, b"not taking scans\n")
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, metrics.render()
        return 404, _TEXT, b"try /healthz, /readyz or /metrics\n"

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler
