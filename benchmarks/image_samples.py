"""A picture of samples: the finished runs of a benchmark of images side by side, by number of steps.

``python benchmarks/image_samples.py binarized_mnist`` reads the models that ``benchmarks/binarized_mnist.py`` has left
under ``outputs`` and writes ``results/binarized_mnist_samples.png``. Options of the example are passed on, those that
the benchmark was given among them.
"""

import argparse
import sys
from pathlib import Path

from model_comparison import CHOICES, MODELS, RESULTS, ROOT, options_for

sys.path.insert(0, str(ROOT / "examples"))
import binarized_mnist_svi  # noqa: E402
import cifar10_svi  # noqa: E402
import image_pictures  # noqa: E402
import image_results  # noqa: E402
import images  # noqa: E402
import runs  # noqa: E402

from vadd import VADDModel  # noqa: E402
from vadd.plotting import image_grid  # noqa: E402

EXAMPLES = {"binarized_mnist": binarized_mnist_svi, "cifar10": cifar10_svi}


def main(argv: list[str] | None = None) -> None:
    """Sample and draw."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("name", choices=tuple(EXAMPLES))
    parser.add_argument("--models", nargs="+", choices=CHOICES, default=MODELS)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 10, 100])
    parser.add_argument("--num-samples", type=int, default=25)
    parser.add_argument("--runs", type=Path, help="folder of the runs; default outputs/NAME")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the picture")
    args, rest = parser.parse_known_args(argv)
    example = EXAMPLES[args.name]
    options = [*rest, "--out", str(args.runs or ROOT / "outputs" / args.name)]
    with runs.explained():
        given = example.parse(options)
        preset = example.PRESETS[given.preset]
        data = example.load(given, preset)
        rows = {}
        for name in args.models:
            chosen = example.parse(options_for(name, options))
            model = VADDModel.from_pretrained(images.run_folder(data, preset, chosen) / "model")
            drawn = {t: image_results.draw(model, args.num_samples, t, preset, chosen).cpu() for t in args.steps}
            rows[name] = {image_pictures.title_of(t): image_pictures.to_images(x, data) for t, x in drawn.items()}
        real = image_pictures.to_images(data.test.tokens[: args.num_samples].long(), data)
        path = args.out / f"{args.name}_samples.png"
        args.out.mkdir(parents=True, exist_ok=True)
        image_grid(path, rows, num_levels=data.train.num_levels, reference=("real test images", real))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
