"""The contract check of samplers accepts those of the library and names what is wrong with others."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from vadd.samplers import (
    AncestralSampler,
    ConfidenceSampler,
    EntropyBoundedSampler,
    FirstHittingSampler,
    Jump,
    PredictorCorrectorSampler,
    RemaskingSampler,
    Sampler,
    StaticSampler,
)
from vadd.testing import check_sampler


@pytest.mark.parametrize(
    "sampler",
    [
        AncestralSampler(),
        AncestralSampler("steps"),
        AncestralSampler("rows"),
        StaticSampler(),
        FirstHittingSampler(),
        ConfidenceSampler(),
        ConfidenceSampler("margin", noise=1.0),
        EntropyBoundedSampler(),
        EntropyBoundedSampler(0.0),
        RemaskingSampler(),
        RemaskingSampler(1.0, "cap"),
        PredictorCorrectorSampler(),
    ],
    ids=str,
)
def test_the_samplers_of_the_library_keep_the_contract(sampler):
    check_sampler(sampler)


class _Own(Sampler):
    """Ancestral sampling, to be spoilt."""

    has_model_law = True

    def jumps(self, run):
        return run.jumps()

    def target(self, run, state, jump):
        before, after = jump.masked
        return run.is_masked(state.x) & (run.uniform() < (before - after) / before)

    def step(self, run, state, jump):
        return run.reveal(state, jump, self.target(run, state, jump))


def test_a_sampler_of_ones_own_may_pass():
    check_sampler(_Own())


class _RevealsTooOften(_Own):
    def target(self, run, state, jump):
        before, after = jump.masked
        return run.is_masked(state.x) & (run.uniform() < ((before - after) / before) ** 0.8)


class _EarlyTime(_Own):
    def step(self, run, state, jump):
        return super().step(run, state, replace(jump, t=jump.t / 2))


class _ForgetsTheLast(_Own):
    def jumps(self, run):
        return run.jumps()[:1] if len(run.jumps()) > 1 else run.jumps()


class _ChangesKnownTokens(_Own):
    has_model_law = False

    def step(self, run, state, jump):
        after = super().step(run, state, jump)
        return replace(after, x=torch.where(run.is_free, after.x, 1 - after.x))


class _DrawsGlobally(_Own):
    def target(self, run, state, jump):
        before, after = jump.masked
        return run.is_masked(state.x) & (torch.rand(state.x.shape) < (before - after) / before)


class _Remembers(_Own):
    count = 0

    def step(self, run, state, jump):
        self.count += 1
        if self.count % 2:
            run.uniform()
        return super().step(run, state, jump)


class _InPlace(_Own):
    def step(self, run, state, jump):
        after = super().step(run, state, jump)
        state.x.copy_(after.x)
        return after


class _Constant(_Own):
    has_model_law = False

    def step(self, run, state, jump):
        state, _ = run.predict(state, jump, self.target(run, state, jump))
        return replace(state, x=state.x.masked_fill(run.is_masked(state.x), 0))


class _IgnoresNaN(_Own):
    def step(self, run, state, jump):
        after = super().step(run, state, jump)
        if jump.masked[1]:
            return after
        return replace(after, x=after.x.masked_fill(run.is_masked(after.x), 0))


class _ReturnsTokens(_Own):
    has_model_law = False

    def step(self, run, state, jump):
        return super().step(run, state, jump).x


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (_RevealsTooOften(), "law of ancestral sampling"),
        (_EarlyTime(), "law of ancestral sampling"),
        (_ChangesKnownTokens(), "known from the start"),
        (_DrawsGlobally(), "global random state"),
        (_Remembers(), "same samples"),
        (_InPlace(), "must not change the state"),
        (_Constant(), "samples must differ"),
        (_IgnoresNaN(), "returns NaN"),
        (_ForgetsTheLast(), "nothing may be masked"),
        (_ReturnsTokens(), "return a SamplerState, got Tensor"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_wrong_is_named(sampler, message):
    with pytest.raises(AssertionError, match=message):
        check_sampler(sampler)


def test_attributes_are_checked():
    class Wrong(_Own):
        takes_num_steps = "sometimes"

    with pytest.raises(AssertionError, match="takes_num_steps"):
        check_sampler(Wrong())


@dataclass(frozen=True)
class _Lazy(Sampler):
    """Yields its jumps one by one."""

    def jumps(self, run) -> Iterator[Jump]:
        yield from run.jumps()

    def step(self, run, state, jump):
        before, after = jump.masked
        return run.reveal(state, jump, run.is_masked(state.x) & (run.uniform() < (before - after) / before))


def test_jumps_may_be_an_iterator():
    check_sampler(_Lazy())
