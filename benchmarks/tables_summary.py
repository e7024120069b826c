"""Table of the README: what the comparisons say in a few lines, in few steps and in many."""

from tables_results import MODELS, distance_of, of_models, perplexities, runs_of, steps_of
from tables_shared import is_there, read, table

TOYS = {"checkerboard": "checkerboard, 2 tokens", "mnist14": "MNIST, 14x14 binary pixels"}
IMAGES = {"binarized_mnist": "binarized MNIST, 32x32", "cifar10": "CIFAR-10, part of it"}
TEXTS = {
    "text_wiki27": "Wikipedia, 256 characters",
    "text_wikitext2-gpt2": "WikiText-2, 128 tokens of GPT-2",
    "text_wikitext2-bert": "WikiText-2, 128 tokens of BERT",
}

#: Data, what is measured, the number of steps, and its values for MDM, paper's recipe and default.
Row = list[str]


def summary() -> str:
    """Three models on each of the data that result files are there for."""
    rows: list[Row] = []
    for name, title in TOYS.items():
        rows += bounds_of_designs(name, title)
    for name, title in IMAGES.items():
        if is_there(name):
            rows += of_images(name, title)
    for name, title in TEXTS.items():
        if is_there(name):
            rows += of_texts(name, title)
    shown = [[row[0] if i == 0 or row[0] != rows[i - 1][0] else "", *row[1:]] for i, row in enumerate(rows)]
    return table(["data", "lower is better", "steps", "MDM", "paper's recipe", "default recipe"], shown)


def bounds_of_designs(data: str, title: str) -> list[Row]:
    """Means and standard deviations over seeds, for the fewest steps, eight, and the most."""
    designs = read("latent_design")["results"]["data"][data]["designs"]
    curves = [designs[name]["curves"]["sampler"] for name in MODELS]
    steps = list(curves[0])
    return [
        [title, "bound, nats", t, *(f"{curve[t]['mean']:.2f} ± {curve[t]['sd']:.2f}" for curve in curves)]
        for t in (steps[0], "8", steps[-1])
    ]


def of_images(name: str, title: str) -> list[Row]:
    """Distances of samples in few and in many steps, and bounds with their standard errors."""
    runs = runs_of(name)
    rows, real = [], distance_of(runs["default"], None)
    floor = f" (real images: {real:.1f})" if real is not None else ""
    for t in (1, 4, 20):
        values = of_models(runs, lambda run, t=t: distance_of(run, t), 1)
        rows.append([title, f"distance of samples{floor if t == 1 else ''}", str(t), *values])
    for t in (1, 8, steps_of(runs)[-1]):
        values = []
        for model in MODELS:
            row = next(row for row in runs[model]["bounds"] if row["name"] == f"finite-step, T={t}")
            values.append(f"{row['nats']:,.1f} ± {row['stderr']:.1f}")
        rows.append([title, "bound, nats", str(t), *values])
    return rows


def of_texts(name: str, title: str) -> list[Row]:
    """Perplexity by the judge with the entropy of samples, and bounds a token."""
    runs = runs_of(name)
    rows = []
    for t in (1, 8, 64):
        values = []
        for model in MODELS:
            row = next(row for row in runs[model]["samples"]["rows"] if row["steps"] == t)
            values.append(f"{row['perplexity']:.1f} ({row['unigram_entropy']:.2f})")
        rows.append([title, "perplexity by a judge (entropy, nats)", str(t), *values])
    for t in (1, 8, steps_of(runs)[-1]):
        rows.append([title, "bound, perplexity a token", str(t), *perplexities(runs, f"finite-step, T={t}")])
    return rows
