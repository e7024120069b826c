"""Time of a sampling step: outside the network, with and without the projection of hidden positions, against others.

A step is taken from the midst of a run: a transformer (random weights) reads sequences of which some tokens are
masked, and the sampler makes one jump. The alternatives of a comparison make the same jump in turns, in an order that
rotates; rounds are spread over the run. Reported are medians over the rounds, and the ratio to the first alternative
within a round, in time on the clock and in processor time, which other work on the machine disturbs less. Run
``python benchmarks/sampler.py``; the comparison with flow_matching needs ``pip install -e ".[benchmarks]"``.
"""

import argparse
import dataclasses
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vadd import MaskingProcess, VADDModel
from vadd.backbones import Denoiser, DiTDenoiser
from vadd.priors import StandardNormalPrior
from vadd.reporting import write_report
from vadd.samplers import (
    AncestralSampler,
    ConfidenceSampler,
    FirstHittingSampler,
    Jump,
    Sampler,
    SamplerRun,
    SamplerState,
    StaticSampler,
)
from vadd.samplers.latents import resolve_latents
from vadd.samplers.time_grid import resolve_grid
from vadd.schedules import LinearSchedule
from vadd.types import Latents, Logits, Times, Tokens

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from measuring import count_operations, parse_timing, spread, synchronize, timing_parser  # noqa: E402

LARGEST_SHARE_OUTSIDE = 0.05
SMALLEST_SPEEDUP = 1.5

Moment = tuple[float, float]  # seconds on the clock, and of the processor
Prepared = tuple[Callable[[], Any], Moment]  # a step, and the share of one-time preparation that falls to it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the networks and the batch."""

    batch_size: int = 16
    num_tokens: int = 256
    vocab_size: int = 50_257
    num_steps: int = 32
    hidden_size: int = 384
    depth: int = 6
    num_heads: int = 6
    # As wide as the embedding of the time: then modulation by either takes the same operations.
    latent_size: int = 128

    @classmethod
    def small(cls) -> "Sizes":
        """To see that everything runs."""
        return cls(4, 16, 300, 8, 32, 2, 2, 16)

    def model(self, *, has_latent: bool, reads_time: bool = False) -> VADDModel:
        """A model with random weights."""
        latent_size = self.latent_size if has_latent else 0
        denoiser = DiTDenoiser(
            self.vocab_size,
            self.num_tokens,
            latent_size,
            hidden_size=self.hidden_size,
            depth=self.depth,
            num_heads=self.num_heads,
            reads_time=reads_time,
            modulation_size=self.latent_size,
        )
        process = MaskingProcess(LinearSchedule(), self.vocab_size)
        return VADDModel(denoiser, StandardNormalPrior(latent_size), process).eval()


class DenseDenoiser(Denoiser):
    """The same network, projected at every position: what a denoiser without features does."""

    def __init__(self, inner: DiTDenoiser) -> None:
        super().__init__()
        self.inner = inner
        self.vocab_size, self.latent_shape, self.num_tokens = inner.vocab_size, inner.latent_shape, inner.num_tokens

    def forward(self, x_t: Tokens, t: Times, z: Latents) -> Logits:
        return self.inner(x_t, t, z)


class Watch:
    """Time spent in a network's two parts, the trunk and the vocabulary projection, by hooks on them."""

    def __init__(self, denoiser: DiTDenoiser, device: torch.device) -> None:
        self.device = device
        self.spent = {"features": (0.0, 0.0), "projection": (0.0, 0.0)}
        self._since: Moment = (0.0, 0.0)
        for name, part in (("features", denoiser.trunk), ("projection", denoiser.head)):
            part.register_forward_pre_hook(lambda *_: setattr(self, "_since", now(device)))
            part.register_forward_hook(lambda *_, name=name: self._add(name))

    def _add(self, name: str) -> None:
        self.spent[name] = plus(self.spent[name], minus(now(self.device), self._since))

    def reset(self) -> None:
        """Start from zero."""
        self.spent = dict.fromkeys(self.spent, (0.0, 0.0))


def now(device: torch.device) -> Moment:
    """Both times, once the device has finished."""
    synchronize(device)
    return time.perf_counter(), time.process_time()


def minus(a: Moment, b: Moment) -> Moment:
    """The time between two moments."""
    return a[0] - b[0], a[1] - b[1]


def plus(a: Moment, b: Moment) -> Moment:
    """Times added up."""
    return a[0] + b[0], a[1] + b[1]


def prepare(model: VADDModel, sampler: Sampler, sizes: Sizes, num_steps: int, index: int) -> Prepared:
    """The jump ``index`` of a run: states before it have random tokens where something is revealed."""
    shape, device = (sizes.batch_size, sizes.num_tokens), model.null_latent.device
    run = SamplerRun(
        model=model,
        start=torch.full(shape, model.process.mask_id, device=device),
        grid=tuple(resolve_grid(num_steps, None).tolist()),
        latents=resolve_latents("fresh", model, num_steps, sizes.num_tokens),
    )
    start = now(device)
    jumps = list(sampler.jumps(run))
    once = tuple(part / len(jumps) for part in minus(now(device), start))
    index = min(index, len(jumps) - 1)
    jump = jumps[index]
    hidden = torch.rand(shape, dtype=torch.float64, device=device) < jump.masked[0]
    if jump.target is not None or jump.slots is not None:  # decided for the whole run
        hidden = torch.stack([revealed_by(later, hidden) for later in jumps[index:]]).any(0)
    x = torch.randint(sizes.vocab_size, shape, device=device).masked_fill(hidden, model.process.mask_id)
    state = SamplerState(x)
    return lambda: sampler.step(run, state, jump), (once[0], once[1])


