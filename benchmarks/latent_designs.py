"""The designs of the latent that are compared: networks, prior, family and objective of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from latent_design_data import Data

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmbeddingRecognition, EmptyRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.objectives import (
    DELBO,
    DiffusionELBO,
    FiniteStepELBO,
    MixedELBO,
    NullLatentELBO,
    SharedLatentELBO,
    StepLaw,
)
from vadd.priors import (
    CategoricalPrior,
    ConditionalPrior,
    FlowPrior,
    LatentPrior,
    StandardNormalPrior,
    TrunkPrior,
    VampPrior,
)
from vadd.recipes import DEFAULT_LAW, Recipe, get_recipe
from vadd.schedules import LinearSchedule


@dataclass(frozen=True)
class Design:
    """One way to use the latent.

    Attributes:
        about: what it is.
        recipe: the recipe that it is, or that it varies.
        objective: the objective, where not the recipe's.
        prior: the prior, where not the recipe's; gets the data, the recognition network and the denoiser.
        family: the recognition family.
        latent_shape: the latent's shape, where not one vector.
        explains: as in the guide.
        is_light: whether the recognition network is the smaller one.
        reads_embedding: whether it is a small transformer on the denoiser's embedding instead.
        refits_prior: whether a mixture is fitted to the posteriors after training.
        latent_dropout: as in the model.
        modes: modes that the gate chooses from; none for no gate.
        curves: modes whose bound is reported beside the sampler's own.
        kl_warmup: share of the updates, where not the recipe's.
    """

    about: str
    recipe: str = "default"
    objective: Callable[[MaskingProcess], DiffusionELBO] | None = None
    prior: Callable[[Data, Recognition, MLPDenoiser], LatentPrior] | None = None
    family: str = "diagonal"
    latent_shape: tuple[int, ...] | Callable[[Data], tuple[int, ...]] | None = None
    explains: str = "masked"
    is_light: bool = True
    reads_embedding: bool = False
    refits_prior: bool = False
    latent_dropout: float = 0.0
    modes: tuple[str, ...] = ("shared", "fresh", "null")
    curves: tuple[str, ...] = field(default=())
    kl_warmup: float | None = None


def shared(law: StepLaw, null_share: float = 0.2) -> Callable[[MaskingProcess], DiffusionELBO]:
    """The default recipe's objective with another law of steps or share of null rows."""

    def build(process: MaskingProcess) -> DiffusionELBO:
        if null_share == 0:
            return SharedLatentELBO(process, law)
        return MixedELBO([(SharedLatentELBO(process, law), 1 - null_share), (NullLatentELBO(process), null_share)])

    return build


def stepwise(target: str) -> Callable[[MaskingProcess], DiffusionELBO]:
    """Steps with a fresh latent each, mixed with the DELBO where the recognition network sees all masked tokens."""

    def build(process: MaskingProcess) -> DiffusionELBO:
        steps = FiniteStepELBO(process, StepLaw.log_uniform(16), target=target)
        parts: list[tuple[DiffusionELBO, float]] = [(steps, 0.4), (NullLatentELBO(process), 0.2)]
        parts.append((DELBO(process), 0.4) if target == "masked" else (FiniteStepELBO(process, 1, target=target), 0.4))
        return MixedELBO(parts)

    return build


def normal(data: Data, recognition: Recognition, denoiser: MLPDenoiser) -> LatentPrior:
    """The standard normal prior of the recognition network's latent."""
    return StandardNormalPrior(tuple(recognition.latent_shape))


def trunk(data: Data, recognition: Recognition, denoiser: MLPDenoiser) -> LatentPrior:
    """A prior that reads ``x_t`` by the denoiser's trunk."""
    return TrunkPrior(data.latent_size, denoiser.context_size)


def conditional(data: Data, recognition: Recognition, denoiser: MLPDenoiser) -> LatentPrior:
    """A prior that reads ``x_t``, by a network of the light size."""
    encoder = MLPRecognition(data.vocab_size, data.train.shape[1], data.latent_size, **data.light)
    return ConditionalPrior(encoder, data.vocab_size)


