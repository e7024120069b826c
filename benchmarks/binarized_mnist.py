"""MDM, the paper's recipe and the default on binarized MNIST, at equal numbers of updates and at equal time.

Writes ``results/binarized_mnist.json`` and a picture of its curves; the runs are under ``outputs/binarized_mnist``.
Options of ``examples/binarized_mnist_svi.py`` that are not named here are passed on to it, such as ``--data-root``.
"""

import sys
from pathlib import Path

import model_comparison

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import binarized_mnist_svi  # noqa: E402
import images  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Compare the models."""
    model_comparison.compare(binarized_mnist_svi, images, "binarized_mnist", argv)


if __name__ == "__main__":
    main()
