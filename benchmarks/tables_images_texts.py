"""Tables of the three models side by side on images and texts."""

from typing import Any

from tables_shared import origin, read, table


def run_name(run: dict[str, Any]) -> str:
    """A model and how long it was trained."""
    longer = f", trained as long as {run['as_long_as']}" if run["as_long_as"] else ""
    return f"{run['model']}{longer}"


def comparison(name: str) -> str:
    """Bounds of each model by number of steps, and what training cost."""
    report = read(name)
    runs = report["results"]["runs"]
    first = runs[0]
    steps = list(dict.fromkeys(row["steps"] for row in first["bounds"] if "steps" in row))
    base = next(run["seconds_per_update"] for run in runs if run["model"] == "mdm")
    rows = []
    for run in runs:
        found = {row["name"]: row for row in run["bounds"]}

        def finite(title: str, found: dict[str, Any] = found) -> list[str]:
            shown = (found.get(f"{title}T={t}") for t in steps)
            return ["" if row is None else f"{row['nats']:.1f} ± {row['stderr']:.1f}" for row in shown]

        cells = finite("finite-step, ")
        delbo = found["DELBO, the published metric"]
        cells += [f"{found['marginal']['nats']:.1f}", f"{delbo['nats']:.1f}", f"{delbo['bits_per_dim']:.4f}"]
        rows.append([run_name(run), str(run["updates"]), f"{run['seconds_per_update'] / base:.2f}", *cells])
        if all(cells := finite("shared-latent, ")):
            rows.append([f"{run_name(run)}, one latent a trajectory", "", "", *cells, "", "", ""])
    is_mixture = any(row.get("proposal") == "mixture" for run in runs for row in run["bounds"])
    drawn = ", where jumps have their own half from the guide and half from the prior" if is_mixture else ""
    head = ["model", "updates", "time an update", *(f"T={t}" for t in steps), "marginal", "DELBO", "in bits per dim"]
    note = (
        f"\nUpper bounds in nats on {first['preset']['num_rows']} held-out sequences (± standard error), "
        f"{first['preset']['num_latents']} latents inside the logarithm{drawn}, fewer where many steps share one. "
        "The DELBO is the published metric; with a latent it bounds nothing. With one latent a trajectory the weights "
        "of the row above are judged by the shared-latent bound, with as many trajectories inside the logarithm. Time "
        "an update: against the MDM's, in turns.\n"
    )
    return table(head, rows) + note + origin(report)


def differences(name: str) -> str:
    """Finite-step bounds of pairs of models, sequence by sequence."""
    report = read(name)
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for gap in report["results"]["differences"]:
        cell = f"{gap['nats']:+.1f} ± {gap['stderr']:.1f}"
        model = gap["model"] + (", one latent a trajectory" if gap.get("latents") == "shared" else "")
        found.setdefault((model, gap["against"], gap["equal"]), {})[gap["steps"]] = cell
    steps = list(dict.fromkeys(gap["steps"] for gap in report["results"]["differences"]))
    rows = [
        [f"{a} - {b}", f"equal {equal}", *(cells[t] for t in steps)]
        for (a, b, equal), cells in found.items()
        if set(steps) <= cells.keys()
    ]
    return table(["difference", "", *(f"T={t}" for t in steps)], rows) + origin(report)


def image_quality(name: str) -> str:
    """Fréchet distance of samples by number of steps."""
    report = read(name)
    runs = [run for run in report["results"]["runs"] if run["distances"]["rows"]]
    key = next(key for key in runs[0]["distances"]["rows"][-1] if key != "steps")  # of samples; fewer real ones differ
    steps = [row["steps"] for row in runs[0]["distances"]["rows"]]
    rows = [
        [run_name(run), *(f"{row[key]:.1f}" if key in row else "" for row in run["distances"]["rows"])] for run in runs
    ]
    head = [key, *("real" if t is None else f"T={t}" for t in steps)]
    against = runs[0]["distances"]["against"].replace("steps null", "column real")
    note = f"\nSamples against {against}. Distances in {runs[0]['distances']['features']}.\n"
    return table(head, rows) + note + origin(report)


def text_quality(name: str) -> str:
    """Perplexity of samples by the judge, and their entropy, by number of steps."""
    report = read(name)
    runs = report["results"]["runs"]
    steps = [row["steps"] for row in runs[0]["samples"]["rows"]]
    rows = [
        [run_name(run), *(f"{row['perplexity']:.1f} ({row['unigram_entropy']:.2f})" for row in run["samples"]["rows"])]
        for run in runs
    ]
    first = runs[0]["samples"]
    note = f"\nPerplexity by {first['judge']} (unigram entropy in nats); real: {first['against'].split(':')[0]}.\n"
    return table(["model", *("real" if t is None else f"T={t}" for t in steps)], rows) + note + origin(report)


def latents(name: str) -> str:
    """What the latent of each model carries."""
    report = read(name)
    rows = [
        [run_name(run), f"{found['kl_nats']:.2f}", f"{found['kl_nats_per_token']:.4f}", str(found["active_units"])]
        for run in report["results"]["runs"]
        if (found := run.get("latent")) is not None
    ]
    note = "\nKL of guide and prior with all tokens masked, where a trajectory's latent is drawn.\n"
    return table(["model", "KL of a row, nats", "KL a token", "active units"], rows) + note + origin(report)
