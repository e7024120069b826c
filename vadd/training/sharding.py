"""Weights in shares: every process keeps and updates a part of each tensor."""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from vadd.errors import ConfigError
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives import DiffusionELBO
from vadd.training.parallel import Processes
from vadd.training.weights import Weights, moving_average

__all__ = ["Sharded"]


class Sharded(Weights):
    """Weights, gradients, optimizer and average in shares, by ``torch.distributed.fsdp.fully_shard``.

    The blocks of the networks (see :func:`_blocks`) are put together when they run, and again when their gradient is
    found; all else is whole from the start of an update to the end of its backward pass. Each process also has a whole
    copy of the pair, into which the average is gathered.

    Gradients are summed over processes in every part of a batch, not in the last one alone: a whole gradient would
    have to be kept until then.

    References:
        Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277.
    """

    def __init__(
        self, model: VADDModel, guide: RecognitionGuide, objective: DiffusionELBO, processes: Processes
    ) -> None:
        self.is_main = processes.is_main
        self.pair = nn.ModuleList([model, guide])
        self.loss = objective(model, guide)
        _check(self.pair)
        _start_alike(self.pair)
        self._whole = copy.deepcopy(self.pair).requires_grad_(False)
        mesh = init_device_mesh(processes.device.type, (processes.num,))
        for module in (*_blocks(model, guide), self.loss):
            fully_shard(module, mesh=mesh)
        self._average: list[Tensor] | None = None
        self._num_averaged = 0
        decay = processes.config.ema_decay
        if decay is not None:
            self._average = [p.detach().clone() for p in self._parameters()]
            self._move: Any = moving_average(decay)
        self._is_gathered = True

    def _parameters(self) -> list[Tensor]:
        self._reshard()
        return list(self.pair.parameters())

    def _reshard(self) -> None:
        """Without a backward pass, a forward pass leaves the weights whole."""
        for module in self.loss.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def sync(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def clip(self, optimizer: Optimizer, limit: float | None) -> Tensor:
        return _whole(super().clip(optimizer, limit))

    @torch.no_grad()
    def updated(self) -> None:
        self._is_gathered = False
        if self._average is None:
            return
        shares, current = ([_own(p) for p in tensors] for tensors in (self._average, self._parameters()))
        if self._num_averaged == 0:
            for share, value in zip(shares, current, strict=True):
                share.copy_(value)
        else:
            self._move(shares, current, self._num_averaged)
        self._num_averaged += 1

    @torch.no_grad()
    def gather(self) -> None:
        if self._is_gathered:
            return
        source = self._parameters() if self._average is None else self._average
        for target, share in zip(self._whole.parameters(), source, strict=True):
            target.copy_(_whole(share))
        for target, value in zip(self._whole.buffers(), self.pair.buffers(), strict=True):
            target.copy_(value)
        self._is_gathered = True

    @property
    def averaged(self) -> tuple[VADDModel, RecognitionGuide]:
        if not self._is_gathered:
            raise ConfigError(
                "the averaged pair lies in shares: call trainer.gather() first, in all processes and not in the main "
                "one alone."
            )
        pair: Any = self._whole
        return pair[0], pair[1]

    @torch.no_grad()
    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        self._reshard()
        self.gather()
        state = {"pair": self.pair.state_dict(), "average": None, "optimizer": optimizer.state_dict()}
        if self._average is not None:  # as AveragedModel has it
            average = {f"module.{name}": value for name, value in self._whole.state_dict().items()}
            state["average"] = {"n_averaged": torch.tensor(self._num_averaged), **average}
        return self._collect(state)

    def _collect(self, value: Any) -> Any:
        """The same with whole tensors, in the main process on the CPU."""
        if isinstance(value, dict):
            return {key: self._collect(item) for key, item in value.items()}
        if isinstance(value, DTensor):
            whole = _whole(value)
            return whole.cpu() if self.is_main else None
        return value

    @torch.no_grad()
    def load(self, state: dict[str, Any], optimizer: Optimizer) -> None:
        self._reshard()
        own = self.pair.state_dict()
        self.pair.load_state_dict({name: _like(own.get(name), value) for name, value in state["pair"].items()})
        if self._average is not None:
            for (name, _), share in zip(self.pair.named_parameters(), self._average, strict=True):
                share.copy_(_like(share, state["average"][f"module.{name}"]))
            self._num_averaged = int(state["average"]["n_averaged"])
        optimizer.load_state_dict(_share_state(state["optimizer"], optimizer))
        self._is_gathered = False
        self.gather()


def _check(pair: nn.ModuleList) -> None:
    dtypes = {p.dtype for p in pair.parameters()}
    if len(dtypes) > 1:
        raise ConfigError(f"weights that are sharded must have one dtype, got {sorted(map(str, dtypes))}.")
    scalars = [name for name, p in pair.named_parameters() if p.ndim == 0]
    if scalars:
        raise ConfigError(
            f"weights that are sharded must have an axis, but {', '.join(scalars)} have none: make them vectors of one "
            "entry, or set shard=False."
        )


def _start_alike(pair: nn.ModuleList) -> None:
    """All processes take the main one's weights and buffers."""
    with torch.no_grad():
        for tensor in (*pair.parameters(), *pair.buffers()):
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def _blocks(model: VADDModel, guide: RecognitionGuide) -> Iterator[nn.Module]:
    """Members of module lists in denoiser and recognition network that have parts, the innermost first.

    Whoever needs the weights of a block has to call it: one with other methods of its own is left with the rest, and so
    is one that shares weights with another module.
    """
    pair = nn.ModuleList([model, guide])
    uses = Counter(id(p) for _, p in pair.named_parameters(remove_duplicate=False))
    networks = nn.ModuleList([model.denoiser, guide.recognition])
    lists = [module for module in networks.modules() if isinstance(module, nn.ModuleList) and module is not networks]
    for module in reversed([member for members in lists for member in members]):
        has_parts = any(True for child in module.children() for _ in child.parameters())
        if has_parts and all(uses[id(p)] == 1 for p in module.parameters()) and _is_only_called(type(module)):
            yield module


def _is_only_called(kind: type[nn.Module]) -> bool:
    """Whether ``forward`` is its only public method."""
    own = [base for base in kind.__mro__ if not issubclass(nn.Module, base)]
    names = {name for base in own for name, value in vars(base).items() if callable(value) and name[0] != "_"}
    return "forward" in names and names <= {"forward", "extra_repr", "reset_parameters"}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _own(tensor: Tensor) -> Tensor:
    """The part in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(own: Any, value: Tensor) -> Tensor:
    """A whole tensor, in shares where the one in its place is."""
    if not isinstance(own, DTensor):
        return value
    if own.shape != value.shape:
        raise ValueError(f"a tensor of shape {tuple(value.shape)} where one of {tuple(own.shape)} is expected")
    value = value.to(own.device, own.dtype)
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def _share_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """State of an optimizer of whole weights, for one of shares."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shares = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state["state"]:
            values = state["state"][number].items()
            shares[number] = {
                name: _like(parameter, v) if isinstance(v, Tensor) and v.ndim > 0 else v for name, v in values
            }
    return {**state, "state": shares}
