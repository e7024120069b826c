"""Images read batch by batch."""

import torch
from jaxtyping import Int, Integer
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["ImageDataset"]


class ImageDataset(Dataset):
    """Map-style data set of images, as the Trainer reads them: compact in memory, ``int64`` in the batch.

    :meth:`vadd.data.ImageTokens.dataset` makes it and says what its rows are.

    Args:
        tokens: levels, shape ``(num, height * width * channels)``.
        labels: for the items' ``condition``.
        image_shape: height and width, and channels of colour images.
        mirrored: whether rows ``num`` to ``2 num`` are the images flipped from left to right.
    """

    def __init__(
        self,
        tokens: Integer[Tensor, "num dim"],
        labels: Int[Tensor, " num"] | None,
        image_shape: tuple[int, ...],
        mirrored: bool = False,
    ) -> None:
        self.tokens, self.labels, self.image_shape, self.mirrored = tokens, labels, image_shape, mirrored

    def __len__(self) -> int:
        return len(self.tokens) * (2 if self.mirrored else 1)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        """A whole batch at once: what torch's loader asks for where it can."""
        wanted = torch.as_tensor(rows)
        if bool(((wanted < 0) | (wanted >= len(self))).any()):
            raise IndexError(f"rows must lie in [0, {len(self)}), got {rows}.")
        at = wanted % len(self.tokens)
        x_0 = self.tokens[at].long()
        if self.mirrored:
            is_flipped = (wanted >= len(self.tokens))[:, None]
            flipped = x_0.reshape(-1, *self.image_shape).flip(2).flatten(1)
            x_0 = torch.where(is_flipped, flipped, x_0)
        if self.labels is None:
            return [{"x_0": row} for row in x_0]
        return [{"x_0": row, "condition": label} for row, label in zip(x_0, self.labels[at], strict=True)]
