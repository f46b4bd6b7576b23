"""Encrypted connections as BCP 195 (RFC 9325) wants them."""

from __future__ import annotations

import ssl

from steadymr.delivery.destinations import Destination
from steadymr.errors import PeerRefusedError


def tls_context(destination: Destination) -> ssl.SSLContext:
    """TLS 1.3, or 1.2 with forward secrecy; the peer is verified, and we show our certificate if we have one.

    Raises ``PeerRefusedError`` if a file cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=destination.tls_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        if destination.tls_certificate_file is not None:
            context.load_cert_chain(destination.tls_certificate_file, destination.tls_key_file)
    except (OSError, ValueError) as error:
        raise PeerRefusedError(f"{destination.name}: the TLS files cannot be used: {error}") from error
    return context
