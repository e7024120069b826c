"""CIFAR-10 with and without a latent: 3,072 tokens of 256 values an image.

Images are looked for in the folder that the environment variable ``VADD_DATA`` (or ``--data-root``) names, in any form
that :func:`vadd.data.load_cifar10_tokens` reads, and downloaded where they are not there (``--no-download`` forbids
it). ``--subset`` takes the 10,000 training images of ``cifar10_subset.npz``.

Run ``python examples/cifar10_svi.py``; after an interruption the same command goes on. ``--preset smoke`` takes
seconds, ``cpu`` about an hour on two cores, ``gpu-30min`` means half an hour on a GPU, ``paper`` is the published
protocol. ``--baseline mdm`` trains the masked diffusion model with the same code, ``--conditional`` either on the ten
classes, with ``--guidance`` when sampling. Model, pictures, curves and ``report.json`` are in a folder of the run under
``outputs/cifar10``.
"""

import argparse
import sys
from pathlib import Path

from vadd.data import load_cifar10_tokens

sys.path.insert(0, str(Path(__file__).resolve().parent))
import images  # noqa: E402
import runs  # noqa: E402
from image_data import Data, Preset, split, unet_of  # noqa: E402

PAPER_UNET = unet_of("cifar10")
PRESETS = {
    "smoke": Preset(
        {"channels": 8, "multipliers": (1, 1, 1), "depth": 1, "num_heads": 2, "embedding_size": 4},
        {"patch": 8, "hidden_size": 16, "depth": 1, "num_heads": 2, "embedding_size": 4, "feature_size": 8},
        latent_size=4,
        num_updates=4,
        batch_size=4,
        num_train=100,
        num_validation=8,
        num_refit=20,
        num_rows=6,
        num_latents=2,
        num_draws=1,
        num_jumps=1,
        steps=(1, 2),
        num_samples=12,
        rows_per_call=16,
        classifier_epochs=1,
    ),
    "cpu": Preset(
        {"channels": 32, "multipliers": (1, 2, 4), "depth": 1, "num_heads": 4},
        {"patch": 4, "hidden_size": 192, "depth": 4, "num_heads": 4, "feature_size": 32},
        latent_size=64,
        num_updates=4000,
        batch_size=32,
        minutes=50,
        num_refit=1000,
        num_rows=16,
        num_latents=2,
        num_draws=2,
        num_jumps=8,
        num_samples=64,
        rows_per_call=32,
        classifier_epochs=2,
    ),
    "gpu-30min": Preset(
        {"channels": 64, "multipliers": (1, 2, 2), "depth": 3, "num_heads": 4},
        {"patch": 2, "hidden_size": 384, "depth": 8, "num_heads": 6},
        latent_size=128,
        num_updates=15_000,
        batch_size=128,
        learning_rate=5e-4,
        precision="bf16",
        minutes=22,
        num_rows=128,
        num_samples=1000,
        rows_per_call=128,
        classifier_epochs=10,
    ),
    "paper": Preset(
        PAPER_UNET,
        {"patch": 2, "hidden_size": 768, "depth": 12, "num_heads": 12, "dropout": 0.1},
        latent_size=64,
        num_updates=2_000_000,
        batch_size=256,
        learning_rate=2e-4,
        ema_decay=0.9999,
        num_rows=1000,
        num_latents=16,
        num_samples=50_000,
        rows_per_call=128,
        classifier_epochs=20,
    ),
}
HINT = (
    "--data-root FOLDER (or the variable VADD_DATA) names the folder, --no-download keeps from fetching the images, "
    "--subset takes those of cifar10_subset.npz."
)


def load(args: argparse.Namespace, preset: Preset) -> Data:
    """The images, those held out taken from the end of the training set."""
    options = {"subset": args.subset, "download": args.download}
    train = load_cifar10_tokens(args.data_root, train=True, num=preset.num_train, **options)
    test = load_cifar10_tokens(args.data_root, train=False, num=preset.num_train, **options)
    kept, validation = split(train, preset.num_validation)
    unit = "nats per image, bits per dimension over 32x32 pixels of 3 channels"
    name = "cifar10-subset" if args.subset else "cifar10"
    return Data(name, kept, validation, test, (train, test), unit, args.mirrored, num_classes=10)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    images.add_options(parser, PRESETS, "outputs/cifar10")
    parser.add_argument("--subset", action="store_true", help="the 10,000 training images of cifar10_subset.npz")
    parser.add_argument("--mirrored", action="store_true", help="train on the images flipped from left to right, too")
    parser.add_argument("--head", choices=("linear", "logistic"), default="linear", help="of the denoiser")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, and write everything down; the report."""
    args = parse(argv)
    preset = PRESETS[args.preset]
    return images.run(runs.load_or_explain(lambda: load(args, preset), HINT), preset, args)


if __name__ == "__main__":
    main()
