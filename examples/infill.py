"""Half digits completed in several ways, with and without a latent.

The upper or the left half of scikit-learn's 8x8 digits is known, and the masked diffusion model (MDM) and VADD fill in
the rest in a few steps. VADD's latent comes from the prior, which has not seen the known half, or is the one of several
draws that explains it (``latents="posterior"``). Writes a picture, a table and JSON to ``outputs/infill``. Run
``python examples/infill.py``; about two minutes, nearly all of it training, which a second run does not repeat
(``--again`` does). ``--checkpoint outputs/digits`` takes the models that ``examples/digits_svi.py`` trained;
``--smoke`` finishes in seconds.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadd import VADDModel
from vadd.data import DigitTokens, load_digits_tokens
from vadd.metrics import DigitClassifier, frechet_distance, train_digit_classifier
from vadd.recipes import Pair, get_recipe
from vadd.reporting import write_report
from vadd.samplers import PosteriorLatents
from vadd.training import load_checkpoint, save_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent))
import digits_svi  # noqa: E402

STEP_COUNTS = (1, 4)
NUM_SETS = 2  # completions of every held-out half, for the table
DIGITS_SHOWN = (0, 2, 3, 5, 7, 9)

INK = {"known": (0.0, 0.0, 0.0), "completed": (0.0, 0.16, 0.5)}
PAPER = {"known": (1.0, 1.0, 1.0), "completed": (0.88, 0.94, 1.0), "unknown": (0.8, 0.8, 0.8)}

# Of the picture: inches a pixel, and between blocks.
SCALE, SPACE, LINE = 0.062, 0.22, 0.3


def trained_pairs(data: DigitTokens, args: argparse.Namespace) -> dict[str, Pair]:
    """Both models: loaded from the folder ``args.checkpoint``, or trained as the digits example does."""
    pairs = {}
    for name, recipe in (("MDM", "mdm"), ("VADD", "default")):
        folder = f"checkpoint-{name.lower()}"
        if args.checkpoint is not None:
            stored = load_checkpoint(args.checkpoint / folder)
            pairs[name] = Pair(stored.model.eval(), stored.guide.eval())
        else:
            result = digits_svi.train(name, data, get_recipe(recipe), args)
            pairs[name] = Pair(result.model, result.guide)
            save_checkpoint(args.out / folder, *pairs[name], notes={"data": "digits"})
    return pairs


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """What :func:`trained_pairs` reads."""
    parser.add_argument(
        "--checkpoint", type=Path, help="folder with checkpoint-mdm and checkpoint-vadd; default: train"
    )
    digits_svi.add_training_options(parser, num_updates=1500)


def halves(image_shape: tuple[int, int]) -> dict[str, Tensor]:
    """Which tokens are known, by name."""
    upper, left = (torch.zeros(image_shape, dtype=torch.bool) for _ in range(2))
    upper[: image_shape[0] // 2] = True
    left[:, : image_shape[1] // 2] = True
    return {"upper half": upper.flatten(), "left half": left.flatten()}


def completers(pairs: dict[str, Pair], num_draws: int) -> dict[str, tuple[VADDModel, dict[str, Any]]]:
    """The three ways that are compared: a model and options of ``infill``."""
    vadd = pairs["VADD"].model
    return {
        "MDM": (pairs["MDM"].model, {}),
        "VADD, latent from the prior": (vadd, {"latents": "shared"}),
        "VADD, latent from the posterior": (vadd, {"latents": PosteriorLatents(num_draws)}),
    }


def judge(
    data: DigitTokens, classifier: DigitClassifier, model: VADDModel, is_known: Tensor, options: dict[str, Any]
) -> dict[str, float]:
    """Complete every held-out digit ``NUM_SETS`` times and compare with the real ones."""
    x, seed = data.heldout, options.pop("seed")
    sets = [model.infill(x, is_known.expand_as(x), seed=seed + k, **options) for k in range(NUM_SETS)]
    features = [classifier.features(completed) for completed in sets]
    real = classifier.features(x)
    return {
        "same_digit": sum(classifier.accuracy(completed, data.heldout_labels) for completed in sets) / NUM_SETS,
        "frechet": sum(frechet_distance(real, fake) for fake in features) / NUM_SETS,
        "distance": float((features[0] - features[1]).norm(dim=-1).mean()),
    }


def distance_within_a_digit(data: DigitTokens, classifier: DigitClassifier) -> float:
    """Mean distance of two different held-out images of the same digit, in the classifier's features."""
    distances = []
    for digit in range(data.num_classes):
        features = classifier.features(data.heldout[data.heldout_labels == digit])
        distances.append(torch.pdist(features))
    return float(torch.cat(distances).mean())


