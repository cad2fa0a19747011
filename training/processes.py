"""The processes of a training: one, or several that ``accelerate launch`` started.

One process uses plain torch. Several processes share the work in one of three ways. The launcher's settings choose:

* DDP: each process holds the whole network;
* FSDP (torch's ``fully_shard``, also on CPUs): each process holds a part of every weight;
* DeepSpeed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from refiner.errors import ConfigError
from refiner.machine import device_of
from refiner.training.launching import asked, launched

T = TypeVar("T")


def sharding_works(version: str) -> bool:
    """Whether a version of PyTorch, such as ``2.12.1+cu130``, trains sharded weights as whole ones; 2.9 does not."""
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= (2, 12)


class Processes:
    """The processes of a run, as this process sees them: its index, the number of processes, and its device.

    Args:
        device: as for ``device_of``.

    Raises:
        ConfigError: the device is unknown, the processes were launched for another one, or this PyTorch is too old
            for FSDP.
    """

    def __init__(self, device: str | None = None) -> None:
        self.index, self.count, self.device = 0, 1, device_of(device)
        self.accelerator: Any = None
        self.sharded = False
        self._undo: list[Callable[[], None]] = []
        if not launched():
            return
        from accelerate import Accelerator, DistributedDataParallelKwargs

        # A stage may leave some weights without a gradient. DDP must search for them.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[unused])
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        place = self.accelerator.device
        self.device = torch.device("cpu") if place.type == "cpu" else place
        self.sharded = asked("ACCELERATE_USE_FSDP") and self.count > 1
        if self.sharded and not sharding_works(torch.__version__):
            raise ConfigError(
                f"Training with sharded weights (FSDP) needs PyTorch 2.12 or later, got {torch.__version__}: earlier "
                "ones compute wrong losses; update PyTorch, or train without FSDP."
            )
        if device is not None and self.device.type != device:
            raise ConfigError(
                f"The processes were launched for {self.device.type}, not for {device}: launch them for {device}."
            )

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.index == 0

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed runs the optimisation."""
        return self.accelerator is not None and str(self.accelerator.distributed_type).endswith("DEEPSPEED")

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in order. All processes must call it."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first, then in the others, which can read the files that it wrote."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes call it."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def shard(self, module: nn.Module) -> None:
        """Keep only this process's part of every weight, until ``unshard``.

        Layers in a transformers model's ``_no_split_modules`` are gathered one by one, everything else at once. Of
        layers inside each other only the innermost count.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._undo = [_restorer(part) for part in module.modules()]
        mesh = init_device_mesh(self.device.type, (self.count,))
        blocks = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
        for part in [part for part in module.modules() if type(part).__name__ in blocks]:
            if not any(type(inner).__name__ in blocks for inner in part.modules() if inner is not part):
                fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh)

    @torch.no_grad()
    def unshard(self, module: nn.Module) -> None:
        """Undo ``shard``: each process holds the whole module again, with the current weights."""
        weights = whole({**dict(module.named_parameters()), **dict(module.named_buffers())})
        for undo in self._undo:
            undo()
        self._undo = []
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name in weights:
                tensor.data = weights[name].to(self.device)

    def prepare(self, step: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The wrapped module that computes the loss, and the wrapped optimiser."""
        if self.accelerator is None or self.sharded:
            return step, optimiser
        return self.accelerator.prepare(step, optimiser)

    @contextlib.contextmanager
    def accumulating(self, step: Any, last: bool) -> Iterator[None]:
        """Exchange gradients between processes only after the last micro-batch of a step."""
        if self.sharded:
            step.set_requires_gradient_sync(last)
            yield
        elif self.accelerator is None or last:
            yield
        else:
            with self.accelerator.no_sync(step):
                yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        if self.accelerator is None or self.sharded:
            loss.backward()
        else:
            self.accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], norm: float) -> None:
        """Scale the gradients down to a norm of at most ``norm``."""
        if self.deepspeed:
            self.accelerator.clip_grad_norm_(parameters, norm)
        else:
            nn.utils.clip_grad_norm_(parameters, norm)

    def save_engine(self, folder: Path) -> None:
        """Write DeepSpeed's own state. Does nothing without DeepSpeed."""
        if self.deepspeed:
            self.accelerator.save_state(str(folder))

    def load_engine(self, folder: Path) -> None:
        """Read what ``save_engine`` wrote. Does nothing without DeepSpeed."""
        if self.deepspeed:
            self.accelerator.load_state(str(folder))


def whole(state: Any) -> Any:
    """A nested state in which every sharded tensor is gathered. All processes must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, Mapping):
        return {name: whole(value) for name, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard an unsharded tensor in the same way as ``like``, if that is sharded and both have the same shape."""
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor


def _restorer(module: nn.Module) -> Callable[[], None]:
    """A function that resets a module's class, hooks, parameters and buffers to their state at this call."""
    kind = type(module)
    content = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}

    def restore() -> None:
        from torch.distributed._composable_state import _module_state_mapping

        _module_state_mapping.pop(module, None)  # else torch thinks it is sharded, and the next stage fails
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(content)

    return restore
