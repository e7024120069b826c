"""Static sampling: every step makes the same operations on the same shapes, and waits for nothing."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from vadd._modes import checks_on
from vadd.samplers import AncestralSampler, Sampler, StaticSampler, Trajectory

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
    """The sampler with one step recorded, operation by operation, and replayed for every jump."""

    def __init__(self):
        self.sampler, self.replay = StaticSampler(), None

    def jumps(self, run):
        return self.sampler.jumps(run)

    def step(self, run, state, jump):
        inputs = (state.x, jump.t, *jump.slots)
        if self.replay is None:
            self.replay = self.record(run, state, jump, inputs)
        return replace(state, x=self.replay(*inputs), num_calls=state.num_calls + 1)

    def next_tokens(self, run, state, jump, x, t, slots, is_due):
        with checks_on(False):
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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_recorded_step_serves_all_jumps(temperature):
    model = make_model("mlp")
    options = {"num_steps": 7, "latents": "null", "temperature": temperature}
    for seed in (0, 1):
        x = model.sample(20, method=Replayed(), seed=seed, **options)
        assert torch.equal(x, model.sample(20, method="static", seed=seed, **options))
    assert not torch.equal(x, model.sample(20, method="static", seed=0, **options))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_a_cuda_graph_holds_a_step(device):
    model = make_model("mlp").to(device)
    options = {"num_steps": 7, "latents": "null"}
    x = model.sample(20, method=Captured(), temperature=0.0, seed=0, **options)
    assert torch.equal(x, model.sample(20, method="static", temperature=0.0, seed=0, **options))
    x = model.sample(400, method=Captured(), seed=0, **options)
    assert (x < VOCAB).all()
    assert len(x.unique(dim=0)) > 100
