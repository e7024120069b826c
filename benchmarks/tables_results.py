"""Table of the page of results: the published figures, and those of this code beside them."""

from typing import Any

from tables_full_scale import hours_of
from tables_published import FID_STEPS, NOT_PUBLISHED, PROTOCOLS, PUBLISHED, Published, command
from tables_shared import is_there, machine_of, origin, read, table

MODELS = ("mdm", "paper", "default")
DELBO = "DELBO, the published metric"
OF_GPT2, OF_BERT = "text_wikitext2-gpt2", "text_wikitext2-bert"
FILES = ("toy2d", "latent_design", "binarized_mnist", "cifar10", "text_wiki27", OF_BERT, OF_GPT2)
#: For the rows on text: a result file of another corpus, what it is, and which other text of its runs is meant.
STAND_INS = {
    "LM1B, 128 tokens, padded": (OF_BERT, "WikiText-2 in BERT's vocabulary", None),
    "OpenWebText, zero-shot on WikiText": (
        OF_GPT2,
        "WikiText-2 in GPT-2's vocabulary, trained on: not zero-shot",
        None,
    ),
    **{
        f"OpenWebText, zero-shot on {title}": (OF_GPT2, "trained on WikiText-2 in GPT-2's vocabulary", name)
        for title, name in (
            ("arXiv", "arxiv"),
            ("LM1B", "lm1b"),
            ("LAMBADA", "lambada"),
            ("PubMed", "pubmed"),
            ("AG News", "ag-news"),
        )
    },
}
NOT_HERE = "not run here"

#: What one of our figures is, its values for MDM, paper's recipe and default, and what was run.
Line = tuple[str, list[str], str]


def results() -> str:
    """A published figure a row, with the lines that are to be read beside it."""
    rows = []
    for number, published in enumerate(PUBLISHED):
        lines = lines_of(published)
        is_shown = any(earlier.protocol == published.protocol for earlier in PUBLISHED[:number])
        for i, (title, values, ran) in enumerate(lines):
            first = [published.task, published.metric, *paper_cells(published)] if i == 0 else [""] * 4
            last = full_scale_cells(published.protocol, is_shown=is_shown) if i == 0 else [""] * 2
            rows.append([*first, title, *values, ran if i == 0 or ran != lines[0][2] else "", *last])
    head = ["task", "published as", "MDLM", "VADD", "here", "MDM", "paper's recipe", "default", "run here"]
    head += ["full scale, for VADD", "GPU hours, MDM / VADD"]
    return table(head, rows) + "".join(origin(read(name)) for name in FILES if is_there(name))


def paper_cells(published: Published) -> list[str]:
    """The paper's two columns."""
    if published.metric == NOT_PUBLISHED:
        return ["", ""]
    cells = []
    for column in ("mdlm", "vadd"):
        found = [(figure.setting, getattr(figure, column)) for figure in published.figures]
        shown = [f"{value} ({setting})" if setting else value for setting, value in found if value]
        cells.append(", ".join(shown) or "no figure at hand")
    return cells


def full_scale_cells(protocol: str, *, is_shown: bool) -> list[str]:
    """The command of a protocol and its GPU hours, said once of those behind several rows."""
    if protocol not in PROTOCOLS:
        return ["", ""]
    return ["as above"] * 2 if is_shown else [f"`{command(protocol)}`", hours_of(protocol)]


def lines_of(published: Published) -> list[Line]:
    """Our figures for a published one; one line that says so where there are none."""
    if published.protocol in ("checkerboard", "swiss_roll", "circles"):
        return toy_lines(published.protocol)
    if published.task in STAND_INS:
        return text_lines(*STAND_INS[published.task])
    name = published.protocol.replace("-", "_")
    if not is_there(name):
        return [("", [""] * 3, NOT_HERE)]
    return distance_lines(name) if published.metric == "FID" else bits_lines(name)


def toy_lines(toy: str) -> list[Line]:
    """The true Jensen-Shannon divergence, bounds of sampling, and the DELBO, of a toy."""
    report = read("toy2d")
    found, settings = report["results"]["toys"][toy], report["results"]["settings"]
    models = [found["models"][name] for name in MODELS]
    seconds = [model["seconds"] for model in models]  # of the call that wrote the file: none of a run that was there
    time = f", at most {max(seconds) / 60:.1f} minutes a model" if min(seconds) > 1 else ""
    ran = f"{models[0]['updates']:,} updates of {settings['batch_size']}, {machine_of(report)}{time}"

    def by_steps(key: str, steps: int) -> list[str]:
        rows = [next(row for row in model["by_steps"] if row["steps"] == steps) for model in models]
        return [with_error(row[key], row.get(f"{key}_stderr"), 3) for row in rows]

    floors = f"independent tokens {found['factorized']['jsd']:.3f}, fresh data {found['fresh_data']['jsd']:.4f}"
    lines = [(f"Jensen-Shannon divergence in nats, 1 step ({floors})", by_steps("jsd", 1), ran)]
    lines += [("the same, 5 steps", by_steps("jsd", 5), ran)]
    entropy = f"entropy {found['entropy']:.3f}"
    lines += [(f"bound in nats, {t} step{'s' * (t > 1)} ({entropy})", by_steps("bound", t), ran) for t in (1, 5)]
    delbos = [with_error(model["delbo"], model["delbo_stderr"], 3) for model in models]
    lines.append((f"DELBO in nats ({entropy})", delbos, ran))
    designs = read("latent_design")["results"]["data"].get(toy)
    if designs is not None:
        curves = [designs["designs"][name]["curves"]["sampler"]["1"] for name in MODELS]
        values = [with_error(row["mean"], row["sd"], 3) for row in curves]
        seeds = len(designs["designs"]["default"]["seeds"])
        again = f"{seeds} seeds of {designs['num_updates']:,} updates, ± their standard deviation"
        lines.append(("bound in nats, 1 step, in the comparison of designs", values, again))
    return lines


