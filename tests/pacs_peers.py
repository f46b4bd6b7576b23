"""Real PACS for tests, on free loopback ports: DCMTK's storescp and Orthanc, and a scripted SCP for rare answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

STARTS_S = 20.0
SYSTEM_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin"  #: a venv may hold namesakes, pynetdicom's among them


def tool(name: str) -> str:
    """The path of a program; a failure, not a skip, where it is missing."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        pytest.fail(f"{name} is not installed: apt-get install orthanc orthanc-dicomweb dcmtk")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, timeout_s: float = STARTS_S) -> None:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port} after {timeout_s} s")


def write_series(folder: Path, n: int, size: int = 32, seed: int = 0, **changes: Any) -> list[Path]:
    """``n`` MR images of one series; the same seed makes the same pixels, never the same UIDs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    study, series = generate_uid(), generate_uid()
    files = []
    for number in range(n):
        pixels = rng.integers(0, 4096, (size, size), dtype=np.uint16)
        dataset = mr_image(pixels, study, series, number, **changes)
        files.append(folder / f"{number:04d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def mr_image(pixels: np.ndarray, study: str, series: str, number: int, **changes: Any) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = changes.pop("SOPClassUID", MRImageStorage)
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.PatientName = "0042", "Test^Phantom"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.StudyDate, dataset.StudyTime, dataset.ReferringPhysicianName = "20240229", "120000", ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "MR", 1, number + 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


_LOOPBACK_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
int bind(int fd, const struct sockaddr *address, socklen_t size) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_in local;
    if (address->sa_family == AF_INET && size >= sizeof local) {
        local = *(const struct sockaddr_in *)address;
        local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return real(fd, (const struct sockaddr *)&local, sizeof local);
    }
    return real(fd, address, size);
}
"""


def loopback_only(folder: Path) -> dict[str, str]:
    """An environment in which a program listens on loopback alone, though it has no option for it.

    Where there is no C compiler the peers listen on all interfaces for the seconds that they live.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return dict(os.environ)
    source, library = folder / "loopback.c", folder / "loopback.so"
    if not library.exists():
        source.write_text(_LOOPBACK_SHIM)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


@dataclass
class Program:
    """A peer in a process of its own, which may be killed, frozen, and started again."""

    command: list[str]
    port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_port(self.port)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)


@dataclass
class StoreSCP(Program):
    """DCMTK's storescp; keeps what it gets in ``folder``, one file for each UID."""

    folder: Path = Path()

    @property
    def url(self) -> str:
        return f"dimse://STORESCP@127.0.0.1:{self.port}"

    def uids(self) -> list[str]:
        return [file.name.removeprefix("MR.").removesuffix(".dcm") for file in sorted(self.folder.iterdir())]


def storescp(folder: Path, *options: str, port: int | None = None) -> StoreSCP:
    """Not started yet."""
    received = folder / "received"
    received.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [tool("storescp"), "-od", str(received), "-fe", ".dcm", *options, str(port)]
    return StoreSCP(command, port, loopback_only(folder), folder=received)