DESIGNS = {
    "mdm": Design("masked diffusion, no latent", "mdm", modes=()),
    "paper": Design("the paper's recipe", "paper", is_light=False, modes=()),
    "paper-slow": Design(
        "the paper's recipe, KL warm-up over 70 % of the updates",
        "paper",
        is_light=False,
        modes=(),
        kl_warmup=0.7,
    ),
    "default": Design("the default recipe", curves=("null",), refits_prior=True),
    "no-refit": Design("the default recipe, its prior not fitted anew after training (A)", curves=("null",)),
    "vae": Design(
        "A trained for one step alone: a VAE with a mixture prior",
        objective=shared(StepLaw((1,), (1.0,)), 0),
        modes=("shared",),
    ),
    "standard-prior": Design("A with a standard normal prior", prior=normal),
    "no-null": Design("A without null rows", objective=shared(DEFAULT_LAW, 0), modes=("shared",)),
    "uniform-law": Design("A with a uniform law of steps", objective=shared(StepLaw.uniform((1, 2, 4, 8, 16, None)))),
    "flow-prior": Design("A with a flow prior", prior=lambda d, r, _: FlowPrior(d.latent_size)),
    "vamp-prior": Design(
        "A with a VampPrior of 50 validation sequences",
        prior=lambda d, r, _: VampPrior.from_data(r, d.validation, 50),
    ),
    "low-rank": Design("A with a covariance of low rank plus diagonal", family="low-rank"),
    "full-posterior": Design("A with a full covariance", family="full"),
    "flow-posterior": Design("A with a flow posterior", family="flow"),
    "discrete": Design(
        "A with a discrete latent of 16 groups of 8",
        latent_shape=(16, 8),
        family="relaxed",
        prior=lambda d, r, _: CategoricalPrior((16, 8)),
    ),
    "per-position": Design("A with a number a position", latent_shape=lambda d: (d.train.shape[1], 1)),
    "embedding-recognition": Design(
        "A with a small transformer on the denoiser's embedding for recognition", reads_embedding=True
    ),
    "fresh-null": Design(
        "fresh latents: DELBO, null rows (40 %), gate, light recognition",
        "paper",
        prior=normal,
        latent_dropout=0.4,
        modes=("fresh", "null"),
    ),
    "fresh-conditional": Design(
        "fresh latents: the same with a prior that reads x_t",
        "paper",
        prior=conditional,
        latent_dropout=0.4,
        modes=("fresh", "null"),
    ),
    "fresh-trunk": Design(
        "fresh latents: the same with a prior that reads x_t by the denoiser's trunk",
        "paper",
        prior=trunk,
        latent_dropout=0.4,
        modes=("fresh", "null"),
    ),
    "fresh-steps": Design(
        "fresh latents trained for 1 to 16 steps and by DELBO, prior that reads x_t",
        "paper",
        objective=stepwise("masked"),
        prior=conditional,
        modes=("fresh", "null"),
    ),
    "fresh-revealed": Design(
        "fresh latents for 1 to 16 steps, recognition sees only what the jump reveals",
        "paper",
        objective=stepwise("revealed"),
        prior=conditional,
        explains="revealed",
        modes=("fresh", "null"),
    ),
}
FINALISTS = ("mdm", "paper", "default")


def build(design: Design, data: Data) -> tuple[VADDModel, RecognitionGuide, DiffusionELBO]:
    """Model, guide and objective of a design."""
    recipe: Recipe = get_recipe(design.recipe)
    num_tokens, has_latent = data.train.shape[1], design.recipe != "mdm"
    shape: Any = design.latent_shape or (data.latent_size if has_latent else 0)
    shape = shape(data) if callable(shape) else shape
    process = MaskingProcess(LinearSchedule(), data.vocab_size)
    denoiser = MLPDenoiser(data.vocab_size, num_tokens, shape, **data.denoiser)
    recognition: Recognition = EmptyRecognition()
    if has_latent:
        size = data.light if design.is_light else data.recognition
        recognition = MLPRecognition(data.vocab_size, num_tokens, shape, family=design.family, **size)
        if design.reads_embedding:
            recognition = EmbeddingRecognition.for_denoiser(denoiser, hidden_size=64, depth=1, positions="learned")
    if design.prior is None:
        model, guide = recipe.pair(denoiser, recognition, process)
    else:
        prior = design.prior(data, recognition, denoiser)
        model = VADDModel(denoiser, prior, process, latents=recipe.latents, latent_dropout=design.latent_dropout)
        guide = RecognitionGuide(recognition, explains=design.explains)
    objective = recipe.objective(process) if design.objective is None else design.objective(process)
    return model, guide, objective
