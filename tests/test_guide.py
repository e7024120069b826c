"""The guide: what the recognition network reads, and the shape of what it returns."""

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTRecognition, EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Recognition
from vadd.errors import ConfigError, DtypeError, ShapeError
from vadd.objectives.corruption import share_latent
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule

VOCAB, LENGTH, BATCH, LATENT = 5, 4, 6, 2
PROCESS = MaskingProcess(LinearSchedule(), VOCAB)


class Recorder(Recognition):
    """Keeps what it is given."""

    latent_shape = torch.Size([LATENT])

    def forward(self, tokens, target, t, **options):
        self.seen = (tokens, target, t, options)
        zeros = torch.zeros(tokens.shape[0], LATENT)
        return dist.Normal(zeros, zeros + 1).to_event(1)


def tokens(length=LENGTH):
    return torch.randint(VOCAB, (BATCH, length))


def test_what_is_no_recognition_network_is_refused():
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ConfigError, match="recognition must be a Recognition, got Linear"):
            RecognitionGuide(torch.nn.Linear(2, 2))
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)


def test_it_reads_clean_tokens_and_the_masked_set():
    """The paper's case: everything masked is explained."""
    guide = RecognitionGuide(Recorder())
    batch = PROCESS.corrupt(tokens(), torch.full((BATCH,), 0.6))
    guide.posterior(batch)
    seen, target, t, options = guide.recognition.seen
    assert torch.equal(seen, batch.x_0)
    assert torch.equal(target, batch.is_masked)
    assert torch.equal(t, batch.t)
    assert options == {}


def test_it_never_reads_positions_that_stay_hidden():
    guide = RecognitionGuide(Recorder())
    batch = PROCESS.corrupt(tokens(), torch.full((BATCH,), 0.9), torch.full((BATCH,), 0.4))
    guide.posterior(batch)
    seen, target, *_ = guide.recognition.seen
    hidden = batch.is_masked & ~batch.target
    assert hidden.any()
    assert (seen[hidden] == VOCAB).all()
    assert torch.equal(seen[~hidden], batch.x_0[~hidden])
    assert torch.equal(target, batch.target)


def test_a_shared_latent_explains_all_free_tokens():
    guide = RecognitionGuide(Recorder())
    is_frozen = torch.rand(BATCH, LENGTH) < 0.3
    batch = PROCESS.corrupt(tokens(), torch.full((BATCH,), 0.5), is_frozen=is_frozen)
    guide.posterior(share_latent(batch, VOCAB))
    seen, target, t, _ = guide.recognition.seen
    assert torch.equal(seen, batch.x_0)
    assert torch.equal(target, ~is_frozen)
    assert (t == 1).all()


@pytest.mark.parametrize(
    "recognition",
    [
        MLPRecognition(VOCAB, LENGTH, LATENT, hidden_size=16, depth=1),
        DiTRecognition(VOCAB, LENGTH, LATENT, hidden_size=16, depth=1, num_heads=2),
        DiTRecognition(VOCAB, LENGTH, (LENGTH, LATENT), hidden_size=16, depth=1, num_heads=2),
        EmptyRecognition(),
    ],
    ids=["mlp", "dit", "dit per position", "empty"],
)
def test_encode_explains_whole_sequences(recognition):
    guide = RecognitionGuide(recognition)
    x_0 = tokens()
    posterior = guide.encode(x_0)
    assert posterior.batch_shape == (BATCH,)
    assert posterior.event_shape == guide.latent_shape
    batch = PROCESS.corrupt(x_0, torch.ones(BATCH))
    expected = guide.posterior(batch)
    assert torch.equal(posterior.mean, expected.mean)
    assert torch.equal(posterior.stddev, expected.stddev)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("x_0", "options", "error", "message"),
    [
        (torch.zeros(BATCH, LENGTH), {}, DtypeError, "x_0 must hold int64 tokens, got torch.float32"),
        (torch.zeros(LENGTH, dtype=torch.int64), {}, ShapeError, r"x_0 must have shape \(batch, dim\)"),
        (tokens(), {"is_padding": torch.zeros(BATCH, LENGTH)}, DtypeError, "is_padding must be boolean"),
        (
            tokens(),
            {"is_padding": torch.zeros(BATCH, 2, dtype=torch.bool)},
            ShapeError,
            "is_padding must have the shape",
        ),
    ],
    ids=["floats", "one row", "padding of floats", "narrow padding"],
)
def test_encode_refuses_what_is_no_batch_of_tokens(x_0, options, error, message):
    with pytest.raises(error, match=message):
        RecognitionGuide(Recorder()).encode(x_0, **options)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("run", [lambda guide: guide, lambda guide: guide.posterior], ids=["call", "posterior"])
