"""A small classifier whose features tell digits apart."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vadd._checks import require_integers
from vadd._seeds import seeded
from vadd.errors import ConfigError, DomainError, ShapeError

__all__ = ["DigitClassifier", "train_digit_classifier"]


class DigitClassifier(nn.Module):
    """Convolutional classifier of small grey images given as tokens.

    It exists for its features. A distance in them is a "Fréchet distance in the features of a
    small digit classifier": it compares models evaluated with the same trained classifier, and
    compares with no FID.

    Args:
        image_shape: height and width, each at least 4.
        num_levels: number of grey levels.
        num_classes: number of labels.
        num_features: size of the last hidden layer.

    Raises:
        ConfigError: on sizes that are not as described.
    """

    def __init__(
        self,
        image_shape: tuple[int, int] = (8, 8),
        num_levels: int = 17,
        num_classes: int = 10,
        num_features: int = 64,
    ) -> None:
        super().__init__()
        if min(image_shape) < 4 or num_levels < 2 or num_classes < 2 or num_features < 1:
            raise ConfigError(
                "expected images of at least 4x4 pixels, 2 grey levels, 2 classes and 1 feature, got "
                f"image_shape={image_shape}, num_levels={num_levels}, num_classes={num_classes}, "
                f"num_features={num_features}."
            )
        self.image_shape = image_shape
        self.num_levels = num_levels
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(48 * 16, num_features),
            nn.SiLU(),
        )
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, tokens: Int[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of the labels."""
        return self.head(self._represent(tokens))

    @torch.no_grad()
    def features(self, tokens: Int[Tensor, "batch dim"]) -> Float[Tensor, "batch features"]:
        """The last hidden layer, without gradient.

        Raises:
            ShapeError: if ``dim`` is not the number of pixels.
            DomainError: if a token is no grey level.
        """
        return torch.cat([self._represent(part) for part in tokens.split(4096)])

    @torch.no_grad()
    def accuracy(self, tokens: Int[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> float:
        """Share of images whose most probable label is the right one."""
        guesses = self.head(self.features(tokens)).argmax(-1)
        return float((guesses == labels).double().mean())

    def _represent(self, tokens: Tensor) -> Tensor:
        height, width = self.image_shape
        if tokens.ndim != 2 or tokens.shape[1] != height * width or tokens.shape[0] == 0:
            raise ShapeError(
                f"tokens must have shape (batch, {height * width}) for images of {height}x{width} pixels, "
                f"got {tuple(tokens.shape)}."
            )
        low, high = (int(value) for value in torch.aminmax(tokens))
        if low < 0 or high >= self.num_levels:
            raise DomainError(f"tokens must be grey levels in [0, {self.num_levels}), got values from {low} to {high}.")
        grey = tokens.to(self.head.weight.dtype) * (2 / (self.num_levels - 1)) - 1
        return self.body(grey.reshape(-1, 1, height, width))


def train_digit_classifier(
    tokens: Int[Tensor, "num dim"],
    labels: Int[Tensor, " num"],
    *,
    image_shape: tuple[int, int] = (8, 8),
    num_levels: int = 17,
    num_classes: int = 10,
    num_epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> DigitClassifier:
    """Train a :class:`DigitClassifier`; a few seconds for the 8x8 digits on a CPU.

    The same arguments give the same weights on the same machine and thread count, and the global
    random state is left as it was.

    Args:
        tokens: training images as rows of grey levels.
        labels: their labels in ``[0, num_classes)``.
        image_shape: height and width.
        num_levels: number of grey levels.
        num_classes: number of labels.
        num_epochs: passes over the data.
        batch_size: images a step.
        learning_rate: peak of a one-cycle schedule.
        seed: seed of the initial weights and the order of the images.

    Returns:
        The classifier, in evaluation mode and without gradients, on the device of ``tokens``.

    Raises:
        ConfigError, ShapeError, DomainError: on input that is not as described.
    """
    if labels.shape != tokens.shape[:1]:
        raise ShapeError(f"labels must have shape {tuple(tokens.shape[:1])}, got {tuple(labels.shape)}.")
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        raise DomainError(f"labels must lie in [0, {num_classes}), got up to {int(labels.max())}.")
    require_integers(num_epochs=num_epochs, batch_size=batch_size, error=ConfigError)
    with seeded(seed):
        classifier = DigitClassifier(image_shape, num_levels, num_classes).to(tokens.device)
    order = torch.Generator().manual_seed(seed)
    num_steps = num_epochs * -(-tokens.shape[0] // batch_size)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps)
    for _ in range(num_epochs):
        for rows in torch.randperm(tokens.shape[0], generator=order).to(tokens.device).split(batch_size):
            loss = F.cross_entropy(classifier(tokens[rows]), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
    return classifier.requires_grad_(False).eval()
