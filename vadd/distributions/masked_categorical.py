"""The factorized likelihood of masked diffusion."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from vadd.distributions.projection import chunk_on, require_vocab, scores_of_logits, token_scores
from vadd.errors import ShapeError

__all__ = ["MaskedCategorical", "sample_categorical"]

_LogitsAt = Callable[[Tensor], Tensor]
_ScoresAt = Callable[[Tensor, Tensor], Tensor]
_BLOCK = 256


class MaskedCategorical(TorchDistribution):
    r"""Distribution of the tokens that a jump arrives at, given ``x_t`` and the latent.

    Positions in ``target`` are drawn independently from :math:`\mathrm{softmax}(logits^i)`; every other
    position keeps its token of ``x_t`` with probability one. With the default target, all masked
    positions, a draw is a clean sequence and

    .. math:: \log p(x_0 \mid x_t, z) = \sum_{i \in M} \log \mu^i(x_0^i \mid x_t, z, t).

    With a smaller target the masked positions outside it stay masked. Log-probabilities are in
    nats per sequence, normalised in float32 or wider whatever the dtype of the logits; draws
    are those of :func:`sample_categorical`.

    Args:
        logits: shape ``(*batch, dim, vocab)``. Values outside ``target`` are ignored.
        x_t: tokens, shape ``(*batch, dim)`` or broadcastable to it.
        mask_id: the mask token.
        target: positions to draw, a subset of the masked ones; default all masked positions.

    Raises:
        ShapeError: if ``logits`` and ``x_t`` differ in ``dim``.
    """

    arg_constraints = {}  # pyright: ignore[reportAssignmentType] - a property of the base class
    has_rsample = False
    has_enumerate_support = False

    def __init__(
        self,
        logits: Float[Tensor, "*batch dim vocab"],
        x_t: Int[Tensor, "*#batch dim"],
        mask_id: int,
        *,
        target: Bool[Tensor, "*#batch dim"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if logits.shape[-2:-1] != x_t.shape[-1:]:
            raise ShapeError(
                f"logits must have shape (*batch, dim, vocab) with dim = {x_t.shape[-1]} as in x_t, "
                f"got {tuple(logits.shape)}."
            )
        flat = logits.flatten(0, -2)
        self._setup(lambda index: flat.index_select(0, index), logits.shape[:-1], x_t, mask_id, target, validate_args)

    @classmethod
    def from_features(
        cls,
        features: Float[Tensor, "*batch dim hidden"],
        head: nn.Module,
        x_t: Int[Tensor, "*#batch dim"],
        mask_id: int,
        *,
        target: Bool[Tensor, "*#batch dim"] | None = None,
        validate_args: bool | None = None,
    ) -> "MaskedCategorical":
        """The same distribution with ``logits = head(features)``, projected only where needed."""
        self = cls.__new__(cls)
        flat = features.flatten(0, -2)
        self._setup(
            lambda index: head(flat.index_select(0, index)), features.shape[:-1], x_t, mask_id, target, validate_args
        )
        self._scores_at = lambda index, tokens: token_scores(flat.index_select(0, index), head, tokens, mask_id)
        return self

    def _setup(
        self,
        logits_at: _LogitsAt,
        shape: torch.Size,
        x_t: Tensor,
        mask_id: int,
        target: Tensor | None,
        validate_args: bool | None,
    ) -> None:
        self._logits_at = logits_at
        self._scores_at: _ScoresAt = lambda index, tokens: scores_of_logits(logits_at(index), tokens, mask_id)
        self.mask_id = mask_id
        self.x_t = x_t.expand(shape)
        self.target = (self.x_t == mask_id) if target is None else target.expand(shape)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Token sequences; masked positions outside the target carry the mask token."""
        return constraints.independent(constraints.integer_interval(0, self.mask_id), 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "MaskedCategorical":
        shape = torch.Size(batch_shape) + self.event_shape
        if shape == self.x_t.shape:
            return self
        places = torch.arange(self.target.numel(), device=self.x_t.device).reshape(self.target.shape)
        places = places.expand(shape).flatten()
        inner, scores = self._logits_at, self._scores_at

        def logits_at(index: Tensor) -> Tensor:
            # Project each distinct position once, then repeat.
            used, inverse = places[index].unique(return_inverse=True)
            return inner(used)[inverse]

        def scores_at(index: Tensor, tokens: Tensor) -> Tensor:
            if len(index) * self.mask_id <= chunk_on(index.device):
                return scores_of_logits(logits_at(index), tokens, self.mask_id)
            return scores(places[index], tokens)  # in slices, each copy on its own

        new = type(self).__new__(type(self))
        new._setup(logits_at, shape, self.x_t, self.mask_id, self.target, validate_args=False)
        new._scores_at = scores_at
        new._validate_args = self._validate_args
        return new

    def logits_at(
        self, where: Bool[Tensor, "*batch dim"] | Int[Tensor, " selected"]
    ) -> Float[Tensor, "selected vocab"]:
        """Logits at the chosen positions; nothing else is projected.

        Args:
            where: flags, for logits in row-major order, or the flat numbers of positions.
        """
        index = where.flatten().nonzero()[:, 0] if where.dtype == torch.bool else where
        logits = self._logits_at(index)
        require_vocab(logits.shape[-1], self.mask_id)
        return logits

    @property
    def logits(self) -> Float[Tensor, "*batch dim vocab"]:
        """Logits at every position."""
        everywhere = torch.ones_like(self.target)
        return self.logits_at(everywhere).reshape(*self.target.shape, -1)

    def log_prob(self, value: Int[Tensor, "*value_batch dim"]) -> Float[Tensor, "*out"]:
        """Nats per sequence; minus infinity where a position outside the target differs from ``x_t``."""
        if self._validate_args:
            self._validate_sample(value)
        per_token = self.token_log_prob(value)
        changed = ((value != self.x_t) & ~self.target).any(-1)
        return per_token.sum(-1).masked_fill(changed, -torch.inf)

    def token_log_prob(self, value: Int[Tensor, "*value_batch dim"]) -> Float[Tensor, "*out dim"]:
        """Log-probability of each target token, zero elsewhere; sums to :meth:`log_prob`."""
        shape = torch.broadcast_shapes(value.shape, self.target.shape)
        if shape != self.target.shape:
            return self.expand(shape[:-1]).token_log_prob(value)
        value = value.expand(shape)
        index = self.target.flatten().nonzero()[:, 0]  # a GPU's host waits for their number
        tokens = value.flatten()[index]
        # The mask token is no outcome at a target position: probability zero, not an index error.
        is_clean = (tokens >= 0) & (tokens < self.mask_id)
        scores = self._scores_at(index, tokens.clamp(0, self.mask_id - 1))
        scores = scores.masked_fill(~is_clean, -torch.inf)
        # Not masked_scatter, whose gradient would count the targets, and so wait, once more.
        return scores.new_zeros(shape.numel()).index_copy(0, index, scores).reshape(shape)

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Int[Tensor, "*sample_batch dim"]:
        """Draw tokens at the target positions, shape ``(*sample_shape, *batch, dim)``."""
        if sample_shape:
            return self.expand(torch.Size(sample_shape) + self.batch_shape).sample(generator=generator)
        with torch.no_grad():
            drawn = sample_categorical(self.logits_at(self.target), generator=generator)
            return self.x_t.masked_scatter(self.target, drawn)

    @property
    def mode(self) -> Int[Tensor, "*batch dim"]:
        """The most probable token at each target position."""
        return self.x_t.masked_scatter(self.target, self.logits_at(self.target).argmax(-1))

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy in nats per sequence."""
        logits = self.logits_at(self.target)
        log_p = F.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
        p = log_p.exp()
        # Filled before the product, so that neither value nor gradient meets 0 * inf.
        per_token = -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1)
        return per_token.new_zeros(self.target.shape).masked_scatter(self.target, per_token).sum(-1)


def sample_categorical(
    logits: Float[Tensor, "*shape vocab"], *, generator: torch.Generator | None = None
) -> Int[Tensor, "*shape"]:
    """Draw from ``softmax(logits)`` by inversion, with one float64 uniform a draw.

    Float32 Gumbel noise never reaches tokens below about 6e-8, and a float32 running sum loses them. Here weights are
    summed in blocks and the blocks in float64: each token has its probability up to a relative error of some 1e-7
    (1e-15 for float64 logits). Tokens of probability zero are never drawn. Where the logits are NaN or all minus
    infinity the result is ``vocab``, which is no token.
    """
    vocab = logits.shape[-1]
    size = vocab if vocab <= 2 * _BLOCK else _BLOCK
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    weights = wide.new_zeros(*wide.shape[:-1], -(-vocab // size) * size)
    torch.sub(wide, wide.amax(-1, keepdim=True), out=weights[..., :vocab]).exp_()
    weights = weights.unflatten(-1, (-1, size))
    uniform = torch.rand(wide.shape[:-1], dtype=torch.float64, device=logits.device, generator=generator)
    sums = weights.sum(-1)
    block, uniform = _invert(sums.double(), uniform)
    inside = weights.gather(-2, block[..., None, None].expand(*block.shape, 1, size))[..., 0, :]
    token, _ = _invert(inside.double(), uniform)
    return torch.where(sums.sum(-1) > 0, block * size + token, vocab)


def _invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The item at which the running sum passes ``uniform`` of the total, and how far into the item, in ``[0, 1)``."""
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1:]
    # Rounding up to the total would select an item past the last possible one.
    point = torch.minimum(uniform[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    item = torch.searchsorted(cumulative, point, right=True).clamp(max=weights.shape[-1] - 1)
    weight = weights.gather(-1, item)
    share = (point - (cumulative.gather(-1, item) - weight)) / weight
    return item[..., 0], share.clamp(0, 1)[..., 0]