def revealed_by(jump: Jump, like: Tensor) -> Tensor:
    """Positions that a jump reveals which was decided on before it, as flags of the shape of ``like``."""
    if jump.slots is None:
        return torch.zeros_like(like) if jump.target is None else jump.target
    slots, is_due = jump.slots
    return torch.zeros_like(like).flatten().index_copy(0, slots, is_due).reshape(like.shape)


class _SecondCallError(Exception):
    """Ends a run of the other solver after its first step."""


def prepare_peer(model: VADDModel, sizes: Sizes, num_steps: int, index: int) -> Prepared:
    """The same jump by flow_matching's discrete Euler solver, with the same network, latents and starting law.

    The network is projected at masked positions only. The solver asks for probabilities at all of them.
    """
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    shape, device = (sizes.batch_size, sizes.num_tokens), model.null_latent.device
    mask_id = model.process.mask_id
    grid = 1 - resolve_grid(num_steps, None)[index:].float().to(device)  # its time runs from noise to data

    class Peer(ModelWrapper):
        num_calls = 0

        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            self.num_calls += 1
            if self.num_calls == 2:
                raise _SecondCallError
            return peer_probabilities(model, x, 1 - t)

    hidden = torch.rand(shape, dtype=torch.float64, device=device) < 1 - float(grid[0])
    x = torch.randint(sizes.vocab_size, shape, device=device).masked_fill(hidden, mask_id)
    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(Peer(model.denoiser), path, mask_id + 1)

    def step() -> None:
        try:
            solver.sample(x, step_size=None, time_grid=grid)
        except _SecondCallError:
            return
        raise AssertionError("the solver ended before its second step")

    return step, (0.0, 0.0)


def peer_probabilities(model: VADDModel, x: Tensor, t: Tensor) -> Tensor:
    """Probabilities over tokens and mask token; revealed positions keep their token."""
    is_masked = x == model.process.mask_id
    likelihood = model.denoise(x, t, model.prior(x, t).sample())
    kept = torch.where(is_masked, 0, x)[..., None]
    p = torch.zeros(*x.shape, model.process.mask_id + 1, device=x.device).scatter_(-1, kept, 1.0)
    p[is_masked] = nn.functional.pad(likelihood.logits_at(is_masked).softmax(-1), (0, 1))
    return p


def compare(
    alternatives: dict[str, tuple[Watch, Callable[[int], Prepared]]], rounds: int, num_steps: int, args: Any
) -> dict[str, Any]:
    """Make the same jumps in turns, from states of the same law; the first alternative is the baseline."""
    names, device = list(alternatives), torch.device(args.device)
    rows: dict[str, list[dict[str, Moment]]] = {name: [] for name in names}
    for index in range(-1, rounds):  # the first round warms up
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            watch, prepared = alternatives[name]
            torch.manual_seed(args.seed + 1 + index)
            jump = (2 * max(index, 0) + 1) * num_steps // (2 * rounds)
            with torch.no_grad():
                step, once = prepared(jump)
                watch.reset()
                start = now(device)
                step()
                whole = plus(minus(now(device), start), once)
            inside = plus(*watch.spent.values())
            if index >= 0:
                rows[name].append({"step": whole, **watch.spent, "outside": minus(whole, inside)})
    result = {"num_steps": num_steps, "rounds": rounds, "baseline": names[0], "alternatives": {}}
    for name in names:
        entry: dict[str, Any] = {}
        for clock, key in enumerate(("clock", "processor")):
            parts = {part: [1e3 * row[part][clock] for row in rows[name]] for part in rows[name][0]}
            entry[key] = {"ms": {part: statistics.median(values) for part, values in parts.items()}}
            # Of sums, so that every jump counts by its length.
            entry[key]["share_outside"] = sum(parts["outside"]) / sum(parts["step"])
            if name != names[0]:
                base = [1e3 * row["step"][clock] for row in rows[names[0]]]
                entry[key]["ratio"] = spread([mine / theirs for mine, theirs in zip(parts["step"], base, strict=True)])
        result["alternatives"][name] = entry
    return result


