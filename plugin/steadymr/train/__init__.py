"""Training of the networks from a configuration file and a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from steadymr.errors import SettingsError
from steadymr.train.loop import Progress
from steadymr.train.prior import PriorTraining, train_prior
from steadymr.train.unet import UnetTraining, train_unet
from steadymr.train.varnet import VarnetTraining, train_varnet

__all__ = [
    "PriorTraining",
    "UnetTraining",
    "VarnetTraining",
    "load_config",
    "run",
    "train_prior",
    "train_unet",
    "train_varnet",
]
Config = TypeVar("Config", bound=BaseModel)


def run(
    kind: Literal["prior", "unet", "varnet"],
    config_path: Path,
    out: Path,
    progress: Progress | None = None,
    *,
    resume: bool = True,
    device: str = "cpu",
) -> Path:
    """Train a network as a YAML file says and return the path of its weights.

    ``progress`` is called after each step with its number, the number of steps, and the mean of recent losses. A run
    that was interrupted is taken up at its last checkpoint, unless ``resume`` is False.

    Raises:
        SettingsError: the configuration is not valid, its data cannot be used, or ``out`` holds a checkpoint of
            another one.
        OutputError: weights or checkpoints could not be written.
        WeightsError: the weights to start from do not fit.
    """
    if kind == "prior":
        return train_prior(load_config(PriorTraining, config_path), out, resume, progress, device)
    if kind == "unet":
        return train_unet(load_config(UnetTraining, config_path), out, resume, progress, device)
    return train_varnet(load_config(VarnetTraining, config_path), out, resume, progress, device)


def load_config(kind: type[Config], path: Path) -> Config:
    """Read a configuration; unknown keys are errors."""
    try:
        return kind.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{path} is no configuration for training: {error}") from error