def write_picture(
    path: Path, data: DigitTokens, ways: dict[str, tuple[VADDModel, dict[str, Any]]], args: argparse.Namespace
) -> None:
    """Completions beside the real digits: known pixels on white, completed ones on blue."""
    from matplotlib.figure import Figure

    rows = [int((data.heldout_labels == digit).nonzero()[0]) for digit in DIGITS_SHOWN]
    x, num = data.heldout[rows], args.num_completions
    parts = halves(data.image_shape)
    pages = {}
    for part, is_known in parts.items():
        blocks = {"real": picture(x, torch.ones_like(x, dtype=torch.bool), data)}
        blocks["known"] = picture(x, is_known, data, paper="unknown")
        many = x.repeat_interleave(num, 0)
        known = is_known.expand_as(many)
        for way, (model, options) in ways.items():
            completed = model.infill(many, known, num_steps=args.num_steps, seed=args.seed, **options)
            blocks[way] = picture(completed, known, data, num)
        pages[part] = blocks
    sizes = [[SCALE * side for side in block.shape[1::-1]] for block in next(iter(pages.values())).values()]
    width = LINE + sum(size[0] + SPACE for size in sizes)
    height = 2 * LINE + len(parts) * (sizes[0][1] + SPACE)
    figure = Figure(figsize=(width, height), dpi=160)

    def text(x: float, y: float, shown: str, **options: Any) -> None:
        figure.text(x / width, 1 - y / height, shown, va="center", **options)

    steps = f"{args.num_steps} step{'s' if args.num_steps > 1 else ''}"
    text(LINE, 0.6 * LINE, f"Half digits completed in {steps}", size=12, weight="bold")
    top = 2 * LINE
    for part, blocks in pages.items():
        left = LINE
        text(LINE / 2, top + sizes[0][1] / 2, f"{part} known", size=10, weight="bold", rotation=90, ha="center")
        for (title, block), (w, h) in zip(blocks.items(), sizes, strict=True):
            if top == 2 * LINE:
                text(left + w / 2, 1.6 * LINE, title, size=10, ha="center")
            axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
            axes.imshow(block.numpy(), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            left += w + SPACE
        top += sizes[0][1] + SPACE
    figure.savefig(path)


def picture(x: Tensor, is_known: Tensor, data: DigitTokens, per_row: int = 1, paper: str = "completed") -> Tensor:
    """Images side by side in colour, shape ``(height, width, 3)``; on unknown paper no ink is seen."""
    share = (x.double() / (data.num_levels - 1))[..., None]
    ink = PAPER["unknown"] if paper == "unknown" else INK["completed"]
    known, other = (
        share * torch.tensor(dark) + (1 - share) * torch.tensor(light)
        for dark, light in ((INK["known"], PAPER["known"]), (ink, PAPER[paper]))
    )
    images = torch.where(is_known[..., None], known, other).reshape(-1, *data.image_shape, 3)
    framed = torch.nn.functional.pad(images, (0, 0, 1, 1, 1, 1), value=0.88)
    return framed.unflatten(0, (-1, per_row)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def print_table(rows: list[dict[str, Any]], reference: float) -> None:
    """One line a known half, way and number of steps."""
    print(f"\n{'known':<12}{'way':<34}{'steps':>6}{'same digit':>12}{'Fréchet':>9}{'distance':>10}")
    for row in rows:
        cells = f"{row['same_digit']:>12.1%}{row['frechet']:>9.2f}{row['distance']:>10.2f}"
        print(f"{row['known']:<12}{row['way']:<34}{row['steps']:>6}{cells}")
    print(
        "same digit: completions that the classifier takes for the digit that they come from; Fréchet distance to the"
    )
    print("real digits and mean distance of two completions of one half, both in the features of a small digit")
    print(f"classifier; two real images of one digit are {reference:.2f} apart.")


def main(argv: list[str] | None = None) -> None:
    """Train or load, complete, judge, and write everything down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/infill"), help="folder for the results")
    parser.add_argument("--report", type=Path, help="folder for infill.json; default that of the picture")
    parser.add_argument("--num-steps", type=int, default=1, help="steps of the completions in the picture")
    parser.add_argument("--num-completions", type=int, default=5, help="of each half in the picture")
    parser.add_argument("--num-draws", type=int, default=128, help="latents of which the posterior takes one")
    add_training_options(parser)
    args = parser.parse_args(argv)
    if args.smoke:
        args.num_updates, args.num_draws = 20, 4
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)

    data = load_digits_tokens()
    pairs = trained_pairs(data, args)
    classifier = train_digit_classifier(data.train, data.train_labels, seed=args.seed)
    ways = completers(pairs, args.num_draws)
    write_picture(args.out / "infill.png", data, ways, args)
    rows = []
    for known, is_known in halves(data.image_shape).items():
        for steps in STEP_COUNTS:
            for way, (model, options) in ways.items():
                settings = {**options, "num_steps": steps, "seed": args.seed}
                figures = judge(data, classifier, model, is_known, settings)
                rows.append({"known": known, "way": way, "steps": steps, **figures})
    reference = distance_within_a_digit(data, classifier)
    print_table(rows, reference)
    report = {
        "num_draws": args.num_draws,
        "num_updates": args.num_updates if args.checkpoint is None else None,
        "distance_within_a_digit": reference,
        "rows": rows,
    }
    path = write_report("infill", report, seed=args.seed, folder=args.report or args.out)
    print(f"\nwrote {args.out}/infill.png and {path}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
