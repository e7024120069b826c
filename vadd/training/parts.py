"""What a trainer is given, looked at before anything is built of it."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vadd._checks import kind_of, require_kind
from vadd.errors import ConfigError
from vadd.objectives import DiffusionELBO, StepLaw
from vadd.objectives.pairs import check_pair
from vadd.training.callbacks import Callback
from vadd.training.config import TrainerConfig

__all__ = ["check_functions", "check_parts", "describe_objective", "left_as_it_was"]

#: What the trainer calls each function with, how many arguments these are, and an example.
_CALLED = {
    "optimizer": ("the parameters", 1, "lambda parameters: torch.optim.Adam(parameters, 1e-3)"),
    "schedule": ("the optimizer", 1, "warmup_cosine(num_updates), or lambda optimizer: StepLR(optimizer, 1000)"),
    "kl_schedule": ("the number of the update", 1, "recipe.kl_schedule(num_updates)"),
    "validation": ("model and guide", 2, "BoundValidation(x_0, num_steps=8)"),
}

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
        require_kind(name, part, kind, f"for example {example}")
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


def check_functions(**functions: Any) -> None:
    """Raise a ConfigError unless each of them, where there is one, can be called as the trainer does."""
    for name, function in functions.items():
        given, num, example = _CALLED[name]
        if function is not None and not _takes(function, num):
            raise ConfigError(f"{name} must be a function of {given}, got {kind_of(function)}; for example {example}.")


def _takes(function: Any, num: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * num)
    except TypeError:  # it is no function, or one of other arguments
        return False
    except ValueError:  # some that are built in do not say
        return callable(function)
    return True


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
