"""MDM, the paper's recipe and the default on CIFAR-10, at equal numbers of updates and at equal time.

Writes ``results/cifar10.json`` and a picture of its curves; the runs are under ``outputs/cifar10``.
Options of ``examples/cifar10_svi.py`` that are not named here are passed on to it, such as ``--data-root``.
"""

import sys
from pathlib import Path

import model_comparison

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import cifar10_svi  # noqa: E402
import images  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Compare the models."""
    model_comparison.compare(cifar10_svi, images, "cifar10", argv)


if __name__ == "__main__":
    main()
