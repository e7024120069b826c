"""Tables of models on small data: digits, toys, bounds, designs of the latent, faults while training."""

from tables_shared import TITLES, origin, read, table

TOY_STEPS = (1, 5)  # those published


def digits() -> str:
    """Quality of digits by number of steps."""
    report = read("digits")
    rows = []
    for row in report["results"]["rows"]:
        mean, sd = row["mean"], row["sd"]
        cells = [f"{mean[key]:.{d}f} ± {sd[key]:.{d}f}" for key, d in (("frechet", 1), ("precision", 2), ("recall", 2))]
        bound = f"{row['nats']:.1f} ± {row['nats_stderr']:.1f}" if "nats" in row else ""
        rows.append([row["model"], str(row["steps"] or ""), *cells, bound])
    return table(["model", "steps", "Fréchet distance", "precision", "recall", "bound, nats"], rows) + origin(report)


def toys() -> str:
    """Divergence on the toys at one and five steps."""
    report = read("toy2d")
    rows = []
    for toy, result in report["results"]["toys"].items():
        cells = [f"{result['factorized']['jsd']:.3f}", f"{result['fresh_data']['jsd']:.4f}"]
        for model in result["models"].values():
            by_steps = {row["steps"]: row for row in model["by_steps"]}
            cells += [f"{by_steps[t]['jsd']:.3f} ({by_steps[t]['validity']:.1%})" for t in TOY_STEPS]
        rows.append([toy.replace("_", " "), *cells])
    head = ["toy", "factorized floor", "two-draw floor"]
    models = next(iter(report["results"]["toys"].values()))["models"]
    head += [f"{TITLES[model]}, {t} step{'s' * (t > 1)}" for model in models for t in TOY_STEPS]
    return table(head, rows) + origin(report)


def likelihoods() -> str:
    """Bounds of both models on three data sets."""
    report = read("likelihoods")
    results = report["results"]
    head, rows = ["bound"], []
    for data in results:
        head += [f"{data.replace('_', ' ')}, {model}" for model in results[data]["models"]]
    names = [name for name in results["digits"]["models"]["VADD"]["bounds"] if "K=1" not in name]
    for name in names:
        cells = []
        for result in results.values():
            for model in result["models"].values():
                value = model["bounds"].get(name)
                cells.append("" if value is None else f"{value['nats']:.2f} ± {value['stderr']:.2f}")
        rows.append([name, *cells])
    known = [None if r["entropy"] is None else f"{r['entropy']:.2f}" for r in results.values()]
    entropies = [cell or "unknown" for cell in known for _ in range(2)]
    return table(head, [*rows, ["entropy of the data", *entropies]]) + origin(report)


def latent_design(data: str) -> str:
    """Bounds of each design's own sampler by number of steps, and what its latent carries and costs."""
    report = read("latent_design")
    result = report["results"]["data"][data]
    head, rows = ["design", "seeds"], []
    steps = list(next(iter(result["designs"].values()))["curves"]["sampler"])
    head += [f"T={t}" for t in steps] + ["marginal", "KL a token", "active", "training", "sampling"]
    for design in result["designs"].values():
        curve = design["curves"]["sampler"]
        spread = len(design["seeds"]) > 1
        cells = [f"{row['mean']:.2f}" + (f" ± {row['sd']:.2f}" if spread else "") for row in curve.values()]
        cells += [""] * (len(steps) - len(cells))
        cells.append(f"{design['marginal']['mean']:.2f}")
        latent, cost = design["latent"], design["cost"]
        has_latent = bool(latent) and latent["kl_per_token"] is not None
        carries = ["", ""]
        if has_latent:
            carries = [f"{latent['kl_per_token']['mean']:.3f}", f"{latent['active_units']['mean']:.0f}"]
        costs = [f"{cost[key]['mean']:.2f}" for key in ("training_flops", "sampling_flops")]
        rows.append([design["about"], str(len(design["seeds"])), *cells, *carries, *costs])
    note = (
        f"\nUpper bounds in nats per sequence on {result['num_rows']} held-out sequences, {result['num_latents']} "
        f"latents inside each logarithm, {result['num_updates']} updates; ± is the standard deviation over seeds. "
        "Marginal: the bound of infinitely many steps with a fresh latent at each, whatever the design's sampler. KL "
        "of guide and prior with three quarters or more of the tokens masked. Training and sampling: counted "
        "operations against the masked diffusion model's.\n"
    )
    return table(head, rows) + note + origin(report)


