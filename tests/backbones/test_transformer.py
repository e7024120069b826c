"""The transformer against one written out by formulas, and with activations computed again."""

import copy
import functools
import math
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vadd import MaskingProcess
from vadd.backbones import DiTDenoiser, DiTRecognition, EmptyRecognition, PatchDiTDenoiser, PatchDiTRecognition
from vadd.recipes import get_recipe
from vadd.schedules import LinearSchedule

from ..devices import CUDA, every_device
from . import parts

perturb = functools.partial(parts.perturb, scale=0.3)

VOCAB, LENGTH, BATCH, LATENT = 7, 6, 3, 4
POSITIONS = ("learned", "rotary")
SIZE = {"hidden_size": 16, "depth": 2, "num_heads": 2, "modulation_size": 8}


def inputs(dtype=torch.float64):
    x = torch.randint(VOCAB + 1, (BATCH, LENGTH))
    return x, torch.rand(BATCH, dtype=dtype), torch.randn(BATCH, LATENT, dtype=dtype)


def written_out(network, x_t, z, is_padding):
    """Token by token, head by head: complex rotations, softmax of explicit scores, one product a norm's modulation."""
    trunk, conditioning = network.trunk, network.trunk.conditioning
    hidden, depth, heads = SIZE["hidden_size"], SIZE["depth"], SIZE["num_heads"]
    head_size = hidden // heads

    def linear(layer, value):
        return value @ layer.weight.T + layer.bias

    source = conditioning.latent
    embedded = F.silu(linear(source.second, F.silu(linear(source.first, z))))
    norms = 2 * depth + 1

    def modulated(norm, index, value):
        centred = value - value.mean(-1, keepdim=True)
        y = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
        parts = []
        for first in (index, norms + index):  # scales of all norms, then shifts
            rows = slice(first * hidden, (first + 1) * hidden)
            layer = source.modulation
            parts.append((embedded @ layer.weight[rows].T + layer.bias[rows])[:, None])
        return y * (1 + parts[0]) + parts[1]

    def rotated(value):
        half = head_size // 2
        pairs = torch.complex(value[..., :half], value[..., half:])
        angle = torch.arange(LENGTH, dtype=z.dtype)[:, None] / 10_000.0 ** (torch.arange(half, dtype=z.dtype) / half)
        turned = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    y = trunk.embedding.weight[x_t]
    for i, block in enumerate(trunk.blocks):
        qkv = linear(block.qkv, modulated(block.attention_norm, 2 * i, y))
        outputs = []
        for head in range(heads):
            q, k, v = (qkv[..., part * hidden + head * head_size :][..., :head_size] for part in range(3))
            scores = rotated(q) @ rotated(k).mT / math.sqrt(head_size)
            weights = scores.masked_fill(is_padding[:, None], -torch.inf).exp()
            outputs.append(weights / weights.sum(-1, keepdim=True) @ v)
        y = y + linear(block.attention_out, torch.cat(outputs, -1))
        inner = linear(block.feed_in, modulated(block.feed_norm, 2 * i + 1, y))
        y = y + linear(block.feed_out, inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    return linear(network.head, modulated(trunk.norm, norms - 1, y))


@every_device
@pytest.mark.parametrize("is_padded", [False, True])
def test_fused_attention_and_joint_modulation_are_the_formulas(is_padded, device):
    with torch.device(device):
        compare_with_formulas(is_padded)


def compare_with_formulas(is_padded):
    network = perturb(DiTDenoiser(VOCAB, LENGTH, LATENT, **SIZE)).double()
    x_t, t, z = inputs()
    is_padding = torch.arange(LENGTH) >= torch.tensor([6, 2, 4])[:, None] if is_padded else None
    none = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    fused = network(x_t, t, z, is_padding=is_padding)
    expected = written_out(network, x_t, z, none if is_padding is None else is_padding)
    # The tables of the rotation are kept in single precision.
    torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-5)
    assert fused.std() > 0.1
    parameters = list(network.parameters())
    weights = torch.randn_like(fused)
    gradients = [torch.autograd.grad((weights * value).sum(), parameters) for value in (fused, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


NETWORKS = {
    "denoiser": lambda **o: DiTDenoiser(VOCAB, LENGTH, LATENT, **SIZE, **o),
    "learned": lambda **o: DiTDenoiser(VOCAB, LENGTH, LATENT, positions="learned", **SIZE, **o),
    "recognition": lambda **o: DiTRecognition(VOCAB, LENGTH, LATENT, **SIZE, **o),
    "patches": lambda **o: PatchDiTDenoiser((2, 4), VOCAB, LATENT, **SIZE, **o),
    "patch recognition": lambda **o: PatchDiTRecognition((2, 4), VOCAB, LATENT, **SIZE, **o),
}


def call(network, name, dtype):
    length = 8 if "patch" in name else LENGTH
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(VOCAB, (BATCH, length), generator=generator)
    t = torch.rand(BATCH, generator=generator).to(dtype)
    if "recognition" in name:
        distribution = network(x, torch.rand(x.shape, generator=generator) < 0.5, t)
        return distribution.mean + distribution.variance
    return network(x, t, torch.randn(BATCH, LATENT, generator=generator).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_recomputing_gives_the_same_values_and_gradients(name, dropout, dtype):
    network = perturb(NETWORKS[name](dropout=dropout)).to(dtype)
    again = NETWORKS[name](dropout=dropout, recompute=True).to(dtype)
    again.load_state_dict(network.state_dict())
    results = []
    for part in (network, again):
        torch.manual_seed(3)
        value = call(part, name, dtype)
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(2)).to(value.dtype)
        gradients = torch.autograd.grad((weights * value).sum(), list(part.parameters()), allow_unused=True)
        results.append((value.detach(), [g for g in gradients if g is not None]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(map(torch.equal, results[0][1], results[1][1]))
    assert len(results[0][1]) > 20


def test_recomputing_keeps_less_and_repeats_no_product():
    options = {"hidden_size": 64, "depth": 4, "num_heads": 4}
    network = perturb(DiTDenoiser(VOCAB, 32, LATENT, **options))
    again = DiTDenoiser(VOCAB, 32, LATENT, **options, recompute=True)
    again.load_state_dict(network.state_dict())
    x_t, t, z = torch.randint(VOCAB + 1, (8, 32)), torch.rand(8), torch.randn(8, LATENT)
    operations, kept = [], []
    for part in (network, again):
        with FlopCounterMode(display=False) as counter:
            part(x_t, t, z).square().sum().backward()
        operations.append(counter.get_total_flops())
        kept.append(live_after_forward(part, x_t, t, z))
    assert operations[0] == operations[1]
    # Of some twenty values a token and width, norms and activation make eight.
    assert kept[1] < 0.6 * kept[0]


def live_after_forward(network, x_t, t, z):
    """Bytes that the graph of the features holds on to."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        features = network.features(x_t, t, z)
    assert features.requires_grad
    events = profiler.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def test_queries_and_keys_from_before_the_rotation_are_not_kept():
    options = {"hidden_size": 64, "depth": 4, "num_heads": 4}
    x_t, t, z = torch.randint(VOCAB + 1, (8, 32)), torch.rand(8), torch.randn(8, LATENT)
    kept = [live_after_forward(DiTDenoiser(VOCAB, 32, LATENT, positions=p, **options), x_t, t, z) for p in POSITIONS]
    # Rotated ones beside them, and a copy of the values, would be two or three values a token and width in each block.
    assert kept[1] < kept[0] + 4 * 8 * 32 * 64 * 4


def test_nothing_is_computed_again_without_gradients(monkeypatch):
    network = DiTDenoiser(VOCAB, LENGTH, LATENT, **SIZE, recompute=True)

    def refuse(*args, **kwargs):
        raise AssertionError("a checkpoint without gradients")

    monkeypatch.setattr("vadd.backbones.transformer.checkpoint", refuse)
    with torch.no_grad():
        network(*inputs(torch.float32))
    with pytest.raises(AssertionError, match="a checkpoint"):
        network(*inputs(torch.float32))


def test_a_layer_with_randomness_of_its_own_is_recomputed_alike():
    class Noisy(nn.Linear):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5)

    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = DiTDenoiser(VOCAB, LENGTH, LATENT, **SIZE, recompute=recompute)
        for block in network.trunk.blocks:
            block.feed_in = Noisy(SIZE["hidden_size"], 4 * SIZE["hidden_size"])
        torch.manual_seed(1)
        network(*inputs(torch.float32)).square().sum().backward()
        gradients.append(network.trunk.blocks[0].feed_in.weight.grad)
    assert torch.equal(*gradients)


COMPILED = """
import sys
import torch
from torch import nn
from vadd.backbones import DiTDenoiser
from vadd.distributions import projection

backend, device = sys.argv[1:]
torch.set_default_device(device)


def compare(run, parameters, *inputs, dtype=torch.float64, tolerance=1e-10):
    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend=backend)):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = function(*inputs)
        weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)
        gradients = torch.autograd.grad((weights * value).sum(), parameters)
        results.append([value.detach(), *gradients])
    largest = max(float(gradient.abs().max()) for gradient in results[0][1:])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * max(1.0, largest))
    torch.compiler.reset()


