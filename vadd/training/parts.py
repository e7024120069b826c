"""What a trainer is given, looked at before anything is built of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vadd.errors import ConfigError
from vadd.objectives import DiffusionELBO, StepLaw
from vadd.objectives.pairs import check_pair
from vadd.training.callbacks import Callback
from vadd.training.config import TrainerConfig

__all__ = ["check_parts", "describe_objective", "left_as_it_was"]

#: Options of objectives that decide what is trained. The KL's weight is none: it may be set between steps.
_OPTIONS = ("free_bits", "num_particles", "num_steps", "target", "times", "shares")


def check_parts(
    model: Any, guide: Any, objective: Any, config: Any, callbacks: Sequence[Any], validation: Any, folder: Any
) -> None:
    """Raise a ConfigError unless the parts are of their types and fit each other."""
    check_pair(model, guide)
    for name, part, kind, example in (
        ("objective", objective, DiffusionELBO, "DELBO(model.process)"),
        ("config", config, TrainerConfig, "TrainerConfig(num_updates=10_000, batch_size=128)"),
    ):
        if not isinstance(part, kind):
            got = f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__
            raise ConfigError(f"{name} must be a {kind.__name__}, got {got}; for example {example}.")
    if not any(p.requires_grad for part in (model, guide) for p in part.parameters()):
        raise ConfigError(
            "there is nothing to train: no parameter of model and guide requires a gradient; call "
            "model.requires_grad_(True) and guide.requires_grad_(True), or leave out what froze them."
        )
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks must be of subclasses of Callback, got {type(callback).__name__}.")
    for setting, name, part in (("validate_every", "validation", validation), ("save_every", "folder", folder)):
        if getattr(config, setting) is not None and part is None:
            raise ConfigError(f"{setting} needs {name}, and there is none: give {name}, or leave {setting} out.")


def describe_objective(objective: DiffusionELBO) -> dict[str, str]:
    """Its class and those of the library's options that it has, by name; of a mixture, its parts' as well."""
    described = {"class": type(objective).__name__}
    for name in _OPTIONS:
        value = getattr(objective, name, ...)
        if value is None or isinstance(value, int | float | str | tuple | StepLaw):  # they print alike in every run
            described[name] = str(value)
    for k, part in enumerate(getattr(objective, "parts", ())):
        if isinstance(part, DiffusionELBO):
            described |= {f"{name} of part {k + 1}": value for name, value in describe_objective(part).items()}
    return described


@contextmanager
def left_as_it_was(objective: DiffusionELBO) -> Iterator[None]:
    """Whatever generator and KL weight it is given inside, the objective has its own afterwards."""
    generator, kl_weight = objective.generator, objective.kl_weight
    try:
        yield
    finally:
        objective.generator, objective.kl_weight = generator, kl_weight
