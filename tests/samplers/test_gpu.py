"""Samplers on an accelerator: seeds decide, other random states stay, and the law is the enumerated one."""

import pytest
import torch

from vadd.samplers import PosteriorLatents

from ..devices import CUDA
from .laws import DRAWS, check_law
from .test_law import law, make_model

pytestmark = CUDA


@pytest.mark.parametrize("method", ["ancestral", "cached", "static", "first-hitting"])
@pytest.mark.parametrize("latents", ["fresh", "shared", ("shared", "null", "fresh")])
def test_samples_on_a_gpu_have_the_enumerated_law(method, latents):
    expected = law(make_model("normal"), 3, latents)
    x = make_model("normal").cuda().sample(DRAWS, num_steps=3, latents=latents, method=method, seed=0)
    assert x.is_cuda
    check_law(x.cpu(), expected)


@pytest.mark.parametrize("latents", ["fresh", "shared", PosteriorLatents(2, "fresh")], ids=str)
def test_a_seed_decides_everything_on_a_gpu(latents):
    model = make_model("normal").cuda()
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    first, second = (model.sample(50, num_steps=4, latents=latents, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(states[0], torch.get_rng_state())
    assert torch.equal(states[1], torch.cuda.get_rng_state())
