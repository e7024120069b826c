"""What an objective draws before it runs model and guide."""

from typing import NamedTuple

from vadd.types import CorruptedBatch, PerSequence

__all__ = ["DrawnBatch", "SiteWeights"]


class SiteWeights(NamedTuple):
    """Weights of the two sites of a corrupted batch, one a row."""

    likelihood: PerSequence
    latent: PerSequence


class DrawnBatch(NamedTuple):
    """A corrupted batch and the weights of its rows: all that an objective draws, but for the latents.

    An objective takes it in place of ``x_0``. So the times and masks of a batch that several processes share can be
    drawn for all of it, stratified over all of it, and each process can work on rows of its own.
    """

    batch: CorruptedBatch
    weights: SiteWeights

    def rows(self, rows: slice) -> "DrawnBatch":
        """Some of the rows; where a batch is cut into equal parts, its loss is the mean of theirs."""
        return DrawnBatch(self.batch.rows(rows), SiteWeights(*(weight[rows] for weight in self.weights)))
