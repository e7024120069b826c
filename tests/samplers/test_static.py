"""Static sampling: every step makes the same operations on the same shapes, and waits for nothing."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from vadd import MaskingProcess, VADDModel
from vadd._modes import checks_on
from vadd.backbones import Denoiser
from vadd.priors import StandardNormalPrior
from vadd.samplers import (
    AncestralSampler,
    Jump,
    Sampler,
    SamplerRun,
    SamplerState,
    Shaping,
    StaticSampler,
    Trajectory,
)
from vadd.samplers.latents import resolve_latents
from vadd.schedules import LinearSchedule

from ..devices import CUDA
from ..waits import Waits
from .test_ancestral import LENGTH, VOCAB, make_model


class Operations(TorchDispatchMode):
    """Notes every operation with the shapes and types of what it is given."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        self.found.append((str(func), [(tuple(v.shape), v.dtype) for v in leaves if isinstance(v, torch.Tensor)]))
        return func(*args, **kwargs)


class Watched(Sampler):
    """The sampler, each of whose steps is taken down."""

    has_model_law = True

    def __init__(self, sampler):
        self.sampler, self.operations, self.waits = sampler, [], []

    def jumps(self, run):
        return self.sampler.jumps(run)

    def step(self, run, state, jump):
        with checks_on(False), Waits() as waits, Operations() as operations:  # as on a GPU after the first step
            state = self.sampler.step(run, state, jump)
        self.operations.append(operations.found)
        self.waits.append(waits.found)
        return state


@pytest.mark.parametrize("latents", ["shared", "null"])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "min_p": 0.1}, {"temperature": 0.0}], ids=str
)
@pytest.mark.parametrize("kind", ["dit", "mlp"])
def test_all_steps_make_the_same_operations_on_the_same_shapes(kind, latents, options):
    model, watched = make_model(kind), Watched(StaticSampler())
    model.sample(5, num_steps=7, method=watched, latents=latents, seed=0, **options)
    assert len(watched.operations) == 7
    assert watched.operations[1:] == [watched.operations[1]] * 6  # the first one draws the latent
    assert watched.waits == [[]] * 7


def test_known_tokens_and_candidates_change_nothing_about_that():
    model, watched = make_model("dit"), Watched(StaticSampler())
    x = torch.arange(3 * LENGTH).reshape(3, LENGTH) % VOCAB
    is_known = torch.arange(LENGTH).expand(3, -1) < 2
    for options in ({}, {"num_candidates": 4}):
        watched.operations, watched.waits = [], []
        model.infill(x, is_known, num_steps=6, method=watched, latents="shared", seed=0, **options)
        assert watched.operations[1:] == [watched.operations[1]] * 5
        assert watched.waits == [[]] * 6


def test_this_is_not_so_of_ancestral_sampling():
    watched = Watched(AncestralSampler())
    make_model("dit").sample(5, num_steps=7, method=watched, latents="null", seed=0)
    assert watched.operations[1] != watched.operations[2]
    assert len(watched.waits[1]) == 1


def test_each_step_projects_what_the_fullest_reveals():
    model, trajectory, projected = make_model("dit"), Trajectory(), []
    model.denoiser.head.register_forward_hook(lambda head, args, out: projected.append(out.shape[:-1].numel()))
    model.sample(6, num_steps=9, method="static", record=trajectory, seed=0)
    is_masked = trajectory.x == VOCAB
    reveals = (is_masked[:-1] & ~is_masked[1:]).sum((1, 2))
    assert projected == [int(reveals.max())] * 9
    assert trajectory.num_calls == 9


def test_nothing_to_fill_in_and_one_step():
    model = make_model("dit")
    x = torch.arange(2 * LENGTH).reshape(2, LENGTH) % VOCAB
    assert torch.equal(model.infill(x, torch.ones_like(x, dtype=torch.bool), num_steps=3, method="static"), x)
    assert (model.sample(4, num_steps=1, method="static") < VOCAB).all()
    assert (model.sample(4, num_steps=40, method="static") < VOCAB).all()  # steps that reveal nothing


class Replayed(Sampler):
    """The sampler with its second step recorded, operation by operation, and replayed for all jumps that follow."""

    def __init__(self):
        self.sampler, self.replay = StaticSampler(), None

    def jumps(self, run):
        return self.sampler.jumps(run)

    def step(self, run, state, jump):
        if jump.index == 0:  # draws a shared latent
            return self.sampler.step(run, state, jump)
        inputs = (state.x, jump.t, *jump.slots)
        if self.replay is None:
            self.replay = self.record(run, state, jump, inputs)
        return replace(state, x=self.replay(*inputs), num_calls=state.num_calls + 1)

    def next_tokens(self, run, state, jump, x, t, slots, is_due):
        with checks_on(False):  # as they are on a GPU
            return self.sampler.step(run, replace(state, x=x), replace(jump, t=t, slots=(slots, is_due))).x

    def record(self, run, state, jump, inputs):
        before = run.generator.get_state()
        recorded = make_fx(lambda *values: self.next_tokens(run, state, jump, *values))(*inputs)
        run.generator.set_state(before)
        return recorded


