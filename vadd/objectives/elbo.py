"""The estimator that joins model, guide and masking process: one class, of which each objective is a case."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

from vadd._checks import require_integer, require_kind, require_number
from vadd.errors import ConfigError, VADDError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.divergence import analytic_divergence, check_same_kind, is_discrete
from vadd.objectives.drawn import DrawnBatch, SiteWeights
from vadd.objectives.pairs import check_pair, check_programs, require_explains
from vadd.objectives.site_scale import ScaleSites
from vadd.objectives.terms import diagnose_loss, sum_particles, weighted_sum
from vadd.process import MaskingProcess
from vadd.types import CorruptedBatch, Flags, Tokens

__all__ = ["BoundTerms", "DiffusionELBO"]


class BoundTerms(NamedTuple):
    """An objective in nats per sequence, its terms apart: ``total = reconstruction + kl``."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """The negative objective with KL weight one and without free bits."""
        return self.reconstruction + self.kl


class DiffusionELBO(TraceMeanField_ELBO, ABC):
    r"""Negative evidence bound of a masked diffusion model with a latent, a Pyro ``ELBO``.

    For clean tokens ``x_0`` it draws a corrupted batch, runs guide and model on it as Pyro programs,
    and returns the mean over the batch of

    .. math:: -c_x \log p(x_s \mid x_t, z) + \lambda\, c_z\, KL(r(z) \,\|\, p(z)),

    in nats per sequence, with the weights :math:`c` of the subclass. The KL divergence is analytic where
    there is a formula and a one-sample estimate otherwise (:attr:`kl_mode`). Use it as any Pyro estimator::

        svi = pyro.infer.SVI(model, guide, optim, loss=DELBO(process))   # svi.step(x_0)
        loss_fn = DELBO(process)(model, guide)                           # loss_fn(x_0).backward()

    Both accept ``is_frozen=``, ``is_padding=`` and ``condition=`` beside ``x_0``, or what :meth:`draw` returned in
    place of all. Subclasses implement :meth:`corrupt` and :meth:`weigh`, and set :attr:`bounds`.

    Args:
        process: the masking process, the same object that the model holds.
        kl_weight: the weight :math:`\lambda` of the KL term; may be set between steps
            (``elbo.kl_weight = schedule(step)``), zero included.
        free_bits: nats of KL a sequence that cost nothing: rows below it are charged this constant; where the KL has
            no formula (:attr:`kl_mode` is ``"monte-carlo"``), batches whose weighted sum lies below it.
        num_particles: latents drawn for each corrupted row.
        vectorize_particles: evaluate the particles in one pass.
        generator: source of randomness of times and masks (latents follow Pyro's global seed).

    Raises:
        ConfigError: on a part or an option that is not as described; when run, if model and guide do not fit each
            other, the process or the objective.
        DomainError: if ``kl_weight`` is negative or no finite number.
        NonFiniteError: on a step whose loss is not finite, with the term and the times at fault
            (checked where the process validates its arguments).
    """

    #: The sampler whose log-likelihood the expected objective bounds, with KL weight one; None where it bounds none.
    bounds: str | None = None

    def __init__(
        self,
        process: MaskingProcess,
        *,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles)
        require_kind("process", process, MaskingProcess, "pass model.process")
        require_number("free_bits", free_bits, error=ConfigError)
        require_integer("num_particles", num_particles, error=ConfigError)
        self.process = process
        self.kl_weight = kl_weight
        self.free_bits = float(free_bits)
        self.generator = generator
        #: Terms of the latest step, detached means over batch and particles, weighted but not annealed.
        self.last_terms: BoundTerms | None = None
        #: How the KL of the latest step was found, by formula or from the draw, which is noisier; None before.
        self.kl_mode: Literal["analytic", "monte-carlo"] | None = None

    @property
    def kl_weight(self) -> float:
        """The weight of the KL term."""
        return self._kl_weight

    @kl_weight.setter
    def kl_weight(self, value: float) -> None:
        require_number("kl_weight", value)
        self._kl_weight = float(value)

    @abstractmethod
    def corrupt(self, x_0: Tokens, **options: Any) -> CorruptedBatch:
        """Draw times and masks for a batch; ``options`` are those of ``MaskingProcess.corrupt``."""

    @abstractmethod
    def weigh(self, batch: CorruptedBatch) -> SiteWeights:
        """The weights of the batch's rows, the density of their times included.

        In a mixture it is also asked about rows that other objectives drew, and its answer there dropped.
        """

    def terms(
        self,
        model: VADDModel,
        guide: Any,
        x_0: Tokens,
        *,
        is_frozen: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> BoundTerms:
        """One estimate of the terms of each sequence: nats, shape ``(batch,)``, neither annealed nor floored.

        Args:
            model, guide: the pair.
            x_0, is_frozen, is_padding, condition: the batch, as in ``MaskingProcess.corrupt``.

        Raises:
            ConfigError: if model and guide do not fit each other, the process or the objective.
            ShapeError, DtypeError, DomainError: on a batch that is not as described.
            NonFiniteError: as a step.
        """
        batch, weights = self.draw(model, x_0, is_frozen, is_padding, condition)
        reconstruction, kl = torch.zeros_like(weights.likelihood), torch.zeros_like(weights.latent)
        for model_trace, guide_trace in self._run(model, guide, batch, {}):
            observed, latent = model_trace.nodes["x_0"], model_trace.nodes["z"]
            log_prob = sum_particles(observed["fn"].log_prob(observed["value"]))
            divergence = sum_particles(self._divergence(guide_trace.nodes["z"], latent))
            divergence = divergence.masked_fill(weights.latent == 0, 0.0)  # it may be infinite there
            cost = weights.latent * divergence - weights.likelihood * log_prob
            if self.process.checks_values and not bool(torch.isfinite(cost).all()):
                raise diagnose_loss(model_trace, guide_trace)
            reconstruction = reconstruction - log_prob / self.num_particles
            kl = kl + divergence / self.num_particles
        return BoundTerms(weights.likelihood * reconstruction, weights.latent * kl)

    def __call__(self, model: Any, guide: Any) -> nn.Module:
        """The loss as a module; its first arguments are checked now."""
        check_programs(model, guide)
        return super().__call__(model, guide)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, differentiable; its value and its surrogate are one, since all latents are reparameterized."""
        traces = self._get_traces(model, guide, args, kwargs)
        losses = [self._differentiable_loss_particle(*pair)[1] for pair in traces]
        return torch.stack(losses).sum() / self.num_particles

    def _check_pair(self, model: Any, guide: Any) -> None:
        """Raise unless model and guide are that, and fit each other, the masking process and this objective."""
        check_programs(model, guide)
        if not isinstance(model, VADDModel):
            return
        own, other = self.process, model.process
        if not own.is_same_as(other):
            raise ConfigError(
                f"the objective's process ({own.schedule}, vocab_size {own.vocab_size}) is not the model's "
                f"({other.schedule}, vocab_size {other.vocab_size}); pass model.process."
            )
        if isinstance(guide, RecognitionGuide):
            check_pair(model, guide)
            if guide.latent_shape.numel() > 0:
                self._check_explains(guide)

    def _check_explains(self, guide: RecognitionGuide) -> None:
        """Raise unless the guide explains what the objective lets it see: all masked tokens, none hidden."""
        require_explains(guide, "masked", type(self).__name__)

    def draw(
        self,
        model: Any,
        x_0: Tokens,
        is_frozen: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> DrawnBatch:
        """Times, masks and dropped latents of a batch; the loss of the result is one of the batch.

        Args:
            model: the model; its ``latent_dropout`` counts in training mode.
            x_0, is_frozen, is_padding, condition: the batch, as in ``MaskingProcess.corrupt``.
        """
        batch = self.corrupt(x_0, is_frozen=is_frozen, is_padding=is_padding, condition=condition)
        likelihood, latent = self.weigh(batch)
        # A jump that reveals nothing costs nothing; with a diverging weight its KL would not vanish.
        explained = batch.recognition_inputs[1]
        likelihood = likelihood.masked_fill(~batch.target.any(-1), 0.0)
        latent = latent.masked_fill(~explained.any(-1), 0.0)
        if isinstance(model, VADDModel) and model.training and model.latent_dropout > 0:
            uniform = torch.rand(x_0.shape[0], device=x_0.device, generator=self.generator)
            is_dropped = uniform < model.latent_dropout
            batch = replace(batch, is_null=is_dropped if batch.is_null is None else batch.is_null | is_dropped)
        if batch.is_null is not None:
            latent = latent.masked_fill(batch.is_null, 0.0)
        return DrawnBatch(batch, SiteWeights(likelihood, latent))

    def _run(self, model: Any, guide: Any, batch: CorruptedBatch, scales: dict[str, Tensor]) -> Iterator[Any]:
        """Trace guide and model on the batch, once for each particle or once for all."""
        self._check_pair(model, guide)
        is_vectorized = self.vectorize_particles and self.num_particles > 1
        if is_vectorized and self.max_plate_nesting == math.inf:
            self._guess_max_plate_nesting(model, guide, (batch,), {})
        for _ in range(1 if is_vectorized else self.num_particles):
            with ScaleSites(scales):
                trace = self._get_vectorized_trace if is_vectorized else self._get_trace
                try:
                    traces = trace(model, guide, (batch,), {})
                except ValueError as error:
                    if isinstance(error.__cause__, VADDError):  # Pyro wraps errors of a site's log-density
                        raise error.__cause__ from None
                    raise
            yield traces  # outside the handler: code between two particles must not see it

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[Any]:
        is_drawn = len(args) == 1 and isinstance(args[0], DrawnBatch)
        if is_drawn and kwargs:
            raise ConfigError(f"a DrawnBatch holds all that the rows have; give {', '.join(kwargs)} to draw.")
        batch, weights = args[0] if is_drawn else self.draw(model, *args, **kwargs)
        self.last_terms = None  # so that the particles of this step alone are summed
        batch_size = batch.x_0.shape[0]
        scales = {"x_0": weights.likelihood / batch_size, "z": weights.latent / batch_size}
        yield from self._run(model, guide, batch, scales)

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Tensor, Tensor]:
        reconstruction: Any = 0.0
        kl: Any = 0.0
        charged: Any = 0.0  # the KL after free bits
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                reconstruction = reconstruction - site["log_prob_sum"]
                continue
            guide_site = guide_trace.nodes[name]
            divergence = self._divergence(guide_site, site)
            kl = kl + weighted_sum(divergence, guide_site)
            charged = charged + self._charge(divergence, guide_site)
        # Weight zero leaves the KL out altogether, also where it is infinite.
        loss = reconstruction + self.kl_weight * charged if self.kl_weight > 0 else reconstruction
        earlier = self.last_terms or BoundTerms(torch.zeros_like(loss), torch.zeros_like(loss))
        self.last_terms = BoundTerms(
            earlier.reconstruction + reconstruction.detach() / self.num_particles,
            earlier.kl + kl.detach() / self.num_particles,
        )
        if self.process.checks_values and not bool(torch.isfinite(loss)):
            raise diagnose_loss(model_trace, guide_trace)
        return loss.detach(), loss

    def _charge(self, divergence: Tensor, site: dict[str, Any]) -> Tensor:
        """The weighted KL after free bits."""
        if self.free_bits == 0:
            return weighted_sum(divergence, site)
        if self.kl_mode == "analytic":
            return weighted_sum(divergence.clamp(min=self.free_bits), site)
        # One draw says little of its row's KL, and its floor would charge for noise: the batch's sum has the floor.
        free = weighted_sum(torch.full_like(divergence, self.free_bits), site)
        return torch.maximum(weighted_sum(divergence, site), free)

    def _divergence(self, guide_site: dict[str, Any], model_site: dict[str, Any]) -> Tensor:
        """KL(guide || model) of a site in nats, shape of the site's batch; notes how it was found."""
        posterior, prior, z = guide_site["fn"], model_site["fn"], guide_site["value"]
        if not posterior.has_rsample:
            raise ConfigError(
                f"the guide's distribution at site {guide_site['name']!r} must be reparameterized (has_rsample), got "
                f"{type(posterior).__name__}."
            )
        check_same_kind(posterior, prior)
        with torch.autocast(z.device.type, enabled=False):  # networks of a density, too: a flow's
            return self._exact_divergence(posterior, prior, z)

    def _exact_divergence(self, posterior: Any, prior: Any, z: Tensor) -> Tensor:
        exact = analytic_divergence(posterior, prior)
        self.kl_mode = "monte-carlo" if exact is None else "analytic"
        if exact is None and torch.is_grad_enabled() and is_discrete(posterior):
            raise ConfigError(
                "the KL divergence of a discrete latent from this prior has no formula, and its estimate no gradient "
                "to the guide: train with CategoricalPrior or ConditionalCategoricalPrior."
            )
        return posterior.log_prob(z) - prior.log_prob(z) if exact is None else exact
