"""Draw the curves under ``docs/figures`` from the files under ``results``; ``--check`` only compares.

Each picture names in its metadata the results that it was drawn from. Run after a benchmark; a test fails when a
picture was drawn from others than those of its file.

Pictures of samples need trained models, and are written by what trains or reads these:

- ``digits.png``: ``python examples/digits_svi.py``, as ``outputs/digits/samples.png``;
- ``infill.png``: then ``python examples/infill.py --checkpoint outputs/digits``, as ``outputs/infill/infill.png``;
- ``binarized_mnist_samples.png``: after ``benchmarks/binarized_mnist.py``, with the options that it was given,
  ``python benchmarks/image_samples.py binarized_mnist --num-updates 6000 --precision bf16 --out docs/figures``;
- ``cifar10_samples.png``: after ``benchmarks/cifar10.py``, ``python benchmarks/image_samples.py cifar10 --subset
  --num-updates 2000 --precision bf16 --models mdm paper default default-many --out docs/figures``, which is kept here
  in 256 colours.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
import latent_design_report  # noqa: E402
import likelihoods  # noqa: E402
import model_comparison  # noqa: E402
import steps_vs_quality  # noqa: E402
from pictures_shared import save, stamp  # noqa: E402
from tables_shared import read  # noqa: E402

COMPARISONS = ("binarized_mnist", "cifar10", "text_wiki27", "text_wikitext2-gpt2", "text_wikitext2-bert")
#: Of each picture the result file, and what draws its results.
PICTURES: dict[str, tuple[str, Callable[[dict[str, Any]], Figure]]] = {
    **{name: (name, functools.partial(model_comparison.draw, name=name)) for name in COMPARISONS},
    "latent_design": ("latent_design", latent_design_report.draw),
    **{name: ("likelihoods", draw) for name, draw in likelihoods.PICTURES.items()},
    "steps_vs_quality": ("steps_vs_quality", steps_vs_quality.draw),
}


def is_current(picture: str) -> bool:
    """Whether a picture is there and was drawn from the results as they are."""
    path, (name, _) = FIGURES / f"{picture}.png", PICTURES[picture]
    if not path.exists():
        return False
    with Image.open(path) as opened:
        return stamp(name, read(name)["results"]).items() <= opened.info.items()


def main(argv: list[str] | None = None) -> int:
    """Draw or check the pictures; the number of those out of date is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, say which pictures are out of date")
    args = parser.parse_args(argv)
    stale = [picture for picture in PICTURES if not is_current(picture)]
    for picture in stale:
        print(f"{picture}.png {'is out of date: run python benchmarks/pictures.py' if args.check else 'drawn anew'}")
    if args.check:
        return len(stale)
    for picture, (name, draw) in PICTURES.items():  # all, as what draws them may have changed
        results = read(name)["results"]
        save(draw(results), FIGURES / f"{picture}.png", name, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
