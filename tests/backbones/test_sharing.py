"""What a denoiser shares with other parts, and how they hold it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import (
    Denoiser,
    DiTDenoiser,
    DiTRecognition,
    EmbeddingRecognition,
    EmptyRecognition,
    FeatureDenoiser,
    MLPDenoiser,
    SharedRecognition,
)
from vadd.backbones.sharing import SharesDenoiser
from vadd.errors import ConfigError
from vadd.evaluation import log_likelihood_bound
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing import TabularDenoiser, check_recognition
from vadd.training import load_checkpoint, save_checkpoint

VOCAB, LENGTH, BATCH = 5, 4, 3
SMALL = {"hidden_size": 16, "depth": 2, "modulation_size": 8}


class Part(SharesDenoiser, nn.Module):
    """A part with nothing of its own."""


class Bare(FeatureDenoiser):
    """Features by one embedding, and the head given."""

    latent_shape = torch.Size([2])

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.vocab_size, self.num_tokens = VOCAB, LENGTH
        self.embedding, self.head = nn.Embedding(VOCAB + 1, 6), head

    def features(self, x_t, t, z, *, is_padding=None, condition=None):
        return self.embedding(x_t) + z.sum(-1)[:, None, None]


def inputs(latent=2):
    return torch.randint(VOCAB + 1, (BATCH, LENGTH)), torch.rand(BATCH), torch.randn(BATCH, latent)


@pytest.mark.parametrize(
    ("denoiser", "positions"),
    [(MLPDenoiser(VOCAB, LENGTH, 2, **SMALL), 1), (DiTDenoiser(VOCAB, LENGTH, 2, **SMALL), LENGTH)],
    ids=["mlp", "dit"],
)
def test_the_context_is_the_output_of_the_trunk(denoiser, positions):
    context = denoiser.context(*inputs())
    assert context.shape == (BATCH, positions, denoiser.context_size)
    assert denoiser.context_size == SMALL["hidden_size"]
    torch.testing.assert_close(context.mean(-1), torch.zeros(BATCH, positions), rtol=0, atol=1e-6)  # ends in a norm


def test_by_default_the_context_is_the_features_and_as_wide_as_the_head_reads():
    denoiser, (x_t, t, z) = Bare(nn.Linear(6, VOCAB)), inputs()
    assert torch.equal(denoiser.context(x_t, t, z), denoiser.features(x_t, t, z))
    assert denoiser.context_size == 6


def test_a_head_of_another_kind_leaves_the_width_to_the_network():
    with pytest.raises(ConfigError, match="override the property context_size"):
        _ = Bare(nn.Sequential(nn.Linear(6, VOCAB))).context_size


def test_a_part_reads_the_context_at_latent_zero_and_holds_no_weights():
    denoiser, (x_t, t, z) = Bare(nn.Linear(6, VOCAB)), inputs()
    part = Part().attach(denoiser)
    assert torch.equal(part.shared_context(x_t, t), denoiser.context(x_t, t, torch.zeros_like(z)))
    assert part.denoiser is denoiser
    assert not list(part.parameters())
    assert not part.state_dict()
    assert not list(part.children())


def test_a_part_without_a_denoiser_or_with_one_without_features_is_refused():
    with pytest.raises(ConfigError, match="call attach"):
        Part().shared_context(*inputs()[:2])
    plain: Denoiser = TabularDenoiser(VOCAB, 2)
    with pytest.raises(ConfigError, match="FeatureDenoiser, got TabularDenoiser"):
        Part().attach(plain)


def mlp(**options):
    return MLPDenoiser(VOCAB, LENGTH, 2, **{**SMALL, **options})


def dit(**options):
    return DiTDenoiser(VOCAB, LENGTH, 2, **{**SMALL, **options})


NETWORKS = {
    "context of a transformer": lambda **o: SharedRecognition.for_denoiser(dit(), **o),
    "context of a perceptron": lambda **o: SharedRecognition.for_denoiser(mlp(), positions="learned", **o),
    "embedding of a transformer": lambda **o: EmbeddingRecognition.for_denoiser(dit(), **o),
    "embedding of a perceptron": lambda **o: EmbeddingRecognition.for_denoiser(mlp(), **o),
}


def pair_of(recognition, **options):
    denoiser = recognition.denoiser
    model = VADDModel(denoiser, StandardNormalPrior(2), MaskingProcess(LinearSchedule(), VOCAB), **options)
    return model, RecognitionGuide(recognition)


@pytest.mark.parametrize(
    "options", [{}, {"detach": False}, {"family": "full"}, {"depth": 2, "hidden_size": 16}], ids=str
)
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_that_share_keep_the_contract(kind, options):
    check_recognition(NETWORKS[kind](**options), VOCAB, LENGTH)


def test_the_checks_leave_the_shared_denoiser_as_it_was_and_do_not_see_its_dropout():
    denoiser = dit(dropout=0.5)
    before = copy.deepcopy(denoiser.state_dict())
    check_recognition(SharedRecognition.for_denoiser(denoiser), VOCAB, LENGTH)
    assert denoiser.training
    assert all(torch.equal(value, before[key]) for key, value in denoiser.state_dict().items())


def test_time_and_class_reach_the_network_by_the_denoiser_or_by_itself():
    denoiser = dit(reads_time=True, num_classes=3)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.1 * torch.randn_like(p))
    embedding = EmbeddingRecognition.for_denoiser(denoiser, reads_time=True, num_classes=3)
    condition = torch.tensor([0, 2, 3])
    for network in (SharedRecognition.for_denoiser(denoiser), embedding):
        check_recognition(network, VOCAB, LENGTH, condition=condition)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.1 * torch.randn_like(p))
        x = torch.randint(VOCAB, (BATCH, LENGTH))
        early, late = (network(x, x == 1, torch.full((BATCH,), t), condition=condition).mean for t in (0.1, 0.9))
        other = network(x, x == 1, torch.full((BATCH,), 0.1), condition=1 + 0 * condition).mean
        assert not torch.equal(early, late)
        assert not torch.equal(early, other)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_detached_networks_leave_the_denoiser_alone_and_the_likelihood_still_trains_it(kind, detach, autocast):
    recognition = NETWORKS[kind](detach=detach)
    denoiser = recognition.denoiser
    x, t = torch.randint(VOCAB, (BATCH, LENGTH)), torch.rand(BATCH)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        recognition(x, x == 1, t).mean.sum().backward()
    touched = {name for name, p in denoiser.named_parameters() if p.grad is not None}
    assert bool(touched) != detach
    assert all(p.grad is not None for p in recognition.project.parameters())
    denoiser.zero_grad(set_to_none=True)
    model, guide = pair_of(recognition)
    # In one autocast region: weights that were cast without gradients must not be the ones that are trained.
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        DELBO(model.process)(model, guide)(torch.randint(VOCAB, (16, LENGTH))).backward()
    trained = [name for name, p in denoiser.trunk.named_parameters() if p.grad is not None and p.grad.any()]
    assert {name.split(".")[0] for name in trained} >= {"embedding", "conditioning", "norm"}
    assert len(trained) > 15


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_are_stored_once_and_a_loaded_guide_is_attached_to_the_loaded_model(kind, tmp_path):
    model, guide = pair_of(NETWORKS[kind]())
    with torch.no_grad():
        for p in [*model.parameters(), *guide.parameters()]:
            p.add_(0.1 * torch.randn_like(p))
    assert not set(model.state_dict()) & set(guide.state_dict())
    own = {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in guide.parameters()}
    save_checkpoint(tmp_path, model, guide)
    loaded = load_checkpoint(tmp_path)
    assert loaded.guide.recognition.denoiser is loaded.model.denoiser
    x = torch.randint(VOCAB, (BATCH, LENGTH))
    assert torch.equal(loaded.guide.encode(x).mean, guide.eval().encode(x).mean)


def test_objectives_refuse_a_guide_that_reads_another_denoiser():
    model, guide = pair_of(NETWORKS["context of a transformer"]())
    x = torch.randint(VOCAB, (BATCH, LENGTH))
    DELBO(model.process).loss(model, guide, x)
    copied = copy.deepcopy(guide)  # with a denoiser of its own
    with pytest.raises(ConfigError, match=r"another denoiser.*attach\(model.denoiser\)"):
        DELBO(model.process).loss(model, copied, x)
    with pytest.raises(ConfigError, match="another denoiser"):
        log_likelihood_bound(model, copied, x, bound="finite-step", num_steps=1)
    both = copy.deepcopy(nn.ModuleList([model, guide]))
    assert both[1].recognition.denoiser is both[0].denoiser
    DELBO(both[0].process).loss(both[0], both[1], x)


def test_a_guide_without_a_denoiser_says_what_to_do():
    recognition = SharedRecognition(2, SMALL["hidden_size"])
    with pytest.raises(ConfigError, match="call attach"):
        RecognitionGuide(recognition).encode(torch.zeros(BATCH, LENGTH, dtype=torch.long))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedRecognition(2, 17).attach(dit()), "context_size is 17, but the denoiser's is 16"),
        (lambda: EmbeddingRecognition(2, 17).attach(dit()), "embedding_size is 17, but the denoiser's is 16"),
        (lambda: SharedRecognition(2, 16).attach(TabularDenoiser(VOCAB, 2)), "FeatureDenoiser"),
        (lambda: EmbeddingRecognition.for_denoiser(Bare(nn.Linear(6, VOCAB))), "override the property token_embedding"),
        (lambda: SharedRecognition(0, 16), "latent_shape is empty"),
        (lambda: SharedRecognition(2, 0), "context_size"),
        (lambda: EmbeddingRecognition(2, 0), "embedding_size"),
        (lambda: SharedRecognition(2, 16, positions="learned"), "num_tokens"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_one_context_for_all_positions_needs_learned_positions():
    recognition = SharedRecognition.for_denoiser(mlp())
    with pytest.raises(ConfigError, match='one context for the whole sequence.*positions="learned"'):
        recognition(torch.zeros(BATCH, LENGTH, dtype=torch.long), torch.ones(BATCH, LENGTH) > 0, torch.ones(BATCH))


def test_the_positions_of_the_target_are_told_apart_with_one_context_for_all():
    recognition = NETWORKS["context of a perceptron"]()
    x, t = torch.randint(VOCAB, (BATCH, LENGTH)), torch.ones(BATCH)
    means = [recognition(x, (torch.arange(LENGTH) == i).expand(BATCH, -1), t).mean for i in range(LENGTH)]
    assert all((means[0] - other).abs().min() > 1e-6 for other in means[1:])


def test_the_cost_of_a_training_step_stays_within_what_is_said():
    """Floating-point operations of the whole step, against the masked diffusion model's with the same denoiser."""
    size = {"hidden_size": 64, "depth": 6, "modulation_size": 8}
    vocab, length, latent = 64, 32, 4

    def operations(latent, make):
        denoiser = DiTDenoiser(vocab, length, latent, **size)
        model = VADDModel(denoiser, StandardNormalPrior(latent), MaskingProcess(LinearSchedule(), vocab))
        guide = RecognitionGuide(make(denoiser))
        loss_fn = DELBO(model.process)(model, guide)
        with FlopCounterMode(display=False) as counter:
            torch.manual_seed(0)
            loss_fn(torch.randint(vocab, (16, length))).backward()
        return counter.get_total_flops()

    mdm = operations(0, lambda _: EmptyRecognition())
    narrow = {**size, "hidden_size": 32}
    small = {"hidden_size": 16, "num_heads": 2}
    ratios = {
        "as large": operations(latent, lambda _: DiTRecognition(vocab, length, latent, **size)) / mdm,
        "half as wide": operations(latent, lambda _: DiTRecognition(vocab, length, latent, **narrow)) / mdm,
        "context": operations(latent, lambda d: SharedRecognition.for_denoiser(d, **small)) / mdm,
        "embedding": operations(latent, lambda d: EmbeddingRecognition.for_denoiser(d, **small)) / mdm,
    }
    assert ratios["as large"] > 1.9
    assert ratios["half as wide"] < 1.4
    assert ratios["context"] < 1.4
    assert ratios["embedding"] < 1.1
