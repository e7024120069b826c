"""Sequences that show what a latent does: between two latents, along one unit, with other masks."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd._checks import require_integers
from vadd._modes import evaluating
from vadd.errors import ConfigError, DomainError
from vadd.evaluation.bounds import check_inputs
from vadd.evaluation.diagnostics import is_one_hot
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.samplers.base import Jump, Sampler, SamplerState
from vadd.samplers.latent_draw import draw
from vadd.samplers.methods import Method
from vadd.samplers.run import SamplerRun
from vadd.types import Distribution, Latents, Tokens

__all__ = ["LatentPages", "latent_pages"]

_NUM_DRAWS = 256  # for the mean of a posterior that has no formula for it


@dataclass(frozen=True)
class LatentPages:
    """Samples with latents that were set; ``num`` latents are the posterior means of the first sequences.

    Attributes:
        x_0: sequences whose latents these are, shape ``(num, dim)``.
        interpolations: between the latents 0 and 1, 2 and 3, and so on, all with the same masks and noise.
        weights: of the second latent, from 0 to 1.
        traversals: one unit of latent 0 after the other set to new values, with the same masks and noise.
        units: index of each of these units in the latent, flattened; most active first.
        unit_variances: variance over the data of each unit's posterior mean, what "active" means.
        values: the new values, in standard deviations of the unit's posterior mean over the data, from its mean.
        latents_by_masks: every latent (rows) with every draw of masks and noise (columns).
    """

    x_0: Int[Tensor, "num dim"]
    interpolations: Int[Tensor, "pairs points dim"]
    weights: Float[Tensor, " points"]
    traversals: Int[Tensor, "units values dim"]
    units: tuple[int, ...]
    unit_variances: Float[Tensor, " units"]
    values: Float[Tensor, " values"]
    latents_by_masks: Int[Tensor, "num draws dim"]


@dataclass(frozen=True)
class _Held:
    """A latent policy: the same latent at every step, whatever the model would draw."""

    z: Latents

    def __call__(self, run: SamplerRun, state: SamplerState, jump: Jump) -> SamplerState:
        return replace(state, z=self.z)


def latent_pages(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    *,
    num_steps: int | None = 8,
    method: Method | Sampler = "ancestral",
    num_latents: int = 6,
    num_points: int = 7,
    num_units: int = 6,
    num_values: int = 7,
    num_draws: int = 6,
    spread: float = 3.0,
    condition: Tensor | None = None,
    seed: int = 0,
) -> LatentPages:
    """Sample with latents held through all steps; masks and noise repeat wherever only the latent should differ.

    Where the model draws a latent at every step, one that is held is not its law; it is with ``num_steps=1``.
    :func:`~vadd.plotting.interpolation_page`, :func:`~vadd.plotting.traversal_page` and
    :func:`~vadd.plotting.latent_mask_page` draw the result, reshaped to images. Samples are drawn one by one.

    Args:
        model, guide: the pair, evaluated with dropout off.
        x_0: clean tokens, shape ``(batch, dim)``, by which units are ranked; a few hundred give a stable order. The
            first ``num_latents`` give the latents.
        num_steps, method: of the sampler.
        num_latents: an even number, at least 2.
        num_points: of an interpolation, at least 2.
        num_units: units of the latent to traverse, at most as many as it has.
        num_values: of a unit, at least 2.
        num_draws: draws of masks, at least 1.
        spread: the values reach from ``-spread`` to ``spread`` standard deviations.
        condition: one a sequence; samples get that of the sequence whose latent they (begin to) use.
        seed: of masks and noise.

    Raises:
        ConfigError: if model and guide do not fit each other, or the model has no latent, or a discrete one.
        DtypeError, ShapeError, DomainError: on sequences that are not as described, or numbers out of range.
    """
    check_inputs(model, guide, x_0)
    if not model.has_latent:
        raise ConfigError("the model has no latent to show: its latent_shape is (0,).")
    require_integers(num_points=num_points, num_values=num_values, num_latents=num_latents, minimum=2)
    require_integers(num_units=num_units, num_draws=num_draws)
    require_integers(seed=seed, minimum=0)
    if num_latents % 2 or num_latents > len(x_0):
        raise DomainError(f"num_latents must be even and at most {len(x_0)}, the sequences, got {num_latents}.")
    if num_units > model.latent_shape.numel():
        raise DomainError(f"num_units must be at most {model.latent_shape.numel()}, got {num_units}.")
    if not 0 < spread < float("inf"):
        raise DomainError(f"spread must be a positive number, got {spread}.")
    with evaluating(model, guide):
        posterior = guide.encode(x_0, condition=condition)
        if is_one_hot(posterior):
            raise ConfigError("the latent is discrete: nothing lies between two of its values.")
        means = _means(posterior, torch.Generator(x_0.device).manual_seed(seed))

    def render(z: Tensor, row: int, number: int) -> Tensor:
        """The sample with this latent, and masks and noise of this number."""
        return model.sample(
            1,
            num_steps=num_steps,
            method=method,
            latents=_Held(z.reshape(1, *model.latent_shape)),
            length=x_0.shape[1],
            condition=None if condition is None else condition[row : row + 1],
            seed=seed + number,
        )[0]

    weights = torch.linspace(0, 1, num_points)
    pairs = [(means[k], means[k + 1], k) for k in range(0, num_latents, 2)]
    flat = means.flatten(1)
    deviations, centres = flat.std(0), flat.mean(0)
    units = flat.var(0).argsort(descending=True, stable=True)[:num_units].tolist()
    values = torch.linspace(-spread, spread, num_values)
    moved = [[_with(flat[0], unit, centres[unit] + v * deviations[unit]) for v in values.tolist()] for unit in units]
    return LatentPages(
        x_0=x_0[:num_latents],
        interpolations=_stack([[render(a.lerp(b, float(w)), k, 0) for w in weights] for a, b, k in pairs]),
        weights=weights,
        traversals=_stack([[render(z, 0, 0) for z in row] for row in moved]),
        units=tuple(units),
        unit_variances=flat.var(0)[units],
        values=values,
        latents_by_masks=_stack([[render(means[k], k, d) for d in range(num_draws)] for k in range(num_latents)]),
    )


def _means(posterior: Distribution, generator: torch.Generator) -> Latents:
    try:
        return posterior.mean
    except NotImplementedError:
        return draw(posterior, generator, torch.Size([_NUM_DRAWS])).mean(0)


def _with(z: Tensor, unit: int, value: Tensor) -> Tensor:
    changed = z.clone()
    changed[unit] = value
    return changed


def _stack(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row) for row in rows])
