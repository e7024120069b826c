"""Ready combinations of prior, objective, KL schedule and sampler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vadd._checks import require_integer, require_kind
from vadd.backbones.base import Denoiser, EmptyRecognition, Recognition
from vadd.backbones.families import RelaxedOneHot, StraightThrough
from vadd.errors import ConfigError
from vadd.evaluation.gating import GateFit, fit_gate
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives import DELBO, ConstantKL, LinearKL, MixedELBO, NullLatentELBO, SharedLatentELBO, StepLaw
from vadd.objectives.elbo import DiffusionELBO
from vadd.priors import CategoricalPrior, LatentPrior, MixturePrior, StandardNormalPrior
from vadd.process import MaskingProcess
from vadd.samplers.gate import Mode
from vadd.training.aggregate import AggregateFit, fit_aggregate_prior
from vadd.types import Tokens

__all__ = ["Pair", "Recipe", "get_recipe"]

#: The numbers of steps that the default recipe trains for: with more rows for few, the bound is better there and worse
#: for many.
DEFAULT_LAW = StepLaw((1, 2, 4, None), (0.3, 0.1, 0.15, 0.45))
#: Share of its rows without a latent, which keep a masked diffusion model inside the model.
DEFAULT_NULL_SHARE = 0.2
#: The same for many steps: most rows are trained for infinitely many, and fewer without a latent.
MANY_LAW = StepLaw((1, 2, 4, None), (0.1, 0.05, 0.1, 0.75))
MANY_NULL_SHARE = 0.1
DEFAULT_COMPONENTS = 50
#: Components of the mixture that is fitted after training, and the most sequences that it is fitted on.
REFIT_COMPONENTS = 100
REFIT_ROWS = 10_000


class Pair(NamedTuple):
    """A model and its guide."""

    model: VADDModel
    guide: RecognitionGuide


@dataclass(frozen=True)
class Recipe:
    """How a pair is built, trained and sampled from; see :func:`get_recipe`.

    Attributes:
        name: of the recipe.
        latents: where the sampler's latents come from: the model's default.
        kl_warmup: share of the updates over which the KL weight rises from 0 to 1.
        refits_prior: whether training ends with a mixture prior fitted to the posteriors.
        is_gated: whether it then ends with a choice of each jump's latent on validation data.
        make_prior: the prior for a latent of a given shape.
        make_objective: the objective for a process and the options of
            :class:`~vadd.objectives.DiffusionELBO`.
    """

    name: str
    latents: Mode
    kl_warmup: float
    refits_prior: bool
    is_gated: bool
    make_prior: Callable[[torch.Size], LatentPrior]
    make_objective: Callable[..., DiffusionELBO]

    def pair(
        self,
        denoiser: Denoiser,
        recognition: Recognition,
        process: MaskingProcess,
        *,
        prior: LatentPrior | None = None,
    ) -> Pair:
        """Model and guide.

        Args:
            denoiser, recognition, process: the parts.
            prior: another than the recipe's, which is a categorical one for one-hot families.

        Raises:
            ConfigError: if a part is of another type, or the parts do not fit together.
        """
        require_kind("denoiser", denoiser, Denoiser, "for example MLPDenoiser(vocab_size, num_tokens, latent_shape)")
        require_kind("recognition", recognition, Recognition, "for none there is EmptyRecognition()")
        if self.name == "mdm" and denoiser.latent_shape.numel():
            raise ConfigError(
                'recipe "mdm" has no latent: build the denoiser with latent_shape=0 and pass EmptyRecognition().'
            )
        if self.name != "mdm" and isinstance(recognition, EmptyRecognition):
            raise ConfigError(f'recipe {self.name!r} needs a recognition network; for none there is "mdm".')
        shape = torch.Size(denoiser.latent_shape)
        if torch.Size(recognition.latent_shape) != shape:
            raise ConfigError(
                "denoiser and recognition disagree on latent_shape: "
                f"{tuple(shape)} and {tuple(recognition.latent_shape)}."
            )
        if prior is None:
            is_one_hot = isinstance(getattr(recognition, "family", None), StraightThrough | RelaxedOneHot)
            prior = CategoricalPrior(shape) if is_one_hot else self.make_prior(shape)
        return Pair(VADDModel(denoiser, prior, process, latents=self.latents), RecognitionGuide(recognition))

    def objective(self, process: MaskingProcess, **options: Any) -> DiffusionELBO:
        """The training objective; ``options`` are those of :class:`~vadd.objectives.DiffusionELBO`."""
        return self.make_objective(process, **options)

    def kl_schedule(self, num_updates: int) -> Callable[[int], float]:
        """The KL weight by update: ``objective.kl_weight = schedule(step)`` before each.

        Raises:
            DomainError: if ``num_updates`` is no positive integer.
        """
        require_integer("num_updates", num_updates)
        warmup = round(self.kl_warmup * num_updates)
        return LinearKL(warmup) if warmup > 0 else ConstantKL()

    def finish(
        self,
        model: VADDModel,
        guide: RecognitionGuide,
        validation: Tokens,
        *,
        training: Int[Tensor, "rows dim"] | Mapping[str, Tensor] | None = None,
        num_steps: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
        **options: Any,
    ) -> GateFit | None:
        """What the recipe does after training: fit the prior anew, then choose the gate, where it does.

        The prior is replaced where the fit gains more than two standard errors on rows that took no part in it. Its
        posteriors are those of sequences that the guide was trained on; a few thousand are enough.

        Args:
            model, guide: the trained pair.
            validation: sequences, other than those that the result is judged on.
            training: sequences to fit the prior on, or a mapping of ``x_0``, ``is_padding`` and ``condition``; without
                them it stays.
            num_steps: the numbers of steps to choose a gate for.
            **options: further ones of :func:`~vadd.evaluation.fit_gate`.

        Raises:
            ConfigError: if ``training`` is neither tokens nor a mapping; other errors are those of
                :func:`~vadd.training.fit_aggregate_prior` and :func:`~vadd.evaluation.fit_gate`.
        """
        if self.refits_prior and training is not None:
            self.refit_prior(model, guide, training)
        if not self.is_gated:
            return None
        fit = fit_gate(model, guide, validation, num_steps=num_steps, **options)
        model.gate = fit.gate
        return fit

    @staticmethod
    def refit_prior(model: VADDModel, guide: RecognitionGuide, training: Tokens | Mapping[str, Tensor]) -> AggregateFit:
        """Fit a mixture to the posteriors, and give it to the model where it gains more than two standard errors.

        Raises:
            ConfigError: if ``training`` is neither tokens nor a mapping.
        """
        require_kind("training", training, (Tensor, Mapping), "give x_0, or a mapping of x_0, is_padding and condition")
        given = {"x_0": training} if isinstance(training, Tensor) else training
        rows: dict[str, Any] = {name: value[:REFIT_ROWS] for name, value in given.items()}
        fit = fit_aggregate_prior(model, guide, rows.pop("x_0"), num_components=REFIT_COMPONENTS, **rows)
        if fit.gain > 2 * fit.stderr:
            model.prior = fit.prior
        return fit


def get_recipe(name: str = "default") -> Recipe:
    r"""A recipe by its name.

    - ``"default"``: one latent a trajectory, from a learned mixture of normals. Trained by
      :class:`~vadd.objectives.SharedLatentELBO` for the numbers of steps of ``DEFAULT_LAW``, a fifth of the rows by
      :class:`~vadd.objectives.NullLatentELBO`; afterwards a mixture is fitted to the posteriors as the prior, and a
      gate chooses each jump's latent. A recognition network of half the denoiser's width is enough.
    - ``"default-many"``: the same for sampling in many steps: trained mostly for infinitely many (``MANY_LAW``).
    - ``"paper"``: the recipe of Xie et al. (arXiv 2505.17384): standard normal prior, the DELBO with a linear KL
      warm-up over the first quarter of the updates, a fresh latent at every step, and a recognition network of
      the denoiser's size.
    - ``"mdm"``: the plain masked diffusion model; denoiser with ``latent_shape=0`` and ``EmptyRecognition()``.

    Raises:
        ConfigError: on an unknown name.
    """
    if name not in _RECIPES:
        raise ConfigError(f"recipe must be one of {', '.join(_RECIPES)}, got {name!r}.")
    return _RECIPES[name]


def _mixture_prior(latent_shape: torch.Size) -> LatentPrior:
    return MixturePrior(latent_shape, DEFAULT_COMPONENTS)


def _default_objective(process: MaskingProcess, **options: Any) -> DiffusionELBO:
    return _mixed(process, DEFAULT_LAW, DEFAULT_NULL_SHARE, **options)


def _many_objective(process: MaskingProcess, **options: Any) -> DiffusionELBO:
    return _mixed(process, MANY_LAW, MANY_NULL_SHARE, **options)


def _mixed(process: MaskingProcess, law: StepLaw, null_share: float, **options: Any) -> DiffusionELBO:
    parts: list[tuple[DiffusionELBO, float]] = [
        (SharedLatentELBO(process, law), 1 - null_share),
        (NullLatentELBO(process), null_share),
    ]
    return MixedELBO(parts, **options)


_RECIPES = {
    "default": Recipe("default", "shared", 0.4, True, True, _mixture_prior, _default_objective),
    "default-many": Recipe("default-many", "shared", 0.4, True, True, _mixture_prior, _many_objective),
    "paper": Recipe("paper", "fresh", 0.25, False, False, StandardNormalPrior, DELBO),
    "mdm": Recipe("mdm", "fresh", 0.0, False, False, StandardNormalPrior, DELBO),
}