def test_tokens_are_no_batch(run):
    with pytest.raises(ConfigError, match=r"batch must be a CorruptedBatch, got Tensor; .*encode\(x_0\)"):
        run(RecognitionGuide(Recorder()))(tokens())


def test_encode_ignores_padding():
    guide = RecognitionGuide(DiTRecognition(VOCAB, None, LATENT, hidden_size=16, depth=1, num_heads=2))
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x_0 = tokens()
    padded = torch.cat([x_0, tokens(3)], -1)
    is_padding = torch.arange(LENGTH + 3).expand(BATCH, -1) >= LENGTH
    expected, got = guide.encode(x_0), guide.encode(padded, is_padding=is_padding)
    torch.testing.assert_close(got.mean, expected.mean)
    torch.testing.assert_close(got.stddev, expected.stddev)


def test_options_reach_the_network_only_where_given():
    guide = RecognitionGuide(Recorder())
    is_padding, condition = torch.zeros(BATCH, LENGTH, dtype=torch.bool), torch.arange(BATCH)
    guide.encode(tokens(), is_padding=is_padding, condition=condition)
    options = guide.recognition.seen[3]
    assert options.keys() == {"is_padding", "condition"}
    guide.encode(tokens(), condition=condition)
    assert guide.recognition.seen[3].keys() == {"condition"}


def test_the_program_samples_the_latent_in_a_plate():
    guide = RecognitionGuide(Recorder())
    trace = pyro.poutine.trace(guide).get_trace(PROCESS.corrupt(tokens(), torch.ones(BATCH)))
    site = trace.nodes["z"]
    assert site["value"].shape == (BATCH, LATENT)
    assert [(frame.name, frame.dim, frame.size) for frame in site["cond_indep_stack"]] == [("batch", -1, BATCH)]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: dist.Normal(torch.zeros(n, LATENT), 1.0),
        lambda n: dist.Normal(torch.zeros(LATENT), 1.0).to_event(1),
        lambda n: dist.Normal(torch.zeros(n, LATENT + 1), 1.0).to_event(1),
        lambda n: dist.Normal(torch.zeros(n, 1), 1.0).to_event(1),
    ],
    ids=["no to_event", "no batch", "larger", "smaller"],
)
def test_a_recognition_network_of_the_wrong_shape_is_named(make):
    class Wrong(Recognition):
        latent_shape = torch.Size([LATENT])

        def forward(self, tokens, target, t, **options):
            return make(tokens.shape[0])

    guide = RecognitionGuide(Wrong())
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, LATENT), StandardNormalPrior(LATENT), PROCESS)
    with pytest.raises(ShapeError, match="recognition returned"):
        guide.encode(tokens())
    with pytest.raises(ShapeError, match="recognition returned"):
        DELBO(PROCESS)(model, guide)(tokens())


def test_a_guide_for_another_latent_is_refused():
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, LATENT), StandardNormalPrior(LATENT), PROCESS)
    for recognition in (EmptyRecognition(), MLPRecognition(VOCAB, LENGTH, LATENT + 1)):
        with pytest.raises((ShapeError, ConfigError)):
            DELBO(PROCESS)(model, RecognitionGuide(recognition))(tokens())
