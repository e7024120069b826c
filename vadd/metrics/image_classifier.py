"""A small classifier of images of any kind, for its features."""

import time
from itertools import count

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from vadd._seeds import seeded
from vadd.errors import ConfigError, DomainError, ShapeError
from vadd.metrics.pixels import check_images

__all__ = ["ImageClassifier", "train_image_classifier"]

_CHUNK = 512  # images that run together


class ImageClassifier(nn.Module):
    """Convolutional classifier of grey or colour images given as tokens.

    Distances in its features compare models that were evaluated with the same trained classifier: keep it with
    :func:`save_image_classifier`. They compare with no FID.

    Args:
        image_shape: ``(height, width)`` or ``(height, width, channels)``, height and width at least 4.
        num_levels: number of levels.
        num_classes: number of labels.
        num_features: size of the last hidden layer.
        width: channels of the first layer; the next two have twice and four times as many.

    Raises:
        ConfigError: on sizes that are not as described.
    """

    frechet_name = "Fréchet distance in classifier features"
    kernel_name = "kernel distance in classifier features"

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_levels: int,
        num_classes: int = 10,
        num_features: int = 128,
        width: int = 32,
    ) -> None:
        super().__init__()
        if len(image_shape) not in (2, 3) or min(image_shape[:2]) < 4 or min(image_shape) < 1:
            raise ConfigError(f"image_shape must have height and width of at least 4, got {tuple(image_shape)}.")
        if num_levels < 2 or num_classes < 2 or num_features < 1 or width < 8 or width % 8:
            raise ConfigError(
                "expected at least 2 levels, 2 classes and 1 feature, and a width that 8 divides, got "
                f"num_levels={num_levels}, num_classes={num_classes}, num_features={num_features}, width={width}."
            )
        self.image_shape, self.num_levels, self.num_classes = tuple(image_shape), num_levels, num_classes
        self.num_features, self.width = num_features, width
        channels = (*image_shape, 1)[2]
        self.body = nn.Sequential(
            *_block(channels, width, 1),
            *_block(width, 2 * width, 2),
            *_block(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * width, num_features),
            nn.SiLU(),
        )
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, tokens: Integer[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of the labels."""
        return self.head(self._represent(tokens))

    @torch.no_grad()
    def features(self, tokens: Integer[Tensor, "batch dim"]) -> Float[Tensor, "batch features"]:
        """The last hidden layer, without gradient.

        Raises:
            ShapeError, DtypeError, DomainError: if tokens are no levels of such images.
        """
        return torch.cat([self._represent(part) for part in tokens.split(_CHUNK)])

    @torch.no_grad()
    def accuracy(self, tokens: Integer[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> float:
        """Share of images whose most probable label is the right one."""
        guesses = self.head(self.features(tokens)).argmax(-1)
        return float((guesses == labels).double().mean())

    def _represent(self, tokens: Tensor) -> Tensor:
        check_images(tokens, self.image_shape, self.num_levels)
        values = tokens.to(self.head.weight.dtype) * (2 / (self.num_levels - 1)) - 1
        height, width = self.image_shape[:2]
        return self.body(values.reshape(len(tokens), height, width, -1).movedim(-1, 1))


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()


def train_image_classifier(
    tokens: Integer[Tensor, "num dim"],
    labels: Int[Tensor, " num"],
    image_shape: tuple[int, ...],
    num_levels: int,
    *,
    seed: int,
    epochs: int | None = None,
    minutes: float | None = None,
    num_classes: int = 10,
    num_features: int = 128,
    width: int = 32,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    mirrored: bool = False,
) -> ImageClassifier:
    """Train an :class:`ImageClassifier` for a number of epochs, or for a time.

    With ``epochs``, the same arguments give the same weights on the same machine and thread count; with ``minutes``
    they depend on its speed. The global random state is left as it was.

    Args:
        tokens: training images, ``int64`` or ``uint8``.
        labels: their labels in ``[0, num_classes)``.
        image_shape, num_levels, num_classes, num_features, width: as for :class:`ImageClassifier`.
        seed: of the initial weights, the order of the images and the flips.
        epochs: passes over the data, at least 1.
        minutes: time to spend. Give one of the two.
        batch_size: images a step, at least 1.
        learning_rate: its peak; it rises over a tenth of the training and falls to zero.
        mirrored: whether half of the images are flipped from left to right; for photographs, not for digits.

    Returns:
        The classifier, in evaluation mode and without gradients, on the device of ``tokens``.

    Raises:
        ConfigError, ShapeError, DtypeError, DomainError: on input that is not as described.
    """
    if (epochs is None) == (minutes is None):
        raise ConfigError(f"give epochs or minutes, one of the two, got epochs={epochs} and minutes={minutes}.")
    if (epochs is not None and epochs < 1) or (minutes is not None and not 0 < minutes < float("inf")):
        raise ConfigError(f"epochs must be at least 1 and minutes above 0, got {epochs} and {minutes}.")
    if batch_size < 1 or not 0 < learning_rate < float("inf"):
        raise ConfigError(f"batch_size and learning_rate must be positive, got {batch_size} and {learning_rate}.")
    check_images(tokens, image_shape, num_levels)
    if labels.shape != tokens.shape[:1]:
        raise ShapeError(f"labels must have shape {tuple(tokens.shape[:1])}, got {tuple(labels.shape)}.")
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        raise DomainError(
            f"labels must lie in [0, {num_classes}), got values from {int(labels.min())} to {int(labels.max())}."
        )
    with seeded(seed):
        classifier = ImageClassifier(image_shape, num_levels, num_classes, num_features, width)
    classifier.to(tokens.device)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.0, weight_decay=0.05)
    num_steps = -(-len(tokens) // batch_size)
    start = time.monotonic()
    for step in count():
        if step % num_steps == 0:
            batches = torch.randperm(len(tokens), generator=order).to(tokens.device).split(batch_size)
        done = step / (epochs * num_steps) if epochs else (time.monotonic() - start) / (60 * (minutes or 1))
        if done >= 1:
            break
        rows = batches[step % num_steps]
        images = tokens[rows]
        if mirrored:
            is_flipped = torch.rand(len(rows), 1, generator=order).to(tokens.device) < 0.5
            images = torch.where(is_flipped, images.reshape(-1, *image_shape).flip(2).flatten(1), images)
        loss = F.cross_entropy(classifier(images), labels[rows], label_smoothing=0.05)
        optimizer.param_groups[0]["lr"] = learning_rate * min(10 * done + 0.01, (1 - done) / 0.9, 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return classifier.requires_grad_(False).eval()
