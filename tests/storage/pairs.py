"""Small models with their guides, and what it means for two to be the same."""

import json

import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition, SharedRecognition
from vadd.priors import StandardNormalPrior, TrunkPrior, VampPrior
from vadd.schedules import CosineSchedule

VOCAB, LENGTH, LATENT = 5, 4, 2
SIZE = {"hidden_size": 8, "depth": 1, "modulation_size": 4, "embedding_size": 4}


def perturbed(*parts):
    with torch.no_grad():
        for part in parts:
            for p in part.parameters():
                p.add_(0.3 * torch.randn_like(p))
    return parts


def denoiser(latent=LATENT):
    return MLPDenoiser(VOCAB, LENGTH, latent, **SIZE)


def recognition(latent=LATENT):
    return MLPRecognition(VOCAB, LENGTH, latent, **SIZE)


def pair(kind="plain", **options):
    """Model and guide: plain, without a latent, or with parts that share networks of others."""
    latent = 0 if kind == "mdm" else LATENT
    network, prior = denoiser(latent), StandardNormalPrior(latent)
    if kind == "mdm":
        guide = RecognitionGuide(EmptyRecognition())
    elif kind == "features":
        guide = RecognitionGuide(
            SharedRecognition.for_denoiser(network, positions="learned", hidden_size=8, num_heads=2),
            explains="revealed",
        )
    else:
        guide = RecognitionGuide(recognition())
    if kind == "trunk":
        prior = TrunkPrior(LATENT, SIZE["hidden_size"])
    elif kind == "vamp":
        prior = VampPrior.from_data(guide.recognition, torch.randint(VOCAB, (6, LENGTH)), 3)
    model = VADDModel(network, prior, MaskingProcess(CosineSchedule(), VOCAB), **options)
    return perturbed(model, guide)


KINDS = ("plain", "mdm", "trunk", "vamp", "features")


def assert_same_state(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, value in a.state_dict().items():
        assert value.dtype == b.state_dict()[key].dtype
        assert torch.equal(value, b.state_dict()[key]), key


def assert_same_model(a, b):
    """Same weights, same samples, whose latents come from the prior."""
    assert_same_state(a, b)
    assert repr(a) == repr(b)
    assert (a.latents, a.gate, a.latent_dropout) == (b.latents, b.gate, b.latent_dropout)
    draws = [model.sample(16, num_steps=3, seed=3) for model in (a, b)]
    assert torch.equal(*draws)


def assert_same_guide(a, b):
    assert_same_state(a, b)
    assert (repr(a), a.explains) == (repr(b), b.explains)
    if a.latent_shape.numel():
        x_0 = torch.arange(3 * LENGTH).reshape(3, LENGTH) % VOCAB
        with torch.no_grad():
            assert torch.equal(a.eval().encode(x_0).mean, b.eval().encode(x_0).mean)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def rewrite_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**config_of(folder), **changes}))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))