@dataclass
class Orthanc(Program):
    """Orthanc with DICOMweb, which commits to ``report_port`` as STEADYMR."""

    http_port: int = 0
    report_port: int = 0

    @property
    def url(self) -> str:
        return f"dimse://ORTHANC@127.0.0.1:{self.port}"

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def rest(self, path: str, method: str = "GET", body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", method=method, data=body)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def uids(self) -> list[str]:
        return [entry["MainDicomTags"]["SOPInstanceUID"] for entry in self.rest("/instances?expand")]

    def forget(self, uid: str) -> None:
        found = self.rest("/tools/lookup", "POST", uid.encode())
        for entry in found:
            self.rest(entry["Path"], "DELETE")


def orthanc(folder: Path, **changes: Any) -> Orthanc:
    """Not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    port, http_port, report_port = free_port(), free_port(), free_port()
    plugin = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
    if not Path(plugin).exists():
        pytest.fail("Orthanc's DICOMweb plug-in is not installed: apt-get install orthanc-dicomweb")
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [plugin],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomCheckModalityHost": False,
        "DicomModalities": {"steadymr": ["STEADYMR", "127.0.0.1", report_port]},
        "DicomWeb": {"Enable": True},
        **changes,
    }
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    command = [tool("Orthanc"), str(config)]
    return Orthanc(command, port, loopback_only(folder), http_port=http_port, report_port=report_port)


@contextmanager
def running(program: Any) -> Iterator[Any]:
    """The peer, started, and killed at the end."""
    try:
        program.start()
        yield program
    finally:
        program.kill()


@dataclass
class ScriptedSCP:
    """A storage SCP that answers each C-STORE as its script says: a status, or what a function does."""

    script: Callable[[int, str], int]  #: number of the request, SOP Instance UID -> status
    port: int
    received: list[tuple[str, int]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"dimse://SCRIPTED@127.0.0.1:{self.port}"


@contextmanager
def scripted_scp(
    script: Callable[[int, str], int], sop_classes: Sequence[str] = (MRImageStorage,), **settings: Any
) -> Iterator[ScriptedSCP]:
    from pynetdicom import AE, evt

    scp = ScriptedSCP(script, free_port())
    lock = threading.Lock()

    def answer(event: Any) -> int:
        with lock:
            uid = str(event.request.AffectedSOPInstanceUID)
            status = script(len(scp.received), uid)
            scp.received.append((uid, status))
        return status

    entity = AE(ae_title="SCRIPTED")
    for name, value in settings.items():
        setattr(entity, name, value)
    for sop_class in sop_classes:
        entity.add_supported_context(sop_class, ExplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", scp.port), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    try:
        yield scp
    finally:
        server.shutdown()


@dataclass(frozen=True)
class KeyPair:
    key: Path
    certificate: Path


def mutual_tls_files(
    folder: Path, names: tuple[str, str] = ("steadymr.test", "pacs.test")
) -> tuple[KeyPair, KeyPair, Path]:
    """Ours, the PACS's (by name), and the certificate of the authority that signed both."""
    authority = KeyPair(folder / "ca.key", folder / "ca.pem")
    make = [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"]
    _quietly([*make, "-keyout", authority.key, "-out", authority.certificate])
    pairs = [_signed(folder, name, authority) for name in names]
    return pairs[0], pairs[1], authority.certificate


def _signed(folder: Path, name: str, authority: KeyPair) -> KeyPair:
    pair = KeyPair(folder / f"{name}.key", folder / f"{name}.pem")
    request, extra = folder / f"{name}.csr", folder / f"{name}.ext"
    extra.write_text(f"subjectAltName=DNS:{name}\n")
    make = [tool("openssl"), "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
    _quietly([*make, "-keyout", pair.key, "-out", request])
    sign = [tool("openssl"), "x509", "-req", "-days", "2", "-CAcreateserial", "-extfile", extra]
    _quietly([*sign, "-in", request, "-CA", authority.certificate, "-CAkey", authority.key, "-out", pair.certificate])
    return pair


def _quietly(command: Sequence[Any]) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@contextmanager
def commitment_scp(report_port: int, report: threading.Event) -> Iterator[str]:
    """A PACS that stores, and reports on storage commitment only once ``report`` is set; gives its URL."""
    from pynetdicom import AE, evt
    from pynetdicom.presentation import build_context, build_role
    from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

    threads: list[threading.Thread] = []

    def tell(request: Dataset) -> None:
        report.wait(20)
        information = Dataset()
        information.TransactionUID = request.TransactionUID
        information.ReferencedSOPSequence = request.ReferencedSOPSequence
        entity = AE(ae_title="COMMITTER")
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        wait_for_port(report_port)
        association = entity.associate(
            "127.0.0.1", report_port, [build_context(StorageCommitmentPushModel)], "STEADYMR", ext_neg=[role]
        )
        if association.is_established:
            model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            association.send_n_event_report(information, 1, model, instance)
            association.release()

    def act(event: Any) -> tuple[int, None]:
        threads.append(threading.Thread(target=tell, args=(event.action_information,)))
        threads[-1].start()
        return 0x0000, None

    entity = AE(ae_title="COMMITTER")
    entity.add_supported_context(MRImageStorage)
    entity.add_supported_context(StorageCommitmentPushModel)
    port = free_port()
    handlers = [(evt.EVT_C_STORE, lambda event: 0x0000), (evt.EVT_N_ACTION, act)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield f"dimse://COMMITTER@127.0.0.1:{port}"
    finally:
        report.set()
        for thread in threads:
            thread.join()
        server.shutdown()


@contextmanager
def polite_scp() -> Iterator[str]:
    """A PACS that stores, and reports on storage commitment on the association of the request only; gives its URL."""
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

    threads: list[threading.Thread] = []

    def tell(association: Any, request: Dataset) -> None:
        time.sleep(0.5)  # after the response to the request
        model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        association.send_n_event_report(request, 1, model, instance)

    def act(event: Any) -> tuple[int, None]:
        threads.append(threading.Thread(target=tell, args=(event.assoc, event.action_information)))
        threads[-1].start()
        return 0x0000, None

    entity = AE(ae_title="POLITE")
    entity.add_supported_context(MRImageStorage)
    entity.add_supported_context(StorageCommitmentPushModel)
    port = free_port()
    handlers = [(evt.EVT_C_STORE, lambda event: 0x0000), (evt.EVT_N_ACTION, act)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield f"dimse://POLITE@127.0.0.1:{port}"
    finally:
        for thread in threads:
            thread.join()
        server.shutdown()


@dataclass
class TlsServer:
    """What a DICOMweb server behind TLS saw."""

    url: str
    tokens: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)  #: common names in the certificates shown
    stored: list[str] = field(default_factory=list)


@contextmanager
def tls_web_server(pair: KeyPair, authority: Path, token: str, mutual: bool = False) -> Iterator[TlsServer]:
    """STOW-RS over TLS: asks for ``token``, and with ``mutual`` for a certificate signed by ``authority``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.tokens.append(self.headers.get("Authorization", ""))
            certificate = self.connection.getpeercert() or {}  # type: ignore[attr-defined]
            seen.clients += [str(value) for (entry,) in certificate.get("subject", ()) for _, value in [entry]]
            if seen.tokens[-1] != f"Bearer {token}":
                return self._answer(401, b"")
            boundary = self.headers["Content-Type"].rpartition("boundary=")[2].encode()
            parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"--" + boundary)[1:-1]]
            uids = [str(pydicom.dcmread(BytesIO(part), force=True).SOPInstanceUID) for part in parts]
            seen.stored += uids
            items = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]
            return self._answer(200, json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)

    class Server(ThreadingHTTPServer):
        def get_request(self) -> Any:
            connection, address = super().get_request()
            try:
                return context.wrap_socket(connection, server_side=True), address
            except OSError:
                connection.close()
                raise

    with Server(("127.0.0.1", 0), Handler) as server:
        seen = TlsServer(f"https://localhost:{server.server_address[1]}/dicom-web")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def web_server(status: int) -> Iterator[tuple[str, list[str]]]:
    """A DICOMweb address that answers every POST with ``status`` and no body; also what authorisation it was shown."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", seen
        finally:
            server.shutdown()
            thread.join()
