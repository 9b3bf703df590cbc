"""Repeat a training step to find the layer that gave the first non-finite number."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.utils import _pytree as pytree

from xtra_toolkit.utils.delayed_read import agreed
from xtra_toolkit.utils.unwrap import unwrap_model


class Batch(NamedTuple):
    """Hold a micro-batch of the data loader, and torch's random states before it was used.

    Args:
        data: The micro-batch.
        cpu: State of the CPU generator.
        cuda: State of the CUDA generator; None if CUDA is not in use.
    """

    data: Any
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def of(cls, data: Any) -> "Batch":
        """Take up ``data`` with the present random states."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return cls(data, torch.get_rng_state(), cuda)

    @contextmanager
    def same_random_state(self) -> Iterator[None]:
        """Set torch's random states to those of this batch within the context."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else None):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda)
            yield

    def state_dict(self) -> dict:
        """Return a dictionary for ``torch.save`` that loads with ``weights_only=True``."""
        return {"data": to_plain(self.data), "cpu_rng_state": self.cpu, "cuda_rng_state": self.cuda}


def to_plain(value: Any) -> Any:
    """Return a batch with tensors on the CPU, and objects of other types as their ``repr``."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, BaseDataElement):
        return {key: to_plain(item) for key, item in value.all_items()}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else repr(value)


class _BackwardOnly:
    """Compute gradients in ``train_step`` as an optimizer wrapper does, but make no update.

    Args:
        wrapper: The optimizer wrapper of the training.
        sharded: Whether the model is sharded.
    """

    def __init__(self, wrapper: Any, sharded: bool):
        self.wrapper, self.optim_context = wrapper, wrapper.optim_context
        self.sharded, self.loss = sharded, torch.zeros(())

    def update_params(self, loss: Tensor) -> None:
        """Run the backward pass without counting it as a step."""
        self.loss, count = loss, self.wrapper._inner_count
        value = loss.detach()
        value = agreed(value) if self.sharded else value  # all processes run it, or none does
        if value.isfinite():
            self.wrapper.backward(loss)
            self.wrapper._inner_count = count


def find_first_non_finite(
    model: nn.Module, wrapper: Any, batches: list[Batch]
) -> tuple[str, Batch]:
    """Describe the first non-finite number of a step, and return the batch that gave it.

    The step is repeated without its update. All processes must call this function, since a loss may
    reduce over them.

    Args:
        model: The model, wrapped as in training.
        wrapper: Its optimizer wrapper.
        batches: The micro-batches of the step.
    """
    inner = unwrap_model(model)
    sharded = isinstance(model, FullyShardedDataParallel)
    model = model if sharded else inner  # the wrapper holds the weights
    non_finite = [name for name, p in inner.named_parameters() if not p.isfinite().all()]
    flag = torch.tensor(math.nan if non_finite else 0.0)
    if not (agreed(flag) if sharded else flag).isfinite():
        first = clean_tensor_name(non_finite[0]) if non_finite else "in another process"
        return f"Some weights are not finite, the first of them {first}.", batches[0]
    replayed = [(_replay(model, wrapper, batch, sharded), batch) for batch in batches]
    found = [(sentence, batch) for sentence, batch in replayed if sentence]
    all_finite = (
        "In a replay of the step all was finite: only the norm of the gradients overflowed, or it "
        "did not come from the batch alone."
    )
    return found[0] if found else (all_finite, batches[0])


def _replay(model: nn.Module, wrapper: Any, batch: Batch, sharded: bool) -> str | None:
    places, step = [], _BackwardOnly(wrapper, sharded)
    inner = unwrap_model(model)
    uncompiled = torch.compiler.set_stance("force_eager")  # hooks do not run in a compiled loss
    with batch.same_random_state(), _record_non_finite(inner, places), uncompiled:
        model.train_step(batch.data, step)
    wrapper.zero_grad()
    if places:
        return f"It began in {places[0]}."
    return None if step.loss.isfinite() else "It began in the loss; all layers gave finite values."


@contextmanager
def _record_non_finite(model: nn.Module, places: list[str]) -> Iterator[None]:
    """Append layers and parameters to ``places`` in the order in which they turn non-finite."""

    def check(values: Any, place: str) -> None:
        tensors = [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]
        if not all(v.isfinite().all() for v in tensors if v.is_floating_point()):
            places.append(place)

    def forward(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            layer = f"{name or 'the model'} ({type(module).__name__})"
            check(output, f"the forward pass of {layer}")
            place = f"the backward pass: the gradient at the output of {layer}"
            for value in pytree.tree_leaves(output):
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(lambda grad: check(grad, place))

        return hook

    def parameter(name: str) -> Any:
        return lambda grad: check(grad, f"the backward pass: the gradient of {name}")

    handles = [module.register_forward_hook(forward(name)) for name, module in _named_layers(model)]
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    handles += [p.register_hook(parameter(name)) for name, p in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the modules and their names, without the wrappers of a sharded model."""
    for name, module in model.named_modules():
        if module is not model and not is_model_wrapper(module):
            yield clean_tensor_name(f"{name}.")[:-1], module
