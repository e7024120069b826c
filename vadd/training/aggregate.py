"""A prior fitted, after training, to where the posteriors are."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vadd._checks import require_integers
from vadd._modes import evaluating
from vadd._seeds import seeded
from vadd.backbones.sharing import attach_parts
from vadd.errors import ConfigError, DomainError
from vadd.evaluation.diagnostics import is_one_hot
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.pairs import check_pair
from vadd.priors import CategoricalPrior, LatentPrior, MixturePrior
from vadd.samplers.latent_draw import draw
from vadd.types import Flags, Tokens

__all__ = ["AggregateFit", "fit_aggregate_prior"]

_ROWS_PER_CALL = 1024
_DRAWS = 16  # of each held-out row


@dataclass(frozen=True)
class AggregateFit:
    """A fitted prior and what it gains.

    Attributes:
        prior: the fitted prior, in evaluation mode.
        gain: nats per sequence by which the KL divergence of guide and prior falls against the model's own prior, on
            rows that took no part in the fit. Where it is not clearly positive, keep the old prior.
        stderr: standard error of the gain, from the spread over these rows.
        num_rows: how many they are.
        num_epochs: passes over the rows of the fit up to the prior that was kept.
    """

    prior: LatentPrior
    gain: float
    stderr: float
    num_rows: int
    num_epochs: int

    def __str__(self) -> str:
        return (
            f"{type(self.prior).__name__} after {self.num_epochs} epochs: {self.gain:.3f} ± {self.stderr:.3f} nats per "
            f"sequence gained on {self.num_rows} held-out sequences"
        )


def fit_aggregate_prior(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tokens,
    *,
    prior: LatentPrior | None = None,
    num_components: int = 32,
    held_out: float = 0.2,
    learning_rate: float = 1e-2,
    batch_size: int = 256,
    max_epochs: int = 200,
    patience: int = 10,
    is_padding: Flags | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
) -> AggregateFit:
    r"""Fit a prior to the aggregate posterior :math:`E_{x_0} r(z \mid x_0, \text{all masked})`.

    It maximizes :math:`E_{x_0} E_r \log p(z)` by Adam on draws of the posteriors, which lowers the KL divergence of
    guide and prior and leaves everything else as it is: every bound of a jump from all-masked gains what the divergence
    loses. Give it to the model by ``model.prior = fit.prior``, and choose a gate anew if it had one.

    The posteriors are those at all-masked input. So the prior is meant for a latent that is drawn there: sampling
    in one step, or one latent a trajectory (``latents="shared"``). A fresh latent at a later step comes from other
    posteriors, that explain fewer tokens; a prior that does not read ``x_t`` may lose there what it gains at
    the start.

    Half of the held-out rows decide when to stop, the other half measure the gain.

    Args:
        model, guide: the trained pair; left as they are.
        x_0: clean tokens to fit on, shape ``(rows, dim)``.
        prior: the prior to fit, in place; default a :class:`~vadd.priors.MixturePrior` that starts on draws of the
            posteriors, or, for one-hot latents, a :class:`~vadd.priors.CategoricalPrior`.
        num_components: mixture components of the default prior.
        held_out: share of the rows that are held out.
        learning_rate, batch_size: of Adam, and of its steps.
        max_epochs: most passes over the rows.
        patience: passes without a gain after which the fit stops; the best prior is kept.
        is_padding, condition: as in :meth:`~vadd.guide.RecognitionGuide.encode`, one row a sequence.
        seed: of the split, of the draws and of the order.

    Raises:
        ConfigError: if the model has no latent, the latents of model, guide and prior differ in shape, or the prior has
            nothing to fit.
        DtypeError, ShapeError, DomainError: on tokens that are not as described, options out of range, or too few rows:
            two to fit, and four held out.

    References:
        Hoffman and Johnson, "ELBO surgery", 2016, on the gap between prior and aggregate posterior; Tomczak and
        Welling, arXiv 1705.07120; a second-stage prior: Dai and Wipf, arXiv 1903.05789.
    """
    _check(model, guide, x_0, is_padding, held_out, learning_rate, batch_size, max_epochs, patience, seed)
    generator = torch.Generator(x_0.device).manual_seed(seed)
    order = torch.randperm(len(x_0), generator=generator, device=x_0.device)
    num_held_out = round(held_out * len(x_0))
    fitted, stopping, measured = order.split(
        [len(x_0) - num_held_out, num_held_out // 2, num_held_out - num_held_out // 2]
    )
    rows = _Rows(model, guide, x_0, is_padding, condition, generator)
    with evaluating(model, guide):
        posteriors = rows.posteriors(fitted)
        z = rows.draw(posteriors, 1)[0]
        if prior is None:
            prior = _default_prior(is_one_hot(posteriors[0]), model, z, num_components)
        _check_prior(prior, model)
        attach_parts(prior, model.denoiser)
        prior.to(z)
        held = rows.draw(rows.posteriors(stopping), _DRAWS)
        best, num_epochs, state = rows.loss(prior, stopping, held), 0, copy.deepcopy(prior.state_dict())
        optimizer = torch.optim.Adam([p for p in prior.parameters() if p.requires_grad], lr=learning_rate)
        for epoch in range(1, max_epochs + 1):
            _epoch(prior, rows, fitted, posteriors, optimizer, batch_size)
            loss = rows.loss(prior, stopping, held)
            if loss < best:
                best, num_epochs, state = loss, epoch, copy.deepcopy(prior.state_dict())
            if epoch - num_epochs >= patience:
                break
        prior.load_state_dict(state)
        z = rows.draw(rows.posteriors(measured), _DRAWS)
        gain = (rows.score(prior.eval(), measured, z) - rows.score(model.prior, measured, z)).mean(0)
    stderr = float(gain.std()) / math.sqrt(len(measured))
    return AggregateFit(prior, float(gain.mean()), stderr, len(measured), num_epochs)


class _Rows:
    """Posteriors and prior inputs of the rows, all tokens masked."""

    def __init__(
        self,
        model: VADDModel,
        guide: RecognitionGuide,
        x_0: Tensor,
        is_padding: Tensor | None,
        condition: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        self.guide, self.x_0, self.generator = guide, x_0, generator
        self.options = {k: v for k, v in (("is_padding", is_padding), ("condition", condition)) if v is not None}
        mask_id = model.process.mask_id
        self.x_1 = torch.full_like(x_0, mask_id) if is_padding is None else torch.where(is_padding, x_0, mask_id)

    def chunks(self, index: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part in index.split(_ROWS_PER_CALL):
            yield part, {name: value[part] for name, value in self.options.items()}

    def posteriors(self, index: Tensor) -> list[Any]:
        """Of the rows, in their order, a chunk each; the guide stays as it is, so it is asked once."""
        return [self.guide.encode(self.x_0[part], **options) for part, options in self.chunks(index)]

    def draw(self, posteriors: list[Any], num: int) -> Tensor:
        """Latents of the rows, shape ``(num, rows, *latent)``."""
        return torch.cat([draw(part, self.generator, torch.Size([num])) for part in posteriors], 1)

    def log_prob(self, prior: LatentPrior, index: Tensor, options: dict[str, Tensor], z: Tensor) -> Tensor:
        ones = torch.ones(len(index), device=z.device, dtype=z.dtype)
        return prior(self.x_1[index], ones, **options).log_prob(z)

    def score(self, prior: LatentPrior, index: Tensor, z: Tensor) -> Tensor:
        """``log p(z)``, float64, shape ``(draws, rows)``."""
        sizes = [len(part) for part, _ in self.chunks(index)]
        parts = zip(self.chunks(index), z.split(sizes, 1), strict=True)
        return torch.cat([self.log_prob(prior, part, options, z).double() for (part, options), z in parts], 1)

    def loss(self, prior: LatentPrior, index: Tensor, z: Tensor) -> float:
        return -float(self.score(prior.eval(), index, z).mean())


def _epoch(
    prior: LatentPrior,
    rows: _Rows,
    index: Tensor,
    posteriors: list[Any],
    optimizer: torch.optim.Optimizer,
    batch_size: int,
) -> None:
    """One pass over the rows in a new order, with new draws."""
    prior.train()
    parameters = optimizer.param_groups[0]["params"]
    order = torch.randperm(len(index), generator=rows.generator, device=index.device)
    index, z = index[order], rows.draw(posteriors, 1)[0][order]
    for part, z_part in zip(index.split(batch_size), z.split(batch_size), strict=True):
        options = {name: value[part] for name, value in rows.options.items()}
        with torch.enable_grad():
            loss = -rows.log_prob(prior, part, options, z_part).mean()
            # Of the prior's own parameters alone: networks that it shares are left as they are.
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()


def _default_prior(has_one_hot: bool, model: VADDModel, z: Tensor, num_components: int) -> LatentPrior:
    shape = tuple(model.latent_shape)
    if has_one_hot:
        return CategoricalPrior(shape).to(z.device)
    with seeded(0):  # its first values are replaced
        prior = MixturePrior(shape, min(num_components, len(z))).to(z)
    prior.start_at(z)
    return prior


def _check(
    model: VADDModel,
    guide: RecognitionGuide,
    x_0: Tensor,
    is_padding: Tensor | None,
    held_out: float,
    learning_rate: float,
    batch_size: int,
    max_epochs: int,
    patience: int,
    seed: int,
) -> None:
    check_pair(model, guide)
    model.process.check_tokens(x_0, is_padding=is_padding)
    if not model.has_latent:
        raise ConfigError("the model has no latent: its latent_shape is (0,), and so there is no prior to fit.")
    if not 0 < held_out < 1 or not 0 < learning_rate < math.inf:
        raise DomainError(
            f"held_out must lie in (0, 1) and learning_rate be positive, got {held_out} and {learning_rate}."
        )
    require_integers(batch_size=batch_size, max_epochs=max_epochs, patience=patience)
    require_integers(seed=seed, minimum=0)
    num_held_out = round(held_out * len(x_0))
    if num_held_out < 4 or len(x_0) - num_held_out < 2:
        raise DomainError(
            f"need at least 2 rows to fit and 4 held out, got {len(x_0)} rows with held_out={held_out}: "
            f"{len(x_0) - num_held_out} and {num_held_out}."
        )


def _check_prior(prior: LatentPrior, model: VADDModel) -> None:
    if prior is model.prior:
        raise ConfigError("prior must not be the model's own, which the gain is measured against: pass a copy of it.")
    if torch.Size(prior.latent_shape) != model.latent_shape:
        raise ConfigError(
            f"model and prior disagree on latent_shape: {tuple(model.latent_shape)} and {tuple(prior.latent_shape)}."
        )
    if not any(p.requires_grad for p in prior.parameters()):
        raise ConfigError(f"{type(prior).__name__} has no parameters to fit.")
