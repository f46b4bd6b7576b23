"""What a scanner's dialogue may set: a few of our settings, under the names that OpenRecon allows.

OpenRecon (a scanner vendor's way to run containers) shows at most 14 parameters, whose ids are letters and digits only.
Their types, ranges and defaults are read off `config.Settings`, so that dialogue and settings cannot drift apart.
Limits: the application specification 1.1.0, as published with the vendor's examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from steadymr import __version__
from steadymr.config import LISTS, Settings

PORT: Final = 9002
LABEL: Final = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
VENDOR, NAME = "steadymr", "steadymr"

#: Setting -> what the dialogue says, and how far a number may be turned there, if the setting itself does not say.
SHOWN: Final[dict[str, tuple[str, tuple[float, float] | None]]] = {
    "methods": ("Methods, with commas", None),
    "samples": ("Samples per image", (4, 64)),
    "seed": ("Random seed", (0, 10000)),
    "assemble.averages": ("Averages", None),
    "diffusion.levels": ("Noise levels of the sampler", (4, 100)),
    "classical.regularisation": ("Regularisation of CG-SENSE", (0.1, 100.0)),
    "classical.iterations": ("Iterations of CG-SENSE", None),
    "perturb": ("Imperfections to inject", None),
    "dicom.series_number": ("First series number", None),
}


def settings_from(parameters: Mapping[str, str]) -> dict[str, str]:
    """Parameters as the dialogue names them, under the names of the settings; other names stay as they are."""
    names = {parameter_id(setting): setting for setting in SHOWN}
    return {names.get(name, name): value for name, value in parameters.items()}


def known(parameters: Mapping[str, str]) -> dict[str, str]:
    """Only the dialogue's own parameters: a header holds many that belong to the protocol."""
    ids = {parameter_id(setting) for setting in SHOWN}
    return {name: value for name, value in parameters.items() if name in ids}


def parameter_id(setting: str) -> str:
    """The setting's name in letters and digits: ``diffusion.levels`` becomes ``diffusionlevels``."""
    return "".join(letter for letter in setting if letter.isalnum())


def specification() -> dict[str, Any]:
    """The application specification 1.1.0: what the scanner shows, sends and provides."""
    sentence = "Reconstructs raw data three ways and flags each series with a stability verdict. For research."
    return {
        "general": {
            "name": {"en": NAME},
            "version": __version__,
            "vendor": VENDOR,
            "information": {"en": sentence},
            "id": NAME,
            "regulatory_information": {
                "device_trade_name": NAME,
                "production_identifier": __version__,
                "manufacturer_address": "",
                "made_in": "",
                "manufacture_date": "",
                "material_number": f"{NAME}_{__version__}",
                "gtin": "",
                "udi": "",
                "safety_advices": "For research: not for diagnosis.",
                "special_operating_instructions": "Cartesian scans only; see the manual.",
                "additional_relevant_information": "",
            },
        },
        "reconstruction": {
            "transfer_protocol": {"protocol": "ISMRMRD", "version": "1.4.1"},
            "port": PORT,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": True,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": 2048,
            "min_required_memory": 8192,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": [_parameter(setting) for setting in SHOWN],
    }


def _parameter(setting: str) -> dict[str, Any]:
    label, limits = SHOWN[setting]
    entry: dict[str, Any] = {"id": parameter_id(setting), "label": {"en": label}}
    schema, default = _schema(setting)
    if setting in LISTS:
        return {**entry, "type": "string", "default": ",".join(default)}
    if "enum" in schema:
        values = [{"id": value, "name": {"en": value}} for value in schema["enum"]]
        return {**entry, "type": "choice", "values": values, "default": default}
    low, high = limits or (schema["minimum"], schema["maximum"])
    kind = {"integer": "int", "number": "double"}[schema["type"]]
    return {**entry, "type": kind, "minimum": low, "maximum": high, "default": default}


def _schema(setting: str) -> tuple[dict[str, Any], Any]:
    """The JSON schema of one setting, and its default."""
    model: type[BaseModel] = Settings
    *sections, key = setting.split(".")
    for section in sections:
        model = model.model_fields[section].annotation  # type: ignore[assignment]  # a section's class
    field: FieldInfo = model.model_fields[key]
    return model.model_json_schema()["properties"][key], field.default
