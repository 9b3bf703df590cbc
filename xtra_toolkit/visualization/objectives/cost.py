"""Count parameters and FLOPs of the parts of a model, and name their attention back ends."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xtra_toolkit.attention import Pattern, choose, get_attention
from xtra_toolkit.attention.dispatch import unsupported_reason
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.models.cross_layers import CrossAttention
from xtra_toolkit.models.layers import MaskedAttention
from xtra_toolkit.objective.plan import Plan

FLOPS = (
    "one image forward, counted by torch.utils.flop_counter on the meta device: matrix products, "
    "2 for a multiplication and addition; attention over all pairs of computed positions"
)


@dataclass(frozen=True)
class ModelPart:
    """Cost of the encoder, the decoder, the head or the target.

    Args:
        name: Name of the part.
        places: Number of positions or predictions that it computes, such as '240 of 256'. If an
            image has several masks, positions are counted for each mask.
        attention: Kind of its attention pattern and the back end that runs it on this machine.
        parameters: Number of parameters, trained or not.
        flops: FLOPs of the forward pass of one image.
    """

    name: str
    places: str
    attention: str
    parameters: int
    flops: int


def parts(model: MaskTargetPretrainer, device: str) -> list[ModelPart]:
    """List the parts of a model that was built on the meta device.

    Args:
        model: The model.
        device: Device type on which it would be trained, 'cpu' or 'cuda'.
    """
    plan = model.objective(2, torch.device(device), torch.Generator(device).manual_seed(0))
    encoder, decoder, head = flops(model)
    length = plan.length
    predictions = plan.masks_per_image * sum(group.tokens.shape[1] for group in plan.groups)
    target = ModelPart("target", "", "", count(model.target_generator), values_flops(model))
    found = [
        ModelPart(
            "encoder",
            f"{plan.encoded_tokens.shape[1]} of {length}",
            backend(model.backbone.layers, encoder_pattern(model, plan), device),
            count(model.backbone),
            encoder,
        )
    ]
    if model.with_neck:
        pattern = model.neck.pattern(plan)
        found.append(
            ModelPart(
                "decoder",
                f"{pattern.queries or pattern.length} of {length}",
                backend(model.neck.layers, pattern, device),
                count(model.neck),
                decoder,
            )
        )
    found.append(ModelPart("head", f"{predictions} predictions", "", count(model.head), head))
    return found + [target] * bool(target.parameters or target.flops)  # pixels cost nothing


def count(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def values_flops(model: MaskTargetPretrainer) -> int:
    """Count the FLOPs of the target values of one image, for example a teacher's features."""
    grid = model.backbone.grid
    with FlopCounterMode(display=False) as counter, on_sdpa(model), frozen(model):
        for target in model.target_generator.parts:
            target.values(_meta_image(grid), grid)
    return counter.get_total_flops()


@contextlib.contextmanager
def on_sdpa(model: nn.Module) -> Iterator[None]:
    """Run all attention by SDPA within this context; other back ends may lack a meta kernel."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, MaskedAttention | CrossAttention):
                stack.callback(setattr, module, "attention", module.attention)
                module.attention = get_attention("sdpa")
        yield


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take no gradients within this context, and let no parameter require one.

    Under ``torch.no_grad`` a view of a parameter still says that it requires a gradient, and
    FlopCounterMode fails on a layer whose input is one.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.no_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def flops(model: MaskTargetPretrainer) -> tuple[int, int, int]:
    """Count the FLOPs of encoder, decoder and head for one image, see :data:`FLOPS`."""
    plan = model.objective(1, torch.device("meta"), torch.Generator().manual_seed(0))
    counter, before = FlopCounterMode(display=False), {}
    later = [model.neck, model.head] if model.with_neck else [model.head]
    with contextlib.ExitStack() as stack:
        for part in later:
            hook = part.register_forward_pre_hook(
                lambda part, _: before.update({part: counter.get_total_flops()})
            )
            stack.callback(hook.remove)
        with counter, on_sdpa(model), frozen(model):
            model.reconstruct(_meta_image(model.backbone.grid), plan)
    encoder, head = before[later[0]], before[model.head]
    return encoder, head - encoder, counter.get_total_flops() - head


def _meta_image(grid: PatchGrid) -> Tensor:
    size = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    return torch.empty(1, grid.channels, *size, device="meta")


def backend(layers: nn.ModuleList, pattern: Pattern, device: str) -> str:
    """Return the pattern's kind and the back end used in training, such as 'staircase, sdpa'."""
    attention = next((layer.attn for layer in layers), None)
    if not isinstance(attention, MaskedAttention | CrossAttention):
        return "none, each token on its own"  # AIM's head, or no layers at all
    chosen = attention.attention.keywords["backend"]
    query = training_query(pattern, attention.num_heads, attention.head_dims, device)
    if chosen == "auto":
        return f"{pattern.kind}, {choose(query, pattern)}"
    reason = unsupported_reason(chosen, query, pattern)
    return f"{pattern.kind}, {chosen}" + (f" cannot serve: {reason}" if reason else "")


def encoder_pattern(model: MaskTargetPretrainer, plan: Plan) -> Pattern:
    """Return the encoder's pattern; the numbers of relative positions are not computed."""
    if model.backbone.rel_pos_bias is None:
        return plan.encoder
    return replace(plan.encoder, score_bias=torch.empty(0), _cache={})


def backends(model: MaskTargetPretrainer, device: str) -> str:
    """Describe the device and dtype of the back ends, and why xformers is not used, if so."""
    if device == "cpu":
        return "of training on this machine: a CPU, float32"
    plan = model.objective(2, torch.device(device), torch.Generator(device).manual_seed(0))
    attention = model.backbone.layers[0].attn
    query = training_query(plan.encoder, attention.num_heads, attention.head_dims, device)
    reason = unsupported_reason("xformers", query, encoder_pattern(model, plan))
    name = torch.cuda.get_device_name()
    return f"of training on this machine: {name}, bfloat16" + (f"; {reason}" if reason else "")


def training_query(pattern: Pattern, heads: int, dim: int, device: str) -> Tensor:
    """Make a query (2, N, heads, dim) in the dtype of training: bf16 on a GPU, fp32 on a CPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = (2, pattern.queries or pattern.length, heads, dim)
    return torch.empty(shape, dtype=dtype, device=device, requires_grad=True)
