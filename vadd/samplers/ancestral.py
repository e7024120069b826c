"""Ancestral sampling."""

from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from vadd._modes import evaluating
from vadd.distributions import MaskedCategorical
from vadd.errors import ConfigError, DomainError, NonFiniteError
from vadd.process import MaskingProcess
from vadd.samplers.latent_policy import LatentPolicy, resolve_policy
from vadd.samplers.time_grid import TimeGrid, resolve_grid
from vadd.types import Latents, Tokens

__all__ = ["SampledModel", "ancestral_step", "sample"]


@runtime_checkable
class SampledModel(Protocol):
    """What samplers need of a model."""

    process: MaskingProcess
    prior: Any
    denoiser: Any

    def denoise(
        self,
        x_t: Tokens,
        t: Any,
        z: Any = None,
        *,
        target: Any = None,
        is_padding: Any = None,
        condition: Any = None,
    ) -> MaskedCategorical: ...


def ancestral_step(
    model: SampledModel,
    x_t: Tokens,
    t: float,
    s: float,
    z: Latents | None,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tokens:
    """One reverse step from time ``t`` to ``s``: decide which masked positions to reveal, then draw those.

    The decision and the token are drawn apart, in double precision: one categorical over tokens
    and "stays masked" loses rare tokens when the reveal probability is small.
    """
    times = torch.tensor([t, s], dtype=torch.float64, device=x_t.device)
    probability = model.process.reveal_probability(times[:1], times[1:])
    uniform = torch.rand(x_t.shape, dtype=torch.float64, device=x_t.device, generator=generator)
    reveal = (x_t == model.process.mask_id) & (uniform < probability)
    t_row = torch.full(x_t.shape[:1], t, device=x_t.device)
    options = {} if condition is None else {"condition": condition}
    return model.denoise(x_t, t_row, z, target=reveal, **options).sample(generator=generator)


def sample(
    model: SampledModel,
    num_samples: int,
    *,
    num_steps: int,
    latents: Literal["fresh", "shared", "null"] | LatentPolicy = "fresh",
    time_grid: TimeGrid | None = None,
    length: int | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tokens:
    """Draw sequences in ``num_steps`` reverse steps from all-masked (Algorithm 2 of the paper).

    Args:
        model: a :class:`~vadd.model.VADDModel`; sampled from with dropout off.
        num_samples: number of sequences.
        num_steps: number of reverse steps ``T``.
        latents: ``"fresh"`` (a draw at every step), ``"shared"`` (one draw a trajectory), ``"null"``
            (the null latent), or a :class:`~vadd.samplers.LatentPolicy`.
        time_grid: ``num_steps + 1`` times from 1 to 0, or a function from ``num_steps`` to them;
            default uniform.
        length: number of tokens; default the denoiser's.
        condition: one condition a sample, passed on to the networks.
        generator: source of randomness, on the model's device.

    Returns:
        Clean tokens, shape ``(num_samples, length)``.

    Raises:
        DomainError, ConfigError: on a number of samples, steps or tokens below one, a bad grid, or a
            missing length.
        NonFiniteError: if the denoiser returns NaN.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise DomainError(f"num_samples must be an integer of at least 1, got {num_samples!r}.")
    length = model.denoiser.num_tokens if length is None else length
    if length is None:
        raise ConfigError("length must be given: the denoiser takes sequences of any length.")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise DomainError(f"length must be an integer of at least 1, got {length!r}.")
    grid = resolve_grid(num_steps, time_grid).tolist()
    policy = resolve_policy(latents)
    options = {} if condition is None else {"condition": condition}
    device = _device(model)
    x = torch.full((num_samples, length), model.process.mask_id, device=device)
    z = None
    with evaluating(cast(nn.Module, model)):  # dropout is for training
        for t, s in zip(grid[:-1], grid[1:], strict=True):
            t_row = torch.full((num_samples,), t, device=device)
            z = policy(model.prior(x, t_row, **options), x, t_row, z, generator=generator)
            x = ancestral_step(model, x, t, s, z, condition=condition, generator=generator)
    if bool((x == model.process.mask_id).any()):
        raise NonFiniteError(
            "sampling left masked positions: the denoiser returned NaN. Check its weights and the latents."
        )
    return x


def _device(model: Any) -> torch.device:
    for tensor in model.parameters():
        return tensor.device
    return torch.device("cpu")
