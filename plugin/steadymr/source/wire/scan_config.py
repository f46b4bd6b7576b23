"""What a peer asks for: a configuration as text, name or JSON, boiled down to names and values.

Nothing here opens a file: a configuration's name is looked up by whoever knows the names, and is never a path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

from steadymr.errors import SettingsError

_MOST_SETTINGS = 1000


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """Settings that came over the wire, all as text; who uses them judges names and values."""

    name: str = ""  #: of a configuration, from ``gadgetron_ismrmrd_client -c`` and from FIRE
    properties: Mapping[str, str] = field(default_factory=dict)  #: ``<property name="samples" value="8"/>``
    parameters: Mapping[str, str] = field(default_factory=dict)  #: JSON in a TEXT message, as OpenRecon sends it
    header_parameters: Mapping[str, str] = field(default_factory=dict)  #: userParameters of the MRD header
    takes_dicom: bool = False  #: whether this kind of peer understands finished DICOM files

    @property
    def settings(self) -> dict[str, str]:
        """Properties and JSON parameters together; a parameter wins. The header's are left out: most are not ours."""
        return {**self.properties, **self.parameters}


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds the tree of a document without a document type definition, hence without entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise SettingsError("the configuration contains a document type definition, which is not read")


def parse_xml(text: str) -> ElementTree.Element:
    """A small trusted-by-nobody document; raises SettingsError."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(text)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise SettingsError(f"the configuration is not well-formed XML: {error}") from error
    return root


def config_from_text(text: str) -> ScanConfig:
    """A configuration from CONFIG TEXT: XML with properties, JSON, a name, or nothing.

    Of a whole Gadgetron chain, which ``gadgetron_ismrmrd_client -C`` sends, the properties of its external nodes are
    taken.
    """
    stripped = text.strip()
    if stripped.startswith("<"):
        return ScanConfig(properties=_properties(parse_xml(stripped)))
    if stripped.startswith("{"):
        return ScanConfig(parameters=parameters_from_json(stripped))
    return ScanConfig(name=stripped)


def with_text(config: ScanConfig, text: str) -> ScanConfig:
    """The configuration after a TEXT message with JSON parameters."""
    return replace(config, parameters={**config.parameters, **parameters_from_json(text)})


def with_header_parameters(config: ScanConfig, header_xml: str) -> ScanConfig:
    """The configuration with the MRD header's userParameters beside it, where OpenRecon may put its own."""
    return replace(config, header_parameters=_user_parameters(parse_xml(header_xml)))


def parameters_from_json(text: str) -> dict[str, str]:
    """The ``parameters`` of an OpenRecon message; raises SettingsError for anything but names with plain values."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"TEXT is not JSON with parameters: {error}") from error
    parameters = message.get("parameters", {}) if isinstance(message, dict) else None
    if not isinstance(parameters, dict) or len(parameters) > _MOST_SETTINGS:
        raise SettingsError('TEXT is not JSON of the form {"version": ..., "parameters": {...}}')
    return {name: _plain(name, value) for name, value in parameters.items()}


def _plain(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise SettingsError(f"parameter '{name[:40]}' is neither text nor number")
    return str(value)


def _properties(root: ElementTree.Element) -> dict[str, str]:
    is_chain = root.find(".//stream") is not None
    found = root.findall(".//external/configuration/property") if is_chain else root.findall("property")
    properties: dict[str, str] = {}
    for element in found:
        name, value = element.get("name"), element.get("value")
        if not name or value is None:
            raise SettingsError("a <property> of the configuration lacks a name or a value")
        if name in properties:
            raise SettingsError(f"property '{name[:40]}' stands in the configuration twice")
        properties[name] = value
    return properties


def _user_parameters(root: ElementTree.Element) -> dict[str, str]:
    return {
        (item.findtext("{*}name") or ""): (item.findtext("{*}value") or "")
        for kind in ("Long", "Double", "String")
        for item in root.findall(f"{{*}}userParameters/{{*}}userParameter{kind}")[:_MOST_SETTINGS]
    }
