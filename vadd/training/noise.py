"""Randomness that is a function of seed, step and row: the same whatever the processes, and after a resume."""

import hashlib
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch.overrides import TorchFunctionMode

__all__ = ["RowNoise", "key", "keyed_generator"]


def key(*parts: int | str) -> int:
    """A seed made of numbers and names; different ones give seeds that have nothing to do with each other."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def keyed_generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator seeded by :func:`key`."""
    return torch.Generator(device).manual_seed(key(*parts))


def exactly(device: torch.device) -> torch.autocast:
    """Around arithmetic of densities: autocast is off."""
    return torch.autocast(device.type, enabled=False)


class RowNoise(Messenger):
    """A Pyro handler: latents of some rows of a batch are drawn as they would be for the whole batch.

    The noise of all rows is drawn from one generator, and the rows of this process, or of this part of the batch, are
    taken out of it. Latents are small beside the networks' activations, so that this costs next to nothing. It
    covers what reparameterized distributions draw: normal, uniform and exponential noise, and categories.
    Networks run outside of it: their dropout follows torch's global state.

    Args:
        start: first row of the whole batch that is worked on.
        num_rows: how many.
        total: rows of the whole batch.
        generator: source of the noise, in the same state for all parts of a batch.
        site: name of the latent site.
    """

    def __init__(self, start: int, num_rows: int, total: int, generator: torch.Generator, site: str = "z") -> None:
        super().__init__()
        self.site = site
        self.rows = (start, num_rows, total)
        self.generator = generator

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != self.site or msg["is_observed"] or msg["done"] or msg["value"] is not None:
            return
        # Under autocast a latent would be drawn less exactly than it is scored.
        with _WholeBatch(msg["fn"].batch_shape, *self.rows, self.generator), exactly(self.generator.device):
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
        msg["done"] = True


class _WholeBatch(TorchFunctionMode):
    """Draws of torch for some rows are taken from draws for all rows.

    The last axis of the batch shape counts the rows; in a draw it may be the rows times an axis behind them that was
    folded in.
    """

    def __init__(
        self, batch_shape: torch.Size, start: int, num_rows: int, total: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.axis, self.particles = len(batch_shape) - 1, batch_shape[:-1].numel()
        self.start, self.num_rows, self.total = start, num_rows, total
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.normal and isinstance(args[0], torch.Tensor) and isinstance(args[1], torch.Tensor):
            mean, std = args
            return mean + std * self._draw("normal_", mean.shape, mean)
        if func in (torch.rand, torch.randn):
            size = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
            like = torch.empty((), **{k: v for k, v in kwargs.items() if k in ("dtype", "device")})
            return self._draw("uniform_" if func is torch.rand else "normal_", torch.Size(size), like)
        if func in (torch.rand_like, torch.randn_like):
            return self._draw("uniform_" if func is torch.rand_like else "normal_", args[0].shape, args[0])
        in_place = {torch.Tensor.uniform_: "uniform_", torch.Tensor.normal_: "normal_"}
        in_place[torch.Tensor.exponential_] = "exponential_"
        if func in in_place and len(args) == 1 and not kwargs:
            return args[0].copy_(self._draw(in_place[func], args[0].shape, args[0]))
        if func is torch.multinomial and args[0].ndim == 2 and (len(args) == 1 or args[1] == 1):
            # The first of independent exponential clocks: category k with its probability. All axes are folded into
            # the first; that of the rows is the one behind the particles.
            rest = args[0].shape[0] // self.particles
            shape = torch.Size([self.particles, rest, args[0].shape[-1]])
            clocks = self._draw("exponential_", shape, args[0], axis=1).reshape(args[0].shape)
            clocks = clocks.clamp(min=torch.finfo(clocks.dtype).tiny)  # may be zero
            return (args[0] / clocks).argmax(-1, keepdim=True)
        return func(*args, **kwargs)

    def _draw(self, law: str, shape: torch.Size, like: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        axis = self.axis if axis is None else axis
        folded, rest = divmod(shape[axis], self.num_rows) if len(shape) > axis else (0, 1)
        if rest:  # not one draw a row
            return getattr(like.new_empty(shape), law)(generator=self.generator)
        whole = like.new_empty((*shape[:axis], self.total * folded, *shape[axis + 1 :]))
        getattr(whole, law)(generator=self.generator)
        return whole.narrow(axis, self.start * folded, shape[axis])
