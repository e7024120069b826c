"""How the vectors of a latent belong to the positions of a sequence."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vadd._checks import require_integers
from vadd.errors import ConfigError, ShapeError
from vadd.types import Flags

__all__ = ["Layout", "block_patches", "grid_patches"]


class Layout(nn.Module):
    """Sites of a latent: one vector for the whole sequence, one a position, or one a patch of positions.

    It has no parameters.

    Args:
        latent_shape: shape of one sequence's latent. ``(num_tokens, d)`` is one vector a position, ``(patches, d)``
            one a patch, if ``patches`` is given; any other shape is one vector for the whole sequence, flattened.
        num_tokens: sequence length; may be None for a latent in one vector.
        patches: for each position the number of its patch, from 0.

    Raises:
        ConfigError: if ``patches`` does not number ``latent_shape[0]`` patches of ``num_tokens`` positions.
    """

    index: Tensor | None

    def __init__(self, latent_shape: torch.Size, num_tokens: int | None, patches: Sequence[int] | None = None) -> None:
        super().__init__()
        has_rows = len(latent_shape) == 2 and latent_shape.numel() > 0
        #: Whether each position has a vector of its own.
        self.is_per_position = patches is None and has_rows and latent_shape[0] == num_tokens
        #: Number of vectors; None for a latent in one vector.
        self.num_sites = latent_shape[0] if self.is_per_position or patches is not None else None
        #: The sequence length where it is fixed by the sites.
        self.num_tokens = None if self.num_sites is None else num_tokens
        #: Number of components of one vector.
        self.size = latent_shape.numel() // (self.num_sites or 1)
        index = None if patches is None else _as_index(patches, latent_shape, num_tokens)
        self.register_buffer("index", index, persistent=False)

    def spread(self, x: Float[Tensor, "batch sites *values"]) -> Float[Tensor, "batch dim *values"]:
        """Values of each site at all of its positions."""
        return x if self.index is None else x[:, self.index]

    def any(self, where: Flags) -> Bool[Tensor, "batch sites"]:
        """Whether the flag is set at any position of each site."""
        if self.index is None or self.num_sites is None:
            return where
        counts = torch.zeros(len(where), self.num_sites, device=where.device)
        return counts.index_add(1, self.index, where.to(counts.dtype)) > 0

    def mean(self, x: Float[Tensor, "batch dim hidden"], where: Flags) -> Float[Tensor, "batch *sites hidden"]:
        """Mean over the positions of each site where the flag is set; zero where it is nowhere set."""
        weights = where.to(x.dtype)
        if self.num_sites is None:
            total = torch.einsum("bnh,bn->bh", x, weights)
            return total / weights.sum(-1, keepdim=True).clamp(min=1)
        x = x * weights[..., None]
        if self.index is None:
            return x
        total = x.new_zeros(len(x), self.num_sites, x.shape[-1]).index_add(1, self.index, x)
        counts = x.new_zeros(len(x), self.num_sites).index_add(1, self.index, weights)
        return total / counts.clamp(min=1)[..., None]


def grid_patches(height: int, width: int, patch: int | Sequence[int]) -> tuple[int, ...]:
    """Patch of each position of a grid that is read row by row.

    Args:
        height, width: size of the grid.
        patch: height and width of a patch, or one number for both; they divide the grid's.

    Raises:
        ConfigError: if the patches do not tile the grid.
    """
    rows, columns = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if min(height, width, rows, columns) < 1 or height % rows or width % columns:
        raise ConfigError(f"patches of {rows} by {columns} do not tile a grid of {height} by {width}.")
    across = width // columns
    return tuple((i // rows) * across + j // columns for i in range(height) for j in range(width))


def block_patches(num_tokens: int, size: int) -> tuple[int, ...]:
    """Patch of each position of a sequence in blocks of ``size`` tokens; the last may be shorter.

    Raises:
        ConfigError: unless both are positive integers.
    """
    require_integers(num_tokens=num_tokens, size=size, error=ConfigError)
    return tuple(i // size for i in range(num_tokens))


def _as_index(patches: Sequence[int], latent_shape: torch.Size, num_tokens: int | None) -> Tensor:
    if len(latent_shape) != 2 or latent_shape.numel() == 0:
        raise ConfigError(f"patches needs latent_shape (patches, d), got {tuple(latent_shape)}.")
    if len(patches) != num_tokens:
        raise ConfigError(f"patches must number all num_tokens={num_tokens} positions, got {len(patches)} of them.")
    if any(isinstance(p, bool) or not isinstance(p, int) for p in patches):
        raise ConfigError("patches must hold integers: for each position the number of its patch.")
    if set(patches) != set(range(latent_shape[0])):
        raise ConfigError(
            f"patches must hold the numbers 0 to {latent_shape[0] - 1}, each at least once, for latent_shape "
            f"{tuple(latent_shape)}; got {len(set(patches))} numbers from {min(patches)} to {max(patches)}."
        )
    return torch.tensor(patches, dtype=torch.int64)


def check_sites(tokens: Tensor, layout: Layout) -> None:
    """Raise :class:`ShapeError` unless the sequences have the length that the latent's sites are made for."""
    if layout.num_tokens is not None and tokens.shape[1] != layout.num_tokens:
        raise ShapeError(
            f"sequences must have num_tokens={layout.num_tokens} tokens, those that the latent's {layout.num_sites} "
            f"vectors belong to, got {tokens.shape[1]}; pad them with is_padding."
        )
