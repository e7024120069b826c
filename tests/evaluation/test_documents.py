"""Bounds of documents in windows: what they bound, by enumeration of all documents of a length."""

import re
from pathlib import Path

import pytest
import torch

from vadd import RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, DiTRecognition
from vadd.errors import ConfigError, DomainError, DtypeError
from vadd.evaluation import document_bound, log_likelihood_bound, perplexities
from vadd.priors import StandardNormalPrior
from vadd.process import MaskingProcess
from vadd.schedules import CosineSchedule, LinearSchedule
from vadd.testing import all_sequences, tiny_model
from vadd.text.windows import sliding_windows

from .enumerated import ATOMS, Pinned, exact_log_likelihood_of, guide_for, value_of
from .laws import check_mean

LENGTH, STRIDE, TOKENS = 3, 2, 4  # two windows: three tokens, then one given, one new, one of padding
CASES = [
    ("finite-step", {"num_steps": 1}),
    ("finite-step", {"num_steps": 2}),
    ("finite-step", {"num_steps": 2, "num_latents": 2, "proposal": "prior"}),
    ("shared-latent", {"num_steps": 2}),
    ("shared-latent", {"num_steps": None}),
    ("marginal", {}),
    ("continuous", {}),
]
every_bound = pytest.mark.parametrize(("bound", "options"), CASES, ids=str)


def make_pair(bound):
    # Orders are enumerated for networks that do not read the time.
    infinite = bound in ("shared-latent", "marginal", "continuous")
    schedule = {"schedule": LinearSchedule()} if infinite else {"schedule": CosineSchedule(), "time_scale": 1.0}
    model = tiny_model(2, LENGTH, atoms=ATOMS, scale=1.5, seed=2, is_conditional=True, **schedule)
    return model, guide_for(model)


def by_windows(model, guide, documents, value):
    """The sum over windows of a value of their new tokens, one a document; ``value`` of a pinned pair and tokens."""
    total = torch.zeros(len(documents))
    for row, document in enumerate(documents):
        windows = sliding_windows(document, LENGTH, STRIDE)
        for x_0, is_frozen, is_padding in zip(*windows.values(), strict=True):
            alone = Pinned(model, guide, x_0, is_frozen, is_padding)
            total[row] += value(alone.pinned, alone.guide, x_0[alone.is_free][None])[0]
    return total


@every_bound
def test_a_document_has_a_distribution_and_the_bound_lies_below_it(bound, options):
    """The windows' conditionals multiply to probabilities that sum to one; those of the bound to less."""
    model, guide = make_pair(bound)
    documents = all_sequences(2, TOKENS)
    num_steps = options.get("num_steps")
    exact = by_windows(
        model, guide, documents, lambda m, g, x: exact_log_likelihood_of(m, x, bound, num_steps=num_steps)
    )
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-9)
    below = by_windows(model, guide, documents, lambda m, g, x: value_of(m, g, x, bound, **options))
    assert (below <= exact + 1e-9).all()
    assert 0.01 < float(below.exp().sum()) < 1


@pytest.mark.parametrize(("bound", "options"), [CASES[1], CASES[4]], ids=str)
def test_estimates_have_the_enumerated_value(bound, options):
    model, guide = make_pair(bound)
    documents = all_sequences(2, TOKENS)[::3]
    expected = by_windows(model, guide, documents, lambda m, g, x: value_of(m, g, x, bound, **options))
    copies = 1500
    result = document_bound(
        model,
        guide,
        list(documents.repeat(copies, 1)),
        length=LENGTH,
        stride=STRIDE,
        bound=bound,
        num_draws=8,
        rows_per_call=8192,
        **options,
    )
    check_mean(-result.nats_per_sequence.reshape(copies, -1), expected)


def test_windows_belong_to_their_documents():
    """Documents of different length, one after the other and all at once."""
    torch.manual_seed(0)
    denoiser = DiTDenoiser(5, None, 3, hidden_size=16, depth=1, num_heads=2)
    guide = RecognitionGuide(DiTRecognition(5, None, 3, hidden_size=16, depth=1, num_heads=2))
    for part in (*denoiser.parameters(), *guide.parameters()):
        torch.nn.init.normal_(part, std=0.3)
    model = VADDModel(denoiser, StandardNormalPrior(3), MaskingProcess(LinearSchedule(), 5))
    documents = [torch.randint(5, (n,)) for n in (9, 2, 6, 13)]
    # One jump without a latent: nothing is random, all new tokens of a window at once.
    given = {"length": 6, "stride": 3, "bound": "finite-step", "num_steps": 1, "latents": "null", "num_draws": 2}
    together = document_bound(model, guide, documents, **given)
    apart = [document_bound(model, guide, [document.tolist()], **given) for document in documents]
    torch.testing.assert_close(together.nats_per_sequence, torch.cat([part.nats_per_sequence for part in apart]))
    assert together.num_scored.tolist() == [9, 2, 6, 13]
    assert together.nats_per_sequence.shape == together.stderr_per_sequence.shape == (4,)
    windows = sliding_windows(documents[0], 6, 3)
    rows = log_likelihood_bound(
        model,
        guide,
        windows["x_0"],
        bound="finite-step",
        num_steps=1,
        latents="null",
        is_frozen=windows["is_frozen"],
        is_padding=windows["is_padding"],
    )
    torch.testing.assert_close(together.nats_per_sequence[0], rows.nats_per_sequence.sum())
    expected = float((together.nats_per_sequence.sum() / 30).exp())
    assert perplexities(together).perplexity.value == pytest.approx(expected)