class Captured(Replayed):
    """The same by a CUDA graph."""

    def record(self, run, state, jump, inputs):
        held, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
        before = run.generator.get_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.next_tokens(run, state, jump, *held)  # libraries make their workspaces
        torch.cuda.current_stream().wait_stream(stream)
        graph.register_generator_state(run.generator)
        with torch.cuda.graph(graph):
            x = self.next_tokens(run, state, jump, *held)
        run.generator.set_state(before)

        def replay(*values):
            for own, value in zip(held, values, strict=True):
                own.copy_(value)
            graph.replay()
            return x.clone()

        return replay


@pytest.mark.parametrize(
    ("way", "device"), [(Replayed, "cpu"), pytest.param(Captured, "cuda", marks=CUDA)], ids=["recorded", "captured"]
)
@pytest.mark.parametrize("latents", ["shared", "null"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_held_step_serves_those_that_follow(temperature, latents, way, device):
    model = make_model("mlp", reads_time=True).to(device)
    options = {"num_steps": 7, "latents": latents, "temperature": temperature}
    for seed in (0, 1):
        x = model.sample(20, method=way(), seed=seed, **options)
        assert torch.equal(x, model.sample(20, method="static", seed=seed, **options))
    assert not torch.equal(x, model.sample(20, method="static", seed=0, **options))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("shaping", [Shaping(), Shaping(0.7, top_k=3, top_p=0.9, min_p=0.1), Shaping(0.0)], ids=str)
def test_a_gpu_gives_no_value_to_the_host(shaping, given):
    """On tensors without values, as if of a GPU: reading one is an error, and so is a tensor on another device."""

    def step(sampler, slots):
        with FakeTensorMode(), checks_on(False), torch.no_grad():
            with torch.device("cuda"):
                model = make_model("mlp", reads_time=True)
            x, t = torch.full((3, LENGTH), VOCAB, device="cuda"), torch.ones(3, device="cuda")
            run = SamplerRun(
                model,
                x,
                (1.0, 0.5, 0.0),
                resolve_latents("null", model, 2, LENGTH),
                shaping=shaping,
                given=(torch.zeros_like(x), x == VOCAB) if given else None,
            )
            flags = torch.ones(5, dtype=torch.bool, device="cuda")
            places = (torch.arange(5, device="cuda"), flags) if slots else None
            return sampler.step(run, SamplerState(x), Jump(0, t, (1.0, 0.5), slots=places)).x

    x = step(StaticSampler(), True)
    assert (x.device.type, x.shape) == ("cuda", (3, LENGTH))
    with pytest.raises(DynamicOutputShapeException):
        step(AncestralSampler(), False)


class Constant(Denoiser):
    """The same logits, whatever it reads."""

    def __init__(self, logits):
        super().__init__()
        self.num_tokens, self.vocab_size = logits.shape
        self.latent_shape, self.logits = torch.Size([0]), logits

    def forward(self, x_t, t, z):
        return self.logits.expand(len(x_t), -1, -1)


@pytest.mark.parametrize("time_grid", ["uniform", torch.tensor([1.0, 0.9, 0.2, 0.19, 0.0])], ids=["even", "uneven"])
def test_only_revealed_tokens_are_weighted(time_grid):
    """Then a candidate's weight is the probability of the known tokens, whichever steps reveal them."""
    logits = torch.randn(LENGTH, VOCAB, generator=torch.Generator().manual_seed(0))
    model = VADDModel(Constant(logits), StandardNormalPrior(0), MaskingProcess(LinearSchedule(), VOCAB))
    x, is_known = torch.arange(LENGTH)[None] % VOCAB, torch.arange(LENGTH)[None] < 4
    record = Trajectory()
    options = {"num_steps": 4, "time_grid": time_grid, "num_candidates": 50, "seed": 0}
    model.infill(x, is_known, method="static", record=record, **options)
    log_p = logits.log_softmax(-1).gather(-1, x.T)[:, 0]
    torch.testing.assert_close(record.log_weights, log_p[:4].sum().double().expand(50), rtol=1e-5, atol=1e-5)


def test_jumps_are_those_of_ancestral_sampling():
    model, seen = make_model(), []

    class Listed(StaticSampler):
        def jumps(self, run):
            jumps = super().jumps(run)
            for ours, theirs in zip(jumps, AncestralSampler().jumps(run), strict=True):
                seen.append(
                    (ours.index, ours.masked) == (theirs.index, theirs.masked) and torch.equal(ours.t, theirs.t)
                )
            return jumps

    model.sample(3, num_steps=5, method=Listed())
    assert seen == [True] * 5
