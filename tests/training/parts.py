"""A pair, data and trainers of a size that trains in milliseconds."""

import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTDenoiser, EmptyRecognition, MLPDenoiser, MLPRecognition, SharedRecognition
from vadd.priors import TrunkPrior
from vadd.recipes import get_recipe
from vadd.schedules import LinearSchedule
from vadd.training import Trainer, TrainerConfig

VOCAB, LENGTH, LATENT = 3, 4, 2
SIZE = {"hidden_size": 16, "depth": 1, "embedding_size": 2}


def tokens(num=50, seed=0):
    """Sequences whose tokens agree in pairs."""
    half = torch.randint(VOCAB, (num, LENGTH // 2), generator=torch.Generator().manual_seed(seed))
    return half.repeat_interleave(2, 1)


def make_pair(recipe="default", seed=0, dropout=0.0):
    """Model and guide of a recipe, in the default dtype."""
    torch.manual_seed(seed)
    latent = 0 if recipe == "mdm" else LATENT
    denoiser = MLPDenoiser(VOCAB, LENGTH, latent, dropout=dropout, **SIZE)
    recognition = MLPRecognition(VOCAB, LENGTH, latent, **SIZE) if latent else EmptyRecognition()
    pair = get_recipe(recipe).pair(denoiser, recognition, MaskingProcess(LinearSchedule(), VOCAB))
    # Away from the start, where the denoiser does not read the latent.
    for parameter in [*pair.model.parameters(), *pair.guide.parameters()]:
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return pair


def make_sharing_pair(rank=0):
    """A transformer whose prior and recognition network read the denoiser's features; weights differ by process."""
    torch.manual_seed(rank)
    denoiser = DiTDenoiser(VOCAB, LENGTH, LATENT, hidden_size=8, depth=2, num_heads=2)
    recognition = SharedRecognition.for_denoiser(denoiser, hidden_size=8, depth=1, num_heads=2, detach=False)
    prior = TrunkPrior(LATENT, denoiser.context_size, hidden_size=8)
    model = VADDModel(denoiser, prior, MaskingProcess(LinearSchedule(), VOCAB))
    guide = RecognitionGuide(recognition)
    for parameter in [*model.parameters(), *guide.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    return model, guide


#: Pairs by name, as functions of the process's number.
PAIRS = {"sharing": make_sharing_pair}


def make_trainer(num_updates=6, batch_size=8, *, recipe="default", data=None, pair=None, objective=None, **options):
    """A trainer; keywords of the configuration and of the trainer alike."""
    fields = TrainerConfig.__dataclass_fields__
    settings = {name: options.pop(name) for name in list(options) if name in fields}
    dropout = options.pop("dropout", 0.0)
    model, guide = make_pair(recipe, dropout=dropout) if pair is None else pair
    made = get_recipe(recipe)
    options = {"progress": False, "kl_schedule": made.kl_schedule(num_updates), **options}
    return Trainer(
        model,
        guide,
        made.objective(model.process) if objective is None else objective(model.process),
        tokens() if data is None else data,
        TrainerConfig(num_updates, batch_size, **settings),
        **options,
    )


def weights(trainer):
    """All trained numbers in one vector, a copy; of shares, to be called in all processes."""
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trainer.pair.parameters()]
    return torch.cat([p.detach().flatten().clone() for p in whole])


def averaged_weights(trainer):
    """The same of the moving average."""
    return torch.cat([p.detach().flatten().clone() for part in trainer.averaged for p in part.parameters()])
