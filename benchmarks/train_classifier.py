"""Train and keep the classifier in whose features images are compared.

Writes ``classifier.safetensors`` and ``classifier.json`` and prints the accuracy on the test images. Distances compare
only between models measured with the same files: keep them. For example::

    python benchmarks/train_classifier.py --data mnist --epochs 2
    python benchmarks/train_classifier.py --data cifar10 --minutes 5
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from vadd.data import ImageTokens, load_cifar10_tokens, load_digits_tokens, load_mnist_tokens
from vadd.metrics import save_image_classifier, train_image_classifier

ROOT = Path(__file__).resolve().parent.parent


def load(name: str, root: str | None, *, subset: bool, pad: int) -> tuple[ImageTokens, ImageTokens]:
    """Training and test images."""
    if name == "digits":
        digits = load_digits_tokens()
        return (
            ImageTokens(digits.train, digits.train_labels, digits.image_shape, digits.num_levels),
            ImageTokens(digits.heldout, digits.heldout_labels, digits.image_shape, digits.num_levels),
        )
    if root is None:
        raise SystemExit(f"{name} is read from a folder: give --data-root, or set VADD_DATA.")
    if name == "mnist":
        train, test = (load_mnist_tokens(root, train=train, pad=pad) for train in (True, False))
    else:
        train, test = (load_cifar10_tokens(root, train=train, subset=subset) for train in (True, False))
    return train, test


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, store, and return the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mnist", "cifar10"), required=True)
    parser.add_argument("--data-root", default=os.environ.get("VADD_DATA"), help="default: the variable VADD_DATA")
    parser.add_argument("--subset", action="store_true", help="of CIFAR-10: cifar10_subset.npz, 10,000 images")
    parser.add_argument("--pad", type=int, default=0, help="of MNIST: pixels added on each side; 2 makes 32x32")
    parser.add_argument("--out", type=Path, help="folder; default outputs/classifiers/DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    duration = parser.add_mutually_exclusive_group()
    duration.add_argument("--epochs", type=int, help="default 3 (digits: 15)")
    duration.add_argument("--minutes", type=float, help="instead; the weights then depend on the machine's speed")
    options = parser.parse_args(arguments)

    train, test = load(options.data, options.data_root, subset=options.subset, pad=options.pad)
    assert train.labels is not None
    assert test.labels is not None
    epochs = options.epochs
    if epochs is None and options.minutes is None:
        epochs = 15 if options.data == "digits" else 3
    start = time.monotonic()
    classifier = train_image_classifier(
        train.tokens.to(options.device),
        train.labels.to(options.device),
        train.image_shape,
        train.num_levels,
        seed=options.seed,
        epochs=epochs,
        minutes=options.minutes,
        width=options.width,
        mirrored=options.data == "cifar10",
    )
    seconds = time.monotonic() - start
    accuracy = classifier.accuracy(test.tokens.to(options.device), test.labels.to(options.device))
    notes = {"data": options.data, "num_train": len(train), "seed": options.seed, "epochs": epochs}
    notes |= {"minutes": options.minutes, "accuracy": accuracy, "num_test": len(test)}
    folder = options.out or ROOT / "outputs" / "classifiers" / options.data
    save_image_classifier(classifier, folder, notes=notes)
    print(
        f"{options.data}: accuracy {accuracy:.2%} on {len(test):,} test images after {seconds:.0f} s; kept in {folder}"
    )
    return accuracy


if __name__ == "__main__":
    main()