cases = [(torch.float64, 1e-10, True)]
if backend == "inductor":
    cases += [(torch.float64, 1e-10, False), (torch.bfloat16, 0.05, False), (torch.bfloat16, 0.05, True)]
for dtype, tolerance, recompute in cases:
    torch.manual_seed(0)
    network = DiTDenoiser(7, 6, 4, hidden_size=16, depth=1, num_heads=2, recompute=recompute)
    wide = torch.promote_types(dtype, torch.float32)
    network = network.to(wide)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = torch.randint(8, (3, 6)), torch.rand(3, dtype=wide), torch.randn(3, 4, dtype=wide)
    compare(network.features, list(network.trunk.parameters()), *inputs, dtype=dtype, tolerance=tolerance)

projection.CHUNK = projection.CHUNK_OF_ACCELERATOR = 24
projection.FEWEST_COLUMNS = 3  # not compiled, the scores come in slices
head, tokens = nn.Linear(5, 40).double(), torch.randint(40, (9,))
x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
compare(lambda y: projection.token_scores(y, head, tokens, 40), [x, *head.parameters()], x)
"""


@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("aot_eager", "cpu"),
        pytest.param("inductor", "cpu", marks=pytest.mark.slow),
        pytest.param("inductor", "cuda", marks=CUDA),
    ],
)
def test_compiled_networks_and_scores_have_the_same_gradients(backend, device):
    # In a process of its own: annotations that are checked at run time break the graph.
    if backend == "inductor" and shutil.which("c++") is None:
        pytest.skip("inductor needs a C++ compiler")
    command = [sys.executable, "-c", COMPILED, backend, device]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr


@every_device
@pytest.mark.parametrize("name", ["mdm", "paper", "default"])
def test_a_step_in_bfloat16_is_that_in_float32_up_to_rounding(name, device):
    with torch.device(device):
        compare_steps(name, device)


def compare_steps(name, device):
    latent = 0 if name == "mdm" else LATENT
    recipe = get_recipe(name)
    recognition = DiTRecognition(VOCAB, LENGTH, latent, **SIZE) if latent else EmptyRecognition()
    denoiser = DiTDenoiser(VOCAB, LENGTH, latent, **SIZE)
    model, guide = recipe.pair(denoiser, recognition, MaskingProcess(LinearSchedule(), VOCAB))
    perturb(model), perturb(guide)
    loss = recipe.objective(model.process)(model, guide)
    x_0 = torch.randint(VOCAB, (64, LENGTH))
    losses, gradients = [], []
    for is_low in (False, True):
        networks = copy.deepcopy(loss)
        torch.manual_seed(5)
        with torch.autocast(device, torch.bfloat16, enabled=is_low):
            value = networks(x_0)
        value.backward()
        assert value.dtype == torch.float32
        losses.append(float(value.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in networks.parameters() if p.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()
    assert losses[1] != losses[0]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("is_padded", [False, True])
def test_kernels_of_attention_agree_with_products(is_padded, device):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the flash kernel needs a GPU of compute capability 8.0")
    fused = (
        [SDPBackend.EFFICIENT_ATTENTION] if is_padded else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]
    )
    with torch.device(device), torch.autocast(device, torch.bfloat16):
        network = perturb(DiTDenoiser(VOCAB, LENGTH, LATENT, **SIZE))
        given = inputs(torch.float32)
        options = {"is_padding": torch.arange(LENGTH) >= torch.tensor([6, 2, 4])[:, None]} if is_padded else {}
        with sdpa_kernel(SDPBackend.MATH):
            expected = network(*given, **options)
        for kernel in fused:
            with sdpa_kernel(kernel):  # an error where it cannot be taken
                torch.testing.assert_close(network(*given, **options), expected, rtol=0.05, atol=0.05)