def with_error(value: float, error: float | None, digits: int) -> str:
    """A figure and its error, where it has one."""
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def runs_of(name: str) -> dict[str, dict[str, Any]]:
    """The runs of equal updates of a comparison, by their models; of several seeds the first."""
    runs: dict[str, dict[str, Any]] = {}
    for run in read(name)["results"]["runs"]:
        if run["as_long_as"] is None:
            runs.setdefault(run["model"], run)
    return runs


def ran_of(runs: dict[str, dict[str, Any]]) -> str:
    """Sizes, data, updates, device and time of a comparison."""
    some = next(iter(runs.values()))
    hours = [run["training"]["seconds"] / 3600 for run in runs.values() if run["training"]["seconds"]]
    sizes = " / ".join(size_of(runs[model]["parameters"]) for model in MODELS if model in runs)
    time = f", at most {max(hours):.1f} hours a model" if hours else ""
    return (
        f"{some['data']}, {sizes} parameters (model + guide), {some['updates']:,} updates of "
        f"{some['preset']['batch_size']}, {machine_of(some)}{time}"
    )


def size_of(parameters: dict[str, int]) -> str:
    """Parameters of a model, and of its guide where that has any, in millions."""
    return " + ".join(f"{parameters[part] / 1e6:.1f}M" for part in ("model", "guide") if parameters[part])


def of_models(runs: dict[str, dict[str, Any]], get: Any, digits: int) -> list[str]:
    """A figure of each of the three models; "" for one that was not run or has none."""
    found = [get(runs[model]) if model in runs else None for model in MODELS]
    return ["" if value is None else f"{value:.{digits}f}" for value in found]


def perplexities(runs: dict[str, dict[str, Any]], bound: str) -> list[str]:
    """A bound of each of the three models as perplexity; of the DELBO, which is a bound without a latent alone, too."""
    cells = []
    for model in MODELS:
        rows = runs[model]["bounds"] if model in runs else []
        row = next((row for row in rows if row["name"] == bound), {})
        key = next((key for key in ("perplexity", "delbo_perplexity") if key in row), None)
        cells.append("" if key is None else with_error(row[key], row[f"{key}_stderr"], 1))
    return cells


def steps_of(runs: dict[str, dict[str, Any]]) -> list[int]:
    """The numbers of steps with a bound."""
    return [row["steps"] for row in next(iter(runs.values()))["bounds"] if "steps" in row]


def bits_lines(name: str) -> list[Line]:
    """The published metric in bits per dimension, and bounds of sampling in few and in all steps."""
    runs = runs_of(name)
    ran, steps = ran_of(runs), steps_of(runs)

    def bits(title: str) -> list[str]:
        found = [next(row for row in runs[m]["bounds"] if row["name"] == title) if m in runs else None for m in MODELS]
        return ["" if row is None else with_error(row["bits_per_dim"], error_in_bits(row), 4) for row in found]

    lines = [("DELBO, bits per dimension", bits(DELBO), ran)]
    for t in (steps[0], *(t for t in steps if t in (10, 100)), steps[-1]):
        lines.append((f"bound, {t} step{'s' * (t > 1)}, bits per dimension", bits(f"finite-step, T={t}"), ran))
    return lines


def error_in_bits(row: dict[str, Any]) -> float | None:
    """The standard error of a bound in bits per dimension."""
    return None if row["stderr"] is None else row["stderr"] * row["bits_per_dim"] / row["nats"]


def distance_lines(name: str) -> list[Line]:
    """Fréchet distances of samples, by the numbers of steps of the paper, under the name of what they are."""
    runs = runs_of(name)
    ran, lines = ran_of(runs), []
    for t in FID_STEPS:
        some = next(run for run in runs.values() if run["distances"]["rows"])
        key = next(key for key in some["distances"]["rows"][-1] if key != "steps")
        lines.append((f"{key}, {t} steps", of_models(runs, lambda run, t=t: distance_of(run, t), 1), ran))
    return lines


def distance_of(run: dict[str, Any], steps: int | None) -> float | None:
    """The distance of samples in so many steps, whatever its name; without steps that of real images."""
    rows = [row for row in run["distances"]["rows"] if row["steps"] == steps]
    return next((value for row in rows for key, value in row.items() if key != "steps"), None)


def text_lines(name: str, stand_in: str, other: str | None) -> list[Line]:
    """Perplexities of what stands in for a corpus, on held-out text of its own or on another text."""
    if not is_there(name):
        return [("", [""] * 3, NOT_HERE)]
    runs, what = runs_of(name), "stand-in"
    ran = f"not this corpus: stand-in {stand_in}; {ran_of(runs)}"
    if other is not None:
        found = {m: s for m, r in runs.items() for s in r["zero_shot"] if s["name"] == other}
        if not found:
            return [("", [""] * 3, NOT_HERE)]
        what, size = "trained on a stand-in", next(iter(found.values()))["what"]
        ran = f"{size} of this corpus, by models {stand_in}, not on OpenWebText; {ran_of(runs)}"
        runs = {m: {**runs[m], "bounds": s["bounds"]} for m, s in found.items()}

    lines = [(f"{what}: DELBO perplexity", perplexities(runs, DELBO), ran)]
    bounds = [f"finite-step, T={t}" for t in steps_of(runs) if t in (4, 64)]
    for bound in (*bounds, "marginal", "shared-latent, infinitely many steps"):
        values = perplexities(runs, bound)
        if any(values):
            lines.append((f"{what}: bound, {bound}, perplexity", values, ran))
    return lines
