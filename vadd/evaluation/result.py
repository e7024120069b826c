"""What an evaluation returns: a number, its error, and what it is a bound of."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import DomainError, VADDError
from vadd.evaluation.importance import Proposal

__all__ = ["BoundResult", "NotABoundError"]


class NotABoundError(VADDError, AttributeError):
    """A perplexity or bits per dimension was asked of a quantity that bounds no likelihood."""


@dataclass(frozen=True)
class BoundResult:
    """Negative log-likelihood bounds of a batch, in nats per sequence.

    Attributes:
        kind: the name of the bound.
        bounds: the sampler for whose negative log-likelihood the expected value is an upper bound;
            None where it bounds none.
        nats_per_sequence: one estimate a sequence, float64, shape ``(batch,)``.
        stderr_per_sequence: standard error of each from masks and latents alone, NaN for one draw.
        num_scored: tokens scored in each sequence.
        num_latents: latents inside each logarithm (``K``), or trajectories of a shared-latent bound; 1 where no latent
            is drawn.
        num_draws: masks drawn for each sequence.
        seed: the seed of masks and latents. The masks do not depend on the model (but for shared-latent
            with several latents), so results of one seed are paired.
        proposal: where the latents come from; None where none is drawn.
    """

    kind: str
    bounds: str | None
    nats_per_sequence: Float[Tensor, " batch"]
    stderr_per_sequence: Float[Tensor, " batch"]
    num_scored: Int[Tensor, " batch"]
    num_latents: int
    num_draws: int
    seed: int
    proposal: Proposal | None = None

    @property
    def nats(self) -> float:
        """Mean over the sequences, in nats per sequence."""
        return float(self.nats_per_sequence.mean())

    @property
    def stderr(self) -> float:
        """Standard error of :attr:`nats` as an estimate for the population: data, masks and latents."""
        num = self.nats_per_sequence.numel()
        return float(self.nats_per_sequence.std() / math.sqrt(num)) if num > 1 else math.nan

    @property
    def estimator_stderr(self) -> float:
        """Standard error of :attr:`nats` for these very sequences: masks and latents alone."""
        return float(self.stderr_per_sequence.square().sum().sqrt() / self.stderr_per_sequence.numel())

    @property
    def bits_per_dim(self) -> float:
        """Bits for each scored token.

        Raises:
            DomainError: if no token was scored.
        """
        self.require_bound("bits_per_dim")
        return self._nats_per_token() / math.log(2)

    @property
    def perplexity(self) -> float:
        """Exponential of the nats for each scored token.

        Raises:
            DomainError: if no token was scored.
        """
        self.require_bound("perplexity")
        return math.exp(self._nats_per_token())

    @property
    def delbo_bits_per_dim(self) -> float:
        """The published metric of VADD under a name of its own: DELBO in bits a token, not a bound.

        Raises:
            DomainError: if no token was scored.
        """
        self.require_delbo("delbo_bits_per_dim")
        return self._nats_per_token() / math.log(2)

    @property
    def delbo_perplexity(self) -> float:
        """The published metric of VADD under a name of its own: exp of DELBO a token, not a bound.

        Raises:
            DomainError: if no token was scored.
        """
        self.require_delbo("delbo_perplexity")
        return math.exp(self._nats_per_token())

    def _nats_per_token(self) -> float:
        if not self.num_scored.any():
            raise DomainError("no token was scored, all being frozen or padding: there are no nats a token; see nats.")
        return float(self.nats_per_sequence.sum() / self.num_scored.sum())

    def require_bound(self, name: str) -> None:
        """Check that the value may go by the name of a likelihood.

        Args:
            name: the figure that is asked for, for the message.

        Raises:
            NotABoundError: if it bounds none.
        """
        if self.bounds is None:
            raise NotABoundError(
                f"{name} is the name of a likelihood, and the DELBO of a model with a latent bounds none: it can "
                f"lie below the entropy of the data. Use delbo_{name} for comparison with published figures, or "
                'bound="finite-step" or "marginal".'
            )

    def require_delbo(self, name: str) -> None:
        """Check that the value is the published metric: the DELBO with one latent of the guide.

        Args:
            name: the figure that is asked for, for the message.

        Raises:
            NotABoundError: if it is another one.
        """
        if self.kind != "delbo" or self.num_latents != 1 or self.proposal not in ("guide", None):
            raise NotABoundError(
                f"{name} is the published metric, of bound='delbo' with one latent of the guide, not of {self.kind!r} "
                f"with num_latents={self.num_latents}, proposal={self.proposal!r}."
            )

    def __repr__(self) -> str:
        claim = "no likelihood" if self.bounds is None else self.bounds
        return f"BoundResult({self.kind}: {self.nats:.3f} ± {self.stderr:.3f} nats per sequence, bounds {claim})"


def collect(
    kind: str,
    bounds: str | None,
    draws: list[Tensor],
    num_scored: Tensor,
    num_latents: int,
    seed: int,
    proposal: Proposal | None = None,
) -> BoundResult:
    """Average draws of shape ``(batch,)`` into a result."""
    values = torch.stack(draws)
    num = values.shape[0]
    spread = values.std(0) / math.sqrt(num) if num > 1 else torch.full_like(values[0], math.nan)
    return BoundResult(kind, bounds, values.mean(0), spread, num_scored, num_latents, num, seed, proposal)
