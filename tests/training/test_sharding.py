"""Weights in shares make the updates of whole ones."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from parts import averaged_weights, make_pair, make_sharing_pair, make_trainer, tokens, weights  # noqa: E402
from test_processes import run  # noqa: E402

from vadd.errors import ConfigError  # noqa: E402
from vadd.objectives import DELBO  # noqa: E402
from vadd.training import BoundValidation, Callback, TrainerConfig  # noqa: E402
from vadd.training.parallel import Processes  # noqa: E402
from vadd.training.sharding import Sharded, _blocks  # noqa: E402
from vadd.training.weights import Replicated  # noqa: E402


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Stop(Callback):
    """Ends this program's run after an update, unsaved."""

    def on_step(self, trainer):
        if trainer.step == 3:
            raise InterruptedError


def train_here(**options):
    """The run of ``worker.py``, in this process."""
    validation = BoundValidation(tokens(13, seed=5), num_steps=2, num_latents=2, batch_rows=4)
    trainer = make_trainer(pair=make_sharing_pair(), validation=validation, **options)
    trainer.fit()
    return {
        "weights": weights(trainer),
        "average": averaged_weights(trainer),
        "grad_norm": trainer.grad_norm.detach().reshape(1),
        "score": torch.tensor([trainer.run.score], dtype=torch.float64),
    }


def train_in_shares(out, **options):
    """The same in two processes, of which one starts from other weights."""
    return run(out, num=2, shard=True, float64=True, pair="sharing", validates=True, **options)


def assert_same(found, expected):
    assert expected["weights"].dtype == torch.float64
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.usefixtures("float64")
def test_two_processes_with_shares_make_the_updates_of_one(tmp_path):
    sampled = []

    class Sample(Callback):
        def on_step(self, trainer):
            if trainer.step % 2 == 0:
                sampled.append(trainer.averaged[0].sample(8, num_steps=2, seed=trainer.step, progress=False))

    one = train_here(validate_every=4, callbacks=[Sample()])
    two = train_in_shares(tmp_path / "weights", accumulate=2, validate_every=4, samples=True)
    assert_same(two, one)
    assert all(torch.equal(two[f"samples-{i}"], sample) for i, sample in enumerate(sampled))
    assert len(sampled) == 3


@pytest.mark.usefixtures("float64")
def test_a_snapshot_of_shares_goes_on_in_one_process(tmp_path):
    folder = str(tmp_path / "run")
    killed = train_in_shares(tmp_path / "none", folder=folder, save_every=2, killed_at=3, check=False)
    assert killed.returncode != 0
    stored = [path.name for path in (tmp_path / "run" / "snapshots").glob("step-*")]
    assert stored == ["step-0000000002"]
    assert_same(train_here(folder=folder), train_here())


@pytest.mark.usefixtures("float64")
def test_a_snapshot_of_one_process_goes_on_in_shares(tmp_path):
    folder = str(tmp_path / "run")
    with pytest.raises(InterruptedError):
        train_here(folder=folder, save_every=2, callbacks=[Stop()])
    assert_same(train_in_shares(tmp_path / "weights", folder=folder), train_here())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"precision": "fp16"}, {"precision": "bf16"}, {"compile": True}], ids=str)
def test_lower_precision_and_compiled_networks_train_alike_in_shares(tmp_path, settings):
    shared, whole = (
        run(tmp_path / f"{shard}", num=2, shard=shard, pair="sharing", **settings) for shard in (True, False)
    )
    plain = run(tmp_path / "plain", num=1, pair="sharing")
    difference, effect = ((shared["average"] - other["average"]).norm() for other in (whole, plain))
    assert effect > 0
    assert difference < 0.2 * (plain["average"] - weights(make_trainer(pair=make_sharing_pair()))).norm()


def accelerator(kind, num):
    return SimpleNamespace(
        device=torch.device("cpu"), process_index=0, num_processes=num, mixed_precision="no", distributed_type=kind
    )


@pytest.fixture
def group():
    """A group of this process alone, where weights can be sharded, too."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def shard(pair, **settings):
    config = TrainerConfig(5, 8, shard=True, **settings)
    return Sharded(*pair, DELBO(pair[0].process), Processes(accelerator("NO", 1), config))


def test_one_process_has_nothing_to_share():
    assert isinstance(make_trainer(shard=True).weights, Replicated)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_average_is_read_after_it_was_gathered_alone(ema_decay):
    shares = shard(make_pair(), ema_decay=ema_decay)
    start = {name: value.clone() for name, value in nn.ModuleList(shares.averaged).named_parameters()}
    with torch.no_grad():
        for parameter in shares.pair.parameters():
            parameter.add_(1.0)
    shares.updated()
    with pytest.raises(ConfigError, match=r"call trainer.gather\(\) first, in all processes"):
        _ = shares.averaged
    shares.gather()
    moved = dict(nn.ModuleList(shares.averaged).named_parameters())
    assert all(torch.equal(value, start[name] + 1) for name, value in moved.items())
    assert not any(p.requires_grad for p in moved.values())
    assert all(p.requires_grad for part in shares.release() for p in part.parameters())


@pytest.mark.usefixtures("group")
def test_weights_that_cannot_be_shared_out_are_named():
    model, guide = make_pair()
    model.denoiser.temperature = nn.Parameter(torch.ones(()))
    with pytest.raises(ConfigError, match=r"0.denoiser.temperature have none: make them vectors"):
        shard((model, guide))
    model, guide = make_pair()
    with pytest.raises(ConfigError, match=r"one dtype, got \['torch.float32', 'torch.float64'\]"):
        shard((model, guide.double()))


@pytest.mark.usefixtures("group")
def test_the_state_of_an_optimizer_that_does_not_fit_is_refused():
    shares = shard(make_pair())
    optimizer = torch.optim.AdamW(shares.pair.parameters())
    for parameter in shares.pair.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = shares.state(optimizer)
    shares.load(state, optimizer)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1, 1, 7)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 7\) where one of"):
        shares.load(state, optimizer)


def names_of_blocks(model, guide):
    names = {module: name for name, module in nn.ModuleList([model, guide]).named_modules()}
    return {names[block] for block in _blocks(model, guide)}


def test_blocks_are_what_is_repeated_and_only_called():
    model, guide = make_sharing_pair()
    blocks = {"0.denoiser.trunk.blocks.0", "0.denoiser.trunk.blocks.1", "1.recognition.trunk.blocks.0"}
    assert names_of_blocks(model, guide) == blocks
    first, second = model.denoiser.trunk.blocks
    second.qkv.weight = first.qkv.weight
    assert names_of_blocks(model, guide) == {"1.recognition.trunk.blocks.0"}

    class Invertible(nn.Sequential):
        def inverse(self, y):
            return self[0].weight * y

    model.denoiser.more = nn.ModuleList([Invertible(nn.Linear(2, 2)), nn.Linear(2, 2)])
    assert names_of_blocks(model, guide) == {"1.recognition.trunk.blocks.0"}


def test_accelerate_launched_for_fsdp_is_told_what_to_do_instead():
    with pytest.raises(ConfigError, match="without FSDP, and set shard=True"):
        Processes(accelerator("DistributedType.FSDP", 2), TrainerConfig(5, 8))


def test_shard_is_true_or_false(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="shard must be True or False, got 1"):
        TrainerConfig(5, 8, shard=1)