def latent_finalists() -> str:
    """Bounds of the three finalists on MNIST by number of steps."""
    report = read("latent_design")
    designs = report["results"]["data"]["mnist14"]["designs"]
    steps = list(designs["mdm"]["curves"]["sampler"])
    rows = []
    for name in ("mdm", "paper", "default"):
        curve = designs[name]["curves"]["sampler"]
        rows.append([designs[name]["about"], *(f"{curve[t]['mean']:.2f} ± {curve[t]['sd']:.2f}" for t in steps)])
    return table(["model", *(f"T={t}" for t in steps)], rows) + origin(report)


def latent_goals() -> str:
    """Excess over the masked diffusion model's bound of infinitely many steps, and paired differences to that model."""
    report = read("latent_design")
    rows, longest = [], []
    for data, result in report["results"]["data"].items():
        found = result["goals"]
        for design in ("mdm", "paper", "default"):
            if design not in found.get("excess", {}):
                continue
            gaps = found["minus_mdm"][design]
            cells = [
                f"{found['excess'][design][t]:+.2f}"
                + ("" if design == "mdm" else f" ({gaps[t]['nats']:+.2f} ± {gaps[t]['stderr']:.2f})")
                for t in found["excess"][design]
            ]
            longest = max(longest, list(found["excess"][design]), key=len)
            rows.append([data.replace("_", " "), design, *cells])
    head = ["data", "design", *(f"T={t}" for t in longest)]
    return table(head, [row + [""] * (len(head) - len(row)) for row in rows]) + origin(report)


def steps_vs_quality() -> str:
    """Fréchet distance and network calls of every method."""
    report = read("steps_vs_quality")
    steps, bounds = ("1 step", "4 steps", "16 steps", "64 steps"), ("64 nats", "16 nats", "4 nats", "0 nats")
    found = {(row["model"], row["method"], row["setting"]): row for row in report["results"]["rows"]}
    rows = []
    for model, method in dict.fromkeys(key[:2] for key in found):
        is_bounded = method == "entropy-bounded"
        cells = []
        for setting in bounds if is_bounded else steps:
            row = found[model, method, setting]
            cells.append(f"{row['mean']['frechet']:.1f} ({row['calls']:.1f})")
        rows.append([model, f"{method}, {', '.join(bounds)}" if is_bounded else method, *cells])
    real = report["results"]["real"]["mean"]["frechet"]
    note = f"\nFréchet distance (network calls a sequence); training digits instead of samples: {real:.1f}.\n"
    return table(["model", "method", *steps], rows) + note + origin(report)


def infill() -> str:
    """Completions of half digits."""
    report = read("infill")
    results = report["results"]
    rows = [
        [r["known"], r["way"], str(r["steps"]), f"{r['same_digit']:.1%}", f"{r['frechet']:.1f}", f"{r['distance']:.1f}"]
        for r in results["rows"]
    ]
    note = f"\nTwo real images of one digit are {results['distance_within_a_digit']:.1f} apart.\n"
    return table(["known", "", "steps", "same digit", "Fréchet distance", "apart"], rows) + note + origin(report)


def reliability() -> str:
    """Faults injected into training programs."""
    report = read("reliability")
    rows = []
    for row in report["results"]["faults"]:
        wait = row["seconds_to_recover"]
        shown = "" if wait is None else f"{wait['median']:.1f} (at most {wait['max']:.1f})"
        rows.append([row["fault"], str(row["tried"]), str(row["survived"]), shown])
    program, snapshot = (report["results"][key] for key in ("program", "snapshot"))
    median, most = (f"{1e3 * seconds:.0f}" for seconds in snapshot["seconds"].values())
    note = (
        f"\nModel and guide have {program['parameters']:,} parameters. An update takes "
        f"{1e3 * program['seconds_an_update']:.0f} ms, and a snapshot, every {program['save_every']} updates, "
        f"{median} ms (at most {most}) and {snapshot['bytes'] / 1e6:.1f} MB.\n"
    )
    return table(["fault", "tried", "survived", "seconds to recover"], rows) + note + origin(report)


def trainer_cost() -> str:
    """Time of an update of the Trainer, and of a loop written by hand."""
    report = read("reliability")
    rows = []
    for cost in report["results"]["trainer"]:
        seconds, ratio = (cost["processor"][key] for key in ("seconds_an_update", "ratio"))
        times = [f"{1e3 * seconds[name]:.1f}" for name in ("by_hand", "trainer")]
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        rows.append([str(cost["hidden_size"]), str(cost["batch_size"]), *times, spread])
    first = report["results"]["trainer"][0]
    note = f"\nMedians and extremes of {first['repeats']} runs of {first['updates']} updates each, in turns.\n"
    return table(["width", "batch", "by hand, ms", "Trainer, ms", "ratio"], rows) + note + origin(report)
