"""Readouts become k-space: one ``KSpace`` for each volume, yielded when its last line has come."""

from steadymr.assemble.volumes import assemble

__all__ = ["assemble"]