def test_errors_of_windows_add_up_in_squares():
    model, guide = make_pair("finite-step")
    options = {"bound": "finite-step", "num_steps": 2, "num_draws": 3, "seed": 4}
    windows = sliding_windows([0, 1, 1, 0], LENGTH, STRIDE)
    rows = log_likelihood_bound(model, guide, **windows, **options)
    result = document_bound(model, guide, [[0, 1, 1, 0]], length=LENGTH, stride=STRIDE, **options)
    torch.testing.assert_close(result.nats_per_sequence[0], rows.nats_per_sequence.sum())
    torch.testing.assert_close(result.stderr_per_sequence[0], rows.stderr_per_sequence.square().sum().sqrt())
    once = document_bound(model, guide, [[0, 1, 1, 0]], length=LENGTH, stride=STRIDE, bound="finite-step", num_steps=2)
    assert once.stderr_per_sequence.isnan().all()


def test_the_claim_says_what_is_bounded():
    model, guide = make_pair("finite-step")
    options = {"length": LENGTH, "stride": STRIDE}
    result = document_bound(model, guide, [[0, 1, 1, 0]], bound="finite-step", num_steps=2, **options)
    assert "2 steps" in result.bounds
    assert result.bounds.endswith("window by window: 2 new tokens given the 1 before them")
    assert document_bound(model, guide, [[0, 1, 1, 0]], bound="delbo", **options).bounds is None


def test_conditions_go_with_their_documents():
    torch.manual_seed(0)
    denoiser = DiTDenoiser(3, None, 0, hidden_size=8, depth=1, num_heads=2, num_classes=2)
    for part in denoiser.parameters():
        torch.nn.init.normal_(part, std=0.5)
    model = VADDModel(denoiser, StandardNormalPrior(0), MaskingProcess(LinearSchedule(), 3))
    documents, labels = [[0, 1, 2, 2, 1], [2, 1], [0, 1, 2, 2, 1]], torch.tensor([0, 1, 1])
    options = {"length": 3, "stride": 2, "bound": "finite-step", "num_steps": 1}
    guide = guide_for(model)
    together = document_bound(model, guide, documents, condition=labels, **options)
    for row, document in enumerate(documents):
        alone = document_bound(model, guide, [document], condition=labels[row : row + 1], **options)
        torch.testing.assert_close(alone.nats_per_sequence[0], together.nats_per_sequence[row])
    assert together.nats_per_sequence[0] != together.nats_per_sequence[2]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("documents", "options", "error", "match"),
    [
        ([[0, 1]], {"bound": "conditional"}, ConfigError, "part of each window"),
        ([[0, 1]], {"is_frozen": torch.zeros(1, 3, dtype=torch.bool)}, ConfigError, "is_frozen"),
        ([[0, 1]], {"is_padding": torch.zeros(1, 3, dtype=torch.bool)}, ConfigError, "is_padding"),
        ([], {}, ConfigError, "nothing to evaluate"),
        ([[0, 1], []], {}, DomainError, "empty"),
        (["a text"], {}, DtypeError, "tokens must hold integers, got str.*tokenizer.encode"),
        ([[0, 1]], {"condition": torch.tensor([0, 1])}, ConfigError, "condition"),
    ],
    ids=str,
)
def test_what_is_no_document_is_refused(documents, options, error, match):
    model, guide = make_pair("finite-step")
    given = {"length": 3, "stride": 2, "bound": "marginal", **options}
    with pytest.raises(error, match=match):
        document_bound(model, guide, documents, **given)


def test_the_code_of_the_page_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "likelihoods.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    denoiser = DiTDenoiser(5, None, 0, hidden_size=8, depth=1, num_heads=2)
    model = VADDModel(denoiser, StandardNormalPrior(0), MaskingProcess(LinearSchedule(), 5))
    names = {"model": model, "guide": guide_for(model), "documents": [[0, 1, 2] * 7, [4, 3]], "num_words": 6}
    exec(block, names)
    printed = capsys.readouterr().out
    assert "word_perplexity" in printed
    assert "window by window: 4 new tokens given the 4 before them" in printed
