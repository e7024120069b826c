"""Tiny models that can be enumerated: everything is a table.

Sequences of ``N`` tokens are numbered, and each network looks its output up under that number. Tables are
random from a seed and in float64, so that enumerated values carry no rounding worth speaking of.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence, register_kl

from vadd.backbones.base import Denoiser, Recognition, diagonal_normal
from vadd.model import VADDModel
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.process import MaskingProcess
from vadd.schedules import LinearSchedule, NoiseSchedule
from vadd.types import Distribution, Flags, Latents, Logits, Times, Tokens

__all__ = [
    "AtomPrior",
    "Atoms",
    "TabularDenoiser",
    "TabularRecognition",
    "exact_posterior_recognition",
    "tiny_model",
]


class Atoms(TorchDistribution):
    """Distribution over latents of shape ``(1,)`` that puts its mass on a few points.

    Args:
        atoms: the points, shape ``(atoms,)``, all different.
        logits: unnormalised log-probabilities, shape ``(*batch, atoms)``.
    """

    arg_constraints = {}  # pyright: ignore[reportAssignmentType]
    support = constraints.independent(constraints.real, 1)  # pyright: ignore[reportAssignmentType]
    has_enumerate_support = True

    def __init__(
        self,
        atoms: Float[Tensor, " atoms"],
        logits: Float[Tensor, "*batch atoms"],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.atoms = atoms
        self.log_weights = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], torch.Size([1]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Atoms":
        logits = self.log_weights.expand(*batch_shape, len(self.atoms))
        return Atoms(self.atoms, logits, validate_args=self._validate_args)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*sample_batch 1"]:
        index = torch.distributions.Categorical(logits=self.log_weights).sample(torch.Size(sample_shape))
        return self.atoms[index].unsqueeze(-1)

    def log_prob(self, value: Float[Tensor, "*value_batch 1"]) -> Float[Tensor, "*value_batch"]:
        """Logarithm of the mass at ``value`` in nats; minus infinity away from the atoms."""
        return torch.where(value == self.atoms, self.log_weights, -torch.inf).logsumexp(-1)

    def enumerate_support(self, expand: bool = True) -> Float[Tensor, "atoms *batch 1"]:
        """The atoms along a new leftmost axis."""
        points = self.atoms.reshape(-1, *[1] * len(self.batch_shape), 1)
        return points.expand(-1, *self.batch_shape, 1) if expand else points


@register_kl(Atoms, Atoms)
def _kl_atoms(r: Atoms, p: Atoms) -> Tensor:
    return kl_divergence(*(torch.distributions.Categorical(logits=d.log_weights) for d in (r, p)))


class TabularDenoiser(Denoiser):
    """Logits ``a + b sin z + c cos z + d t`` from tables of random numbers, one entry for each ``x_t``.

    Args:
        vocab_size: number of clean tokens ``V``.
        num_tokens: length ``N``; the tables have ``(V + 1)**N`` entries.
        latent_dim: 1, or 0 for a plain masked diffusion model.
        scale: standard deviation of ``a``, ``b`` and ``c``.
        time_scale: standard deviation of ``d``; 0 gives a network that does not read ``t``.
        seed: of the tables.
    """

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int,
        *,
        latent_dim: Literal[0, 1] = 1,
        scale: float = 1.0,
        time_scale: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.num_tokens = num_tokens
        self.latent_shape = torch.Size([latent_dim])
        shape = (4, (vocab_size + 1) ** num_tokens, num_tokens, vocab_size)
        scales = torch.tensor([scale, scale, scale, time_scale], dtype=torch.float64)
        self.tables = nn.Parameter(_random_table(shape, seed) * scales.reshape(4, 1, 1, 1))

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        z: Latents,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Logits:
        a, b, c, d = self.tables[:, _number(x_t, self.vocab_size + 1, is_padding)]
        logits = a + d * t.reshape(-1, 1, 1)
        if z.shape[1]:
            z = z.reshape(-1, 1, 1)
            logits = logits + b * torch.sin(z) + c * torch.cos(z)
        return logits


class AtomPrior(LatentPrior):
    """Prior on a few atoms with random probabilities.

    Args:
        atoms: the points.
        vocab_size: number of clean tokens ``V``.
        num_tokens: length ``N``.
        is_conditional: whether the probabilities depend on ``x_t``.
        seed: of the probabilities.
    """

    latent_shape = torch.Size([1])
    atoms: Tensor

    def __init__(
        self,
        atoms: Iterable[float],
        vocab_size: int,
        num_tokens: int,
        *,
        is_conditional: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.num_values = vocab_size, vocab_size + 1
        self.register_buffer("atoms", torch.tensor(list(atoms), dtype=torch.float64))
        rows = self.num_values**num_tokens if is_conditional else 1
        self.table = nn.Parameter(_random_table((rows, len(self.atoms)), seed))

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        # An unconditional table has a single row.
        row = _number(x_t, self.num_values, is_padding) % len(self.table)
        return Atoms(self.atoms, self.table[row])


class TabularRecognition(Recognition):
    """Recognition network from a table, one entry for each pair of tokens and target.

    Args:
        vocab_size: number of clean tokens ``V``; hidden positions carry ``V``.
        num_tokens: length ``N``.
        atoms: points of a discrete latent; None gives a normal distribution over ``z``.
        scale: standard deviation of the logits, or of mean and log-variance.
        seed: of the table.
    """

    latent_shape = torch.Size([1])
    atoms: Tensor

    def __init__(
        self,
        vocab_size: int,
        num_tokens: int,
        *,
        atoms: Iterable[float] | None = None,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.is_discrete = atoms is not None
        self.register_buffer("atoms", torch.tensor([] if atoms is None else list(atoms), dtype=torch.float64))
        shape = ((vocab_size + 1) ** num_tokens, 2**num_tokens, len(self.atoms) if self.is_discrete else 2)
        self.table = nn.Parameter(scale * _random_table(shape, seed))

    def forward(
        self,
        tokens: Tokens,
        target: Flags,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        row = _number(tokens, self.vocab_size + 1, is_padding)
        entry = self.table[row, _number(target.long(), 2, is_padding)]
        if self.is_discrete:
            return Atoms(self.atoms, entry)
        return diagonal_normal(entry[:, :1], entry[:, 1:])


class _ComputedRecognition(Recognition):
    """A recognition model without parameters of its own."""

    latent_shape = torch.Size([1])

    def __init__(self, posterior: Callable[[Tensor, Tensor, Tensor], Distribution]) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, tokens: Tokens, target: Flags, t: Times, **options: Any) -> Distribution:
        return self.posterior(tokens, target, t)


def exact_posterior_recognition(model: VADDModel) -> Recognition:
    """The exact posterior ``p(z | x_S, x_t)`` of a model whose prior is an :class:`AtomPrior`.

    ``S`` is the target; tokens outside it are read as they are, so hidden ones must carry the mask token.
    """

    def posterior(tokens: Tensor, target: Tensor, t: Tensor) -> Distribution:
        x_t = tokens.masked_fill(target, model.process.mask_id)
        prior = model.prior(x_t, t)
        z = prior.enumerate_support()
        joint = prior.log_prob(z) + model.denoise(x_t, t, z, target=target).log_prob(tokens)
        return Atoms(prior.atoms, joint.movedim(0, -1))

    return _ComputedRecognition(posterior)


def tiny_model(
    vocab_size: int,
    num_tokens: int,
    *,
    atoms: Iterable[float] | None = None,
    latent_dim: Literal[0, 1] = 1,
    schedule: NoiseSchedule | None = None,
    is_conditional: bool = False,
    scale: float = 1.0,
    time_scale: float = 0.0,
    seed: int = 0,
) -> VADDModel:
    """A tabular model.

    Args:
        vocab_size: number of clean tokens ``V``.
        num_tokens: length ``N``.
        atoms: points of a discrete latent; None gives a standard normal one.
        latent_dim: 0 for a plain masked diffusion model.
        schedule: noise schedule; default linear.
        is_conditional: whether the probabilities of the atoms depend on ``x_t``.
        scale: strength of the dependence on ``x_t`` and ``z``.
        time_scale: strength of the dependence on ``t``.
        seed: of all tables.
    """
    denoiser = TabularDenoiser(
        vocab_size, num_tokens, latent_dim=latent_dim, scale=scale, time_scale=time_scale, seed=seed
    )
    prior: LatentPrior = StandardNormalPrior(latent_dim).double()
    if atoms is not None:
        prior = AtomPrior(atoms, vocab_size, num_tokens, is_conditional=is_conditional, seed=seed + 1)
    return VADDModel(denoiser, prior, MaskingProcess(schedule or LinearSchedule(), vocab_size))


def _random_table(shape: tuple, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _number(tokens: Tensor, base: int, is_padding: Tensor | None = None) -> Int[Tensor, " batch"]:
    """Number each row of tokens by reading them as digits; padding counts as 0."""
    if is_padding is not None:
        tokens = tokens.masked_fill(is_padding, 0)
    place = base ** torch.arange(tokens.shape[1], device=tokens.device)
    return (tokens * place).sum(-1)
