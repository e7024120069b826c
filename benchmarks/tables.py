"""Write the tables of README.md and docs from the files under ``results``; ``--check`` only compares.

A table stands between the lines ``<!-- table NAME -->`` and ``<!-- end -->``. Run after a benchmark; a test fails
when page and files disagree.
"""

import argparse
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tables_full_scale import full_scale  # noqa: E402
from tables_images_texts import (  # noqa: E402
    comparison,
    differences,
    image_quality,
    latents,
    text_quality,
)
from tables_models import (  # noqa: E402
    digits,
    infill,
    latent_design,
    latent_finalists,
    latent_goals,
    likelihoods,
    reliability,
    steps_vs_quality,
    toys,
    trainer_cost,
)
from tables_mutation import mutation  # noqa: E402
from tables_results import results  # noqa: E402
from tables_shared import ROOT  # noqa: E402
from tables_speed import sampler, throughput  # noqa: E402
from tables_summary import summary  # noqa: E402

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/likelihoods.md",
    "docs/latents.md",
    "docs/sampling.md",
    "docs/results.md",
    "docs/training.md",
    "docs/images.md",
    "docs/text.md",
    "docs/speed.md",
)
BLOCK = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TEXTS = ("wiki27", "wikitext2-gpt2", "wikitext2-bert")

TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "results": results,
    "full-scale": full_scale,
    "digits": digits,
    "toys": toys,
    "likelihoods": likelihoods,
    "latent-mnist14": lambda: latent_design("mnist14"),
    "latent-digits": lambda: latent_design("digits"),
    "latent-checkerboard": lambda: latent_design("checkerboard"),
    "latent-swiss-roll": lambda: latent_design("swiss_roll"),
    "latent-goals": latent_goals,
    "latent-finalists": latent_finalists,
    "sampler": sampler,
    "steps-vs-quality": steps_vs_quality,
    "infill": infill,
    "reliability": reliability,
    "mutation": mutation,
    "trainer-cost": trainer_cost,
    "binarized-mnist": lambda: comparison("binarized_mnist"),
    "binarized-mnist-differences": lambda: differences("binarized_mnist"),
    "binarized-mnist-quality": lambda: image_quality("binarized_mnist"),
    "cifar10": lambda: comparison("cifar10"),
    "cifar10-differences": lambda: differences("cifar10"),
    "cifar10-quality": lambda: image_quality("cifar10"),
    "throughput-step": lambda: throughput("step"),
    "throughput-memory": lambda: throughput("memory"),
    "throughput-vadd": lambda: throughput("vadd", "pyro"),
    "throughput-sampling": lambda: throughput("sampling"),
    "throughput-evaluation": lambda: throughput("evaluation"),
    "throughput-scaling": lambda: throughput("scaling", "processes"),
}
for _name in TEXTS:
    for _suffix, _make in (
        ("", comparison),
        ("-differences", differences),
        ("-quality", text_quality),
        ("-latents", latents),
    ):
        TABLES[_name + _suffix] = functools.partial(_make, f"text_{_name}")


def fill(text: str) -> str:
    """A page with its tables written anew."""
    return BLOCK.sub(lambda match: match[1] + "\n" + TABLES[match["name"]]() + "\n" + match[3], text)


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check the pages; the number of pages that differ is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, say which pages are out of date")
    args = parser.parse_args(argv)
    stale = 0
    for page in PAGES:
        path = ROOT / page
        if not path.exists():
            continue
        old = path.read_text()
        new = fill(old)
        if new != old:
            stale += 1
            print(f"{page} {'is out of date: run python benchmarks/tables.py' if args.check else 'rewritten'}")
            if not args.check:
                path.write_text(new)
    return stale if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
