"""Where images go: a PACS that speaks DIMSE, or one that speaks DICOMweb, from a URL or a mapping of the config.

URLs: ``dimse://CALLED_AE@HOST:PORT`` and ``https://HOST/PATH`` (the DICOMweb root). Options may follow as a query, with
the names of the fields below: ``dimse://PACS@10.0.0.7:104?calling_ae=MR3&confirm=commitment&listen_port=11113``.
A mapping has ``url`` and the same options.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from steadymr.delivery.outbox import Confirm, Policy
from steadymr.errors import SettingsError


def _ae_title(value: str) -> str:
    if not value.strip() or len(value) > 16 or "\\" in value or not value.isascii() or not value.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash")
    return value.strip()


AETitle: TypeAlias = Annotated[str, AfterValidator(_ae_title)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=3600)]


class _Common(BaseModel):
    """What both kinds of destination have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    connect_timeout_s: Seconds = 10.0  #: to be connected, and to be accepted
    answer_timeout_s: Seconds = 60.0  #: for one answer
    confirm: Confirm = "none"  #: how to make sure after the PACS said stored
    tls_ca_file: Path | None = None  #: whom to trust; None is the system's list
    tls_certificate_file: Path | None = None  #: who we are (mutual TLS)
    tls_key_file: Path | None = None
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _key_with_certificate(self) -> _Common:
        if self.tls_key_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_key_file needs tls_certificate_file")
        return self


class DimseDestination(_Common):
    """A storage SCP.

    With ``confirm: commitment`` we stay ``report_wait_s`` for its report, and listen for it on ``listen_port``.
    """

    kind: Literal["dimse"] = "dimse"
    called_ae: AETitle
    host: str = Field(min_length=1)
    port: Port
    calling_ae: AETitle = "STEADYMR"
    compression: Literal["none", "jpegls"] = "none"  #: jpegls: lossless, where the PACS takes it
    tls: bool = False  #: TLS 1.2 or 1.3 by the BCP 195 profile
    tls_server_name: str = ""  #: the name in the PACS's certificate, where it is not ``host``
    listen_host: str = "0.0.0.0"
    listen_port: Port | None = None
    report_wait_s: Annotated[float, Field(gt=0, le=60)] | None = None  #: on the association of the request; None: 1 s

    @model_validator(mode="after")
    def _consistent(self) -> DimseDestination:
        if self.confirm == "commitment" and self.listen_port is None and self.report_wait_s is None:
            raise ValueError(
                "confirm: commitment needs listen_port, where the PACS reports to us, or report_wait_s if it does so "
                "on the association of the request"
            )
        if not self.tls and (self.tls_ca_file or self.tls_certificate_file or self.tls_server_name):
            raise ValueError("TLS files are given but tls is off")
        return self

    @property
    def seconds_for_report(self) -> float:
        """How long the association of a storage commitment request stays open for its report."""
        return 1.0 if self.report_wait_s is None else self.report_wait_s

    @property
    def url(self) -> str:
        """The address without options."""
        return f"dimse://{self.called_ae}@{_bracketed(self.host)}:{self.port}"


class WebDestination(_Common):
    """A DICOMweb origin server: STOW-RS to store, QIDO-RS to ask."""

    kind: Literal["web"] = "web"
    url: str
    token_file: Path | None = None  #: read anew for each request, so that it may be renewed
    batch_bytes: int = Field(16 * 2**20, ge=1)  #: size of one request, if more than one instance

    @model_validator(mode="after")
    def _consistent(self) -> WebDestination:
        if self.confirm == "commitment":
            raise ValueError("DICOMweb has no storage commitment here; use confirm: query")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL must be http(s)://HOST/PATH")
        if self.token_file and parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("a token would travel readable for all over http; use https")
        return self


Destination: TypeAlias = Annotated[DimseDestination | WebDestination, Field(discriminator="kind")]

_ADAPTER: TypeAdapter[DimseDestination | WebDestination] = TypeAdapter(Destination)


def parse_destination(source: str | Mapping[str, Any], name: str | None = None) -> DimseDestination | WebDestination:
    """A destination from its URL or from a mapping with ``url``; ``name`` defaults to the URL without options.

    Raises ``SettingsError`` for an unknown scheme or option, or a value out of range.
    """
    options = {"url": source} if isinstance(source, str) else dict(source)
    url = options.pop("url", None)
    if not isinstance(url, str) or not url:
        raise SettingsError(f"destination {name or '?'} needs a url such as dimse://PACS@host:104, got {url!r}")
    fields = {**_from_url(url), **options}
    fields["name"] = name or fields.get("name") or url.split("?", 1)[0]
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        raise SettingsError(f"destination {fields['name']}: {_sentence(error)}") from error


def dump_destination(destination: DimseDestination | WebDestination) -> str:
    """As JSON, for ``load_destination``. Files are named, never copied: no secret is in it."""
    return destination.model_dump_json()


def load_destination(text: str) -> DimseDestination | WebDestination:
    """What ``dump_destination`` wrote. Raises ``SettingsError``."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise SettingsError(f"a destination in the outbox: {_sentence(error)}") from error


def _from_url(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"destination {url}: {error}") from error
    options: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme in ("http", "https"):
        return {"kind": "web", "url": urlunsplit(parts._replace(query="", fragment="")).rstrip("/"), **options}
    if parts.scheme != "dimse":
        raise SettingsError(
            f"destination {url}: expected dimse://, https:// or http://, got {parts.scheme or 'none'}://"
        )
    if not parts.username or not parts.hostname or port is None or parts.path.strip("/"):
        raise SettingsError(f"destination {url}: expected dimse://CALLED_AE@HOST:PORT")
    called_ae = parts.netloc.rpartition("@")[0].replace("%20", " ")
    return {"kind": "dimse", "called_ae": called_ae, "host": parts.hostname, "port": port, **options}


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("dimse", "web"))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"unknown option {where}"
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {message}, got {first['input']!r}" if where else message


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
