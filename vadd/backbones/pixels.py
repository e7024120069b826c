"""Parts of networks for images: tokens to pixels and back, embeddings and heads that know the order of the values.

An image of ``height`` by ``width`` pixels with ``channels`` channels is a sequence of ``height * width * channels``
tokens: row by row, pixel by pixel, the channels of a pixel next to each other, as ``image.flatten()`` gives for an
array of shape ``(height, width, channels)``.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vadd._checks import is_integer
from vadd.backbones.layers import check_sizes
from vadd.errors import ConfigError, ShapeError
from vadd.registry import register
from vadd.types import Flags, Tokens

__all__ = [
    "DiscretizedLogisticHead",
    "ImageEmbedding",
    "PixelEmbedding",
    "as_image_shape",
    "discretized_logistic",
    "resolve_head",
]


def as_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Height, width and number of channels; ``(height, width)`` has one channel.

    Raises:
        ConfigError: unless it holds two or three positive integers.
    """
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or not all(map(is_integer, shape)):
        raise ConfigError(
            f"image_shape must be (height, width) or (height, width, channels), positive integers, got {image_shape!r}."
        )
    height, width, channels = (*shape, 1)[:3]
    return height, width, channels


class PixelEmbedding(nn.Embedding):
    """Embedding of ordinal tokens: a learned vector a token, and a learned direction times the token's value.

    The value runs from -1 for token 0 to 1 for the last clean token. The mask token has value 0 and its own vector.

    Args:
        vocab_size: number of clean tokens ``V``; inputs also carry the mask token ``V``.
        size: size of the embedding.
        uses_value: whether the value enters; without it this is a plain embedding.

    Raises:
        ConfigError: on sizes that are not positive.
    """

    def __init__(self, vocab_size: int, size: int, *, uses_value: bool = True) -> None:
        check_sizes(vocab_size=vocab_size, size=size)
        super().__init__(vocab_size + 1, size)
        self.direction = None
        if uses_value:
            self.direction = nn.Parameter(torch.randn(size))
            with torch.no_grad():
                # Neighbours start alike: the value tells clean tokens apart before their own vectors do.
                self.weight[:-1].mul_(0.3)

    def forward(self, input: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch size"]:
        table = self.weight
        if self.direction is not None:
            # Computed here: a buffer would lose its digits in a half-precision network.
            values = scaled_values(self.num_embeddings - 1, table.device, torch.promote_types(table.dtype, torch.float))
            table = torch.cat([table[:-1] + (values[:, None] * self.direction).to(table.dtype), table[-1:]])
        return F.embedding(input, table)


def scaled_values(vocab_size: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " vocab"]:
    """The values of the clean tokens, evenly from -1 to 1; 0 for a single one."""
    if vocab_size == 1:
        return torch.zeros(1, device=device, dtype=dtype)
    return torch.linspace(-1, 1, vocab_size, device=device, dtype=dtype)


class ImageEmbedding(nn.Module):
    """Embeds the tokens of an image and joins those of each pixel.

    Args:
        image_shape: ``(height, width)`` or ``(height, width, channels)``.
        vocab_size: number of clean tokens ``V``; inputs also carry the mask token ``V``.
        size: size of a token's embedding; a pixel's is ``channels * size``.
        uses_value: see :class:`PixelEmbedding`.
        reads_target: learn a vector that is added at target positions.

    Raises:
        ConfigError: on sizes that are not positive, or a shape that is none of an image.
    """

    def __init__(
        self, image_shape: Sequence[int], vocab_size: int, size: int, *, uses_value: bool, reads_target: bool
    ) -> None:
        super().__init__()
        self.image_shape = as_image_shape(image_shape)
        self.num_tokens = torch.Size(self.image_shape).numel()
        self.table = PixelEmbedding(vocab_size, size, uses_value=uses_value)
        self.target = nn.Parameter(torch.randn(size)) if reads_target else None

    def forward(
        self, tokens: Tokens, target: Flags | None = None, is_padding: Flags | None = None
    ) -> Float[Tensor, "batch height width size"]:
        height, width, channels = self.image_shape
        if tokens.shape[1] != self.num_tokens:
            raise ShapeError(
                f"sequences must have {self.num_tokens} tokens, an image of {height} by {width} pixels with {channels} "
                f"channel(s), got {tokens.shape[1]}; build the network with the image_shape of the data."
            )
        x = self.table(tokens)
        if self.target is not None and target is not None:
            x = torch.addcmul(x, target[..., None].to(x.dtype), self.target)
        if is_padding is not None:
            x = x.masked_fill(is_padding[..., None], 0.0)
        return x.reshape(len(tokens), height, width, -1)

    def of_pixels(self, flags: Flags) -> Bool[Tensor, "batch pixels"]:
        """Whether the flag is set at any channel of each pixel."""
        return flags.reshape(len(flags), -1, self.image_shape[2]).any(-1)


def discretized_logistic(
    weights: Float[Tensor, "*batch components"],
    means: Float[Tensor, "*batch components"],
    log_scales: Float[Tensor, "*batch components"],
    vocab_size: int,
) -> Float[Tensor, "*batch vocab"]:
    r"""Log-probabilities of a mixture of truncated logistic distributions, discretized to ``vocab_size`` values.

    A component gives value ``v`` its probability of the interval ``[v - 1/2, v + 1/2]``, divided by the sum over the
    values: the logistic distribution conditional on ``[-1/2, vocab_size - 1/2]``. With ``x`` the ends of the intervals,
    measured from the location in units of the scale, the undivided probability is

    .. math::
        \sigma(x_{v+1}) - \sigma(x_v) = \sigma(x_{v+1}) \, \sigma(-x_v) \, (1 - e^{x_v - x_{v+1}}),

    whose last factor is the same for all values. Of the logarithm of the others, what all values have in common is left
    out where it is large, so that nothing cancels for locations far outside and for small scales.

    Args:
        weights: logits of the components.
        means: locations, in units of the values ``0 ... vocab_size - 1``; they may lie outside of these.
        log_scales: logarithms of the scales in the same units, limited to ``[-5, 5 + log(vocab_size)]``.
        vocab_size: number of values ``V``.

    Returns:
        Normalised log-probabilities in nats, at every value finite, in the dtype given (float32 or wider).

    References:
        Austin et al., "Structured Denoising Diffusion Models in Discrete State-Spaces" (D3PM), arXiv 2107.03006,
        appendix, for one component.
    """
    upper_limit = 5.0 + math.log(vocab_size)
    inverse_scales = torch.exp(-log_scales.clamp(-5.0, upper_limit))[..., None]
    means = means[..., None]
    values = torch.arange(vocab_size + 1, device=means.device, dtype=means.dtype)
    # log sigma(x) = min(x, 0) - log(1 + exp(-|x|)). The linear parts of an interval's two ends add up to the distance
    # of the location, less that of a location outside to the range. Gradients hold at the ends, too: all of it passes
    # by where (unlike clamp), half of it by maximum.
    lowest, highest = -0.5, vocab_size - 0.5
    nearest = torch.where(means < lowest, lowest, torch.where(means > highest, highest, means))
    distance = torch.maximum((values[:-1] - nearest).abs() - 0.5, torch.zeros_like(nearest))
    curved = torch.log1p(torch.exp(-(values - 0.5 - means).abs() * inverse_scales))
    log_masses = -distance * inverse_scales - curved[..., 1:] - curved[..., :-1]
    return torch.logsumexp(log_masses.log_softmax(-1) + weights.log_softmax(-1)[..., None], -2)


@register
class DiscretizedLogisticHead(nn.Module):
    """Head for ordinal values, such as grey levels: a mixture of truncated discretized logistic distributions.

    It has ``3 * num_components`` outputs for any number of values, neighbours have like probabilities, and values
    never seen in training have some. A linear head can give any distribution, and needs more data. The memory of a
    training step grows with ``num_components * vocab_size`` for every scored token.

    Args:
        hidden: size of a token's features.
        vocab_size: number of values ``V``.
        num_components: logistic distributions in the mixture.

    Raises:
        ConfigError: on sizes that are not positive.

    References:
        See :func:`discretized_logistic`.
    """

    def __init__(self, hidden: int, vocab_size: int, num_components: int = 5) -> None:
        super().__init__()
        check_sizes(hidden=hidden, vocab_size=vocab_size, num_components=num_components)
        self.vocab_size = vocab_size
        self.project = nn.Linear(hidden, 3 * num_components)
        # Small, not zero: the gradient has to reach the features at the first step.
        nn.init.normal_(self.project.weight, std=0.1 * hidden**-0.5)
        with torch.no_grad():
            # Components side by side: together they cover all values.
            means = (2 * torch.arange(num_components) + 1) / num_components - 1
            self.project.bias.copy_(torch.cat([torch.zeros(num_components), means, torch.zeros(num_components)]))

    def forward(self, features: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Normalised log-probabilities, in float32 or wider also where the network is in half precision."""
        dtype = torch.promote_types(torch.promote_types(features.dtype, self.project.weight.dtype), torch.float32)
        # Half precision has not the digits for a mean among 256 values.
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = self.project.weight.to(dtype), self.project.bias.to(dtype)
            outputs = F.linear(features.to(dtype), weight, bias).unflatten(-1, (3, -1))
            weights, means, log_scales = outputs.unbind(-2)
            means = (1 + means) * ((self.vocab_size - 1) / 2)
            spread = self.vocab_size / (4 + 4 * weights.shape[-1])
            log_scales = log_scales + math.log(spread)
            return discretized_logistic(weights, means, log_scales, self.vocab_size)


def _linear_head(hidden: int, vocab_size: int) -> nn.Module:
    head = nn.Linear(hidden, vocab_size)
    # Small, not zero: the gradient has to reach the modulation at the first step.
    nn.init.normal_(head.weight, std=0.1 * hidden**-0.5)
    nn.init.zeros_(head.bias)
    return head


_HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": _linear_head, "logistic": DiscretizedLogisticHead}


def resolve_head(head: str | nn.Module, hidden: int, vocab_size: int) -> nn.Module:
    """The head of a name, or the module itself after a trial.

    Args:
        head: ``"linear"``, ``"logistic"`` (:class:`DiscretizedLogisticHead`), or a module that maps
            ``(..., hidden)`` to ``(..., vocab)``.
        hidden: size of a token's features.
        vocab_size: number of clean tokens ``V``.

    Raises:
        ConfigError: on an unknown name, or a module of other sizes.
    """
    if isinstance(head, str):
        if head not in _HEADS:
            raise ConfigError(f"head must be one of {', '.join(_HEADS)} or a module, got {head!r}.")
        return _HEADS[head](hidden, vocab_size)
    like = next(head.parameters(), torch.empty(0))
    features = torch.zeros(1, hidden, device=like.device, dtype=like.dtype)
    expected = f"head must map features of size feature_size={hidden} to vocab_size={vocab_size} logits"
    try:
        with torch.no_grad():
            shape = tuple(head(features).shape)
    except RuntimeError as error:
        raise ConfigError(f"{expected}; {type(head).__name__} fails: {error}") from error
    if shape != (1, vocab_size):
        raise ConfigError(f"{expected}; {type(head).__name__} returns shape {shape} for {tuple(features.shape)}.")
    return head
