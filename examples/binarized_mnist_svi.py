"""Binarized MNIST with and without a latent, by both protocols of the literature.

``--protocol padded``: grey levels cut at 0.5, framed to 32x32, as in VADD's paper. Its bits per dimension count the 240
border pixels, which are always 0: they do not compare with those of 28x28. ``--protocol static``: the fixed Bernoulli
sample of Larochelle and Murray at 28x28, whose figures are nats per image. Images are looked for in the folder that the
environment variable ``VADD_DATA`` (or ``--data-root``) names. MNIST is downloaded where it is not there
(``--no-download`` forbids it).

Run ``python examples/binarized_mnist_svi.py``; after an interruption the same command goes on. ``--preset smoke`` takes
seconds, ``cpu`` about an hour on two cores, ``gpu-30min`` means half an hour on a GPU, ``paper`` is the published
protocol. ``--baseline mdm`` trains the masked diffusion model with the same code. Model, pictures, curves and
``report.json`` are in a folder of the run under ``outputs/binarized_mnist``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from vadd.data import ImageTokens, load_binarized_mnist, load_mnist_tokens
from vadd.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import images  # noqa: E402
import runs  # noqa: E402
from image_data import Data, Preset, split, unet_of  # noqa: E402

PAPER_UNET = unet_of("mnist")
PRESETS = {
    "smoke": Preset(
        {"channels": 8, "multipliers": (1, 2), "depth": 1, "num_heads": 2},
        {"patch": 4, "hidden_size": 16, "depth": 1, "num_heads": 2},
        latent_size=4,
        num_updates=6,
        batch_size=8,
        num_train=256,
        num_validation=8,
        num_refit=20,
        num_rows=6,
        num_latents=2,
        num_draws=1,
        num_jumps=2,
        steps=(1, 2),
        num_samples=24,
        classifier_epochs=1,
    ),
    "cpu": Preset(
        {"channels": 16, "multipliers": (1, 2, 4), "depth": 1, "num_heads": 4},
        {"patch": 4, "hidden_size": 128, "depth": 4, "num_heads": 4},
        latent_size=32,
        num_updates=6000,
        batch_size=64,
        minutes=50,
        num_refit=2000,
        num_rows=64,
        num_latents=16,
        num_samples=256,
    ),
    "gpu-30min": Preset(
        PAPER_UNET,
        {"patch": 4, "hidden_size": 256, "depth": 6, "num_heads": 4},
        latent_size=64,
        num_updates=20_000,
        batch_size=256,
        learning_rate=5e-4,
        precision="bf16",
        minutes=22,
        num_latents=16,
        num_samples=2000,
        rows_per_call=1024,
        classifier_epochs=5,
    ),
    "paper": Preset(
        PAPER_UNET,
        {"patch": 2, "hidden_size": 256, "depth": 8, "num_heads": 4},
        latent_size=64,
        num_updates=200_000,
        batch_size=64,
        learning_rate=2e-4,
        ema_decay=0.9999,
        num_rows=1000,
        num_latents=32,
        num_samples=10_000,
        rows_per_call=1024,
        classifier_epochs=5,
    ),
}
HINT = (
    "--data-root FOLDER (or the variable VADD_DATA) names the folder with MNIST/raw and, for --protocol static, "
    "binarized_mnist; MNIST is downloaded where it is missing, without --no-download, but not the static set."
)


def load(args: argparse.Namespace, preset: Preset) -> Data:
    """The images of a protocol; those of the static one have no labels, and MNIST's train the classifier."""
    root, num = args.data_root, preset.num_train
    if args.protocol == "padded":
        train, test = (
            first(load_mnist_tokens(root, train=k, pad=2, download=args.download), num) for k in (True, False)
        )
        kept, validation = split(train, preset.num_validation)
        unit = "nats per image, bits per dimension over 32x32 pixels of which 240 are border"
        return Data("binarized_mnist_padded", kept, validation, test, (train, test), unit, num_classes=10)
    parts = [load_binarized_mnist(root, part) for part in ("train", "validation", "test")]
    train, validation, test = (first(part, num) for part in parts)
    options: dict[str, Any] = {"classified_kind": "MNIST thresholded at 0.5", "num_classes": 10}
    try:
        labelled = [first(load_mnist_tokens(root, train=k, download=args.download), num) for k in (True, False)]
        classified = (labelled[0], labelled[1])
    except DataError as error:  # bounds need none
        classified = None
        options["unclassified"] = f"the classifier learns from MNIST's labelled images. {error}"
    unit = "nats per image, bits per dimension over 28x28 pixels"
    return Data("binarized_mnist_static", train, validation, test, classified, unit, **options)


def first(data: ImageTokens, num: int | None) -> ImageTokens:
    """The first images, all for None."""
    return data if num is None else data.select(slice(num))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("padded", "static"), default="padded")
    images.add_options(parser, PRESETS, "outputs/binarized_mnist")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, and write everything down; the report."""
    args = parse(argv)
    preset = PRESETS[args.preset]
    return images.run(runs.load_or_explain(lambda: load(args, preset), HINT), preset, args)


if __name__ == "__main__":
    main()