def measure(sizes: Sizes, args: argparse.Namespace) -> dict[str, Any]:
    """All comparisons."""
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    models = {
        "VADD": sizes.model(has_latent=True),
        "MDM with AdaLN": sizes.model(has_latent=False, reads_time=True),
        "MDM": sizes.model(has_latent=False),
    }
    models = {name: model.to(device) for name, model in models.items()}
    networks = {name: cast(DiTDenoiser, model.denoiser) for name, model in models.items()}
    watches = {name: Watch(network, device) for name, network in networks.items()}
    vadd, ancestral, num_steps = models["VADD"], AncestralSampler(), sizes.num_steps
    rounds = {name: args.rounds or number for name, number in args.default_rounds.items()}

    def steps(name: str, sampler: Sampler = ancestral, num_steps: int = num_steps) -> Any:
        return watches[name], lambda jump: prepare(models[name], sampler, sizes, num_steps, jump)

    methods = {
        "ancestral": ancestral,
        "cached": AncestralSampler(skip="rows"),
        "static": StaticSampler(),
        "first-hitting": FirstHittingSampler(),
        "confidence": ConfidenceSampler(),
    }
    results: dict[str, Any] = {"sizes": dataclasses.asdict(sizes)}
    results["methods"] = compare(
        {name: steps("VADD", sampler) for name, sampler in methods.items()}, rounds["methods"], num_steps, args
    )

    dense = VADDModel(DenseDenoiser(networks["VADD"]), vadd.prior, vadd.process).eval()
    all_steps = sizes.num_tokens
    results["projection"] = compare(
        {
            "at revealed positions": steps("VADD", num_steps=all_steps),
            "at all positions": (
                watches["VADD"],
                lambda jump: prepare(dense, ancestral, sizes, all_steps, jump),
            ),
        },
        rounds["projection"],
        all_steps,
        args,
    )

    order = ("MDM with AdaLN", "VADD", "MDM")
    results["latent"] = compare({name: steps(name) for name in order}, rounds["latent"], num_steps, args)
    results["latent"]["operations"] = {}
    for name in order:
        torch.manual_seed(args.seed)
        step, _ = steps(name)[1](num_steps // 2)
        with torch.no_grad():
            results["latent"]["operations"][name] = count_operations(step)[1]

    if importlib.util.find_spec("flow_matching"):
        peer = (watches["VADD"], lambda jump: prepare_peer(vadd, sizes, num_steps, jump))
        pair = {"vadd": steps("VADD"), "flow_matching": peer}
        results["peer"] = compare(pair, rounds["peer"], num_steps, args)
    results["goals"] = goals(results, "clock" if device.type == "cuda" else "processor")
    return results


def goals(results: dict[str, Any], clock: str) -> dict[str, Any]:
    """What was aimed at, and what came out."""
    share = results["methods"]["alternatives"]["ancestral"][clock]["share_outside"]
    speedup = results["projection"]["alternatives"]["at all positions"][clock]["ratio"]["median"]
    operations = results["latent"]["operations"]
    return {
        "judged_by": clock,
        "share_outside": {"at_most": LARGEST_SHARE_OUTSIDE, "got": share, "met": share <= LARGEST_SHARE_OUTSIDE},
        "speedup": {"at_least": SMALLEST_SPEEDUP, "got": speedup, "met": speedup >= SMALLEST_SPEEDUP},
        "same_operations": {"met": operations["VADD"] == operations["MDM with AdaLN"]},
    }


def print_tables(results: dict[str, Any]) -> None:
    """One table a comparison, the clock's times and the processor's beside each other."""
    titles = {
        "methods": "methods",
        "projection": "vocabulary projection",
        "latent": "masked diffusion and VADD",
        "peer": "against flow_matching's discrete Euler solver",
    }
    for key, title in titles.items():
        if key not in results:
            print(f"\n{title}: left out, flow_matching is not installed")
            continue
        result = results[key]
        print(f"\n{title}: one of {result['num_steps']} steps, medians of {result['rounds']} rounds")
        print(f"  {'':<24}{'':<11}{'ms':>9}{'features':>10}{'projection':>11}{'outside':>9}{'share':>8}   ratio")
        for name, entry in result["alternatives"].items():
            for clock, row in entry.items():
                ms = row["ms"]
                line = f"  {name if clock == 'clock' else '':<24}{clock:<11}{ms['step']:>9.1f}{ms['features']:>10.1f}"
                line += f"{ms['projection']:>11.1f}{ms['outside']:>9.1f}{row['share_outside']:>8.1%}"
                if "ratio" in row:
                    ratio = row["ratio"]
                    line += f"   {ratio['median']:.3f} [{ratio['lower_quartile']:.3f}, {ratio['upper_quartile']:.3f}]"
                print(line)
        for name, count in result.get("operations", {}).items():
            print(f"  {name}: {count / 1e9:.3f}e9 counted operations")
    print()
    for name, goal in results["goals"].items():
        if isinstance(goal, dict):
            numbers = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in goal.items() if key != "met")
            print(f"goal {name.replace('_', ' ')} ({numbers or 'equal'}): {'met' if goal['met'] else 'MISSED'}")


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    args = parse_timing(timing_parser(__doc__, threads=1), argv)
    args.default_rounds = {"methods": 4, "projection": 4, "latent": 10, "peer": 4}
    results = measure(Sizes.small() if args.smoke else Sizes(), args)
    print_tables(results)
    name = "sampler" if args.device == "cpu" else f"sampler-{args.device}"
    path = write_report(name, results, seed=args.seed, device=args.device, folder=args.out)
    print(f"\nwrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


if __name__ == "__main__":
    main()
