"""MaskTargetPretrainer: the algorithm of this package. An objective is a mask and a target.

images -> backbone (encoder) -> neck (decoder) -> head; all of them read one plan.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.logging import print_log
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.rng import MaskRNG, StepGenerator, head_rng
from xtra_toolkit.models.decoder import Decoder
from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.models.memory_checks import check_memory, check_reads
from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.models.sum_of_heads import SumOfHeads
from xtra_toolkit.objective.compiler import CompiledObjective, Outline, compile_objective
from xtra_toolkit.objective.plan import Group, Plan
from xtra_toolkit.objective.target import Target
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets import build_target

NO_DECODER = (
    "gives the decoder a mask of its own, and there is no decoder with attention; set neck to a "
    "ViTDecoder with heads, or take the encoder's mask alone"
)


@MODELS.register_module()
class MaskTargetPretrainer(BaseSelfSupervisor):
    """Pretrain an encoder on a mask and a target. XTRA, AIM and MAE are configs of this model.

    The pair is compiled and certified when the model is built. A pair that leaks is refused.

    Args:
        mask: Config of a mask factory: which token may attend to which.
        target_generator: Config of a target: what is predicted, and from where.
        backbone: Config of the encoder, a MaskedViT.
        neck: Config of the decoder, a ViTDecoder or a CrossDecoder. None: the head reads the
            encoder (iGPT); if the mask hides tokens, the encoder must then hold mask tokens
            (``mask_tokens=True``).
        head: Config of the head. Its widths follow from the plan.
        data_preprocessor: As in MMPretrain. It must normalise the images.
        with_cp: Activation checkpointing: whether the layers of encoder and decoder keep only their
            input and compute the rest again in the backward pass. This takes less memory; loss and
            gradients are the same.

    Raises:
        ValueError: The pair cannot be certified, or a part does not fit.
    """

    def __init__(
        self,
        mask: dict,
        target_generator: dict,
        backbone: dict,
        neck: dict | None,
        head: dict,
        data_preprocessor: dict | nn.Module | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        recompute = dict(with_cp=True) if with_cp else {}
        # the encoder saves the config of the mask in its checkpoints, so that probes use it
        backbone = MMPRETRAIN.build(dict(backbone, mask=mask, **recompute))
        if not isinstance(data_preprocessor, nn.Module):
            default = dict(type="mmpretrain.SelfSupDataPreprocessor")
            data_preprocessor = MMPRETRAIN.build(default | dict(data_preprocessor or {}))
        backbone.encoder_mask.note_images(data_preprocessor)  # before a target copies the encoder
        target = build_target(target_generator)
        target.bind(backbone)
        mask_tokens = backbone.mask_token is not None
        outline = compile_objective(build_mask(mask), target, backbone.grid, mask_tokens).or_raise()
        neck = self._build_neck(neck, backbone, outline, recompute)
        width, layers = backbone.embed_dims, 0
        if neck is not None:
            width, layers = neck.width, neck.num_layers
        objective = outline.certify((backbone.num_layers, layers)).or_raise()
        if objective.weighted and not all(objective.bounds.all_in_loss):
            raise ValueError(
                f"{objective.name}: the mask draws by weights of the images, and the number of "
                "links in the loss differs between draws; it is counted without images, so all "
                "links must be in the loss (`context` and `visible` at the same positions)"
            )
        head = _build_head(head, target, objective, width)
        check_reads(neck, head)
        super().__init__(
            backbone, neck, head, target, data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self.objective, self._counts = objective, None
        print_log(objective.certificate, logger="current")

    @staticmethod
    def _build_neck(
        neck: dict | None, backbone: nn.Module, outline: Outline, recompute: dict
    ) -> nn.Module | None:
        hides, positioned = outline.has_masked_tokens, outline.positioned
        name = type(outline.mask).__name__
        if outline.mask_tokens:
            if not hides:
                raise ValueError(
                    f"{name} hides no tokens, and the encoder has mask_tokens=True; leave it out"
                )
            hides = False  # from the decoder
        own = outline.samples[0].own_decoder
        if neck is None:
            if own:
                raise ValueError(f"{name} {NO_DECODER}")
            if hides or positioned:
                raise ValueError(
                    f"{name} hides tokens or the target is positioned, and without a neck nothing "
                    "stands for the hidden tokens or tells the positions; set neck to a "
                    "ViTDecoder, or backbone.mask_tokens=True for hidden tokens"
                )
            return None
        derived = dict(
            in_channels=backbone.embed_dims,
            grid=backbone.grid,
            has_masked_tokens=hides,
            positioned=positioned,
        )
        neck = MMPRETRAIN.build(dict(neck, **derived, **recompute))
        if not isinstance(neck, Decoder):
            raise ValueError(
                f"neck.type is {type(neck).__name__}; a decoder must be a subclass of "
                "xtra_toolkit.models.Decoder, which declares what the pretrainer reads of it"
            )
        if own and not neck.follows_decoder_mask:
            raise ValueError(
                f"{name} gives the decoder a mask of its own, which {type(neck).__name__} does not "
                "follow; take a ViTDecoder or a CrossDecoder, or the encoder's mask alone"
            )
        if own and not neck.num_layers:
            raise ValueError(f"{name} {NO_DECODER}")
        if hides and not neck.num_layers:
            raise ValueError(
                f"{name} hides tokens, and the decoder has no layer with attention (heads=None or "
                "depth=0), so nothing would reach a hidden position; set both to a number"
            )
        check_memory(neck, backbone, outline)
        return neck

    def loss(self, inputs: Tensor, data_samples: list[DataSample] | None = None) -> dict:
        """Compute the loss of normalised images (B, C, height, width): ``dict(loss=scalar)``."""
        return self._loss(inputs, self.plan(inputs, data_samples))

    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Return samples that each hold the validation loss of the batch as ``pretrain_loss``.

        It is computed under the masks of evaluation.
        """
        plan = self.objective(len(inputs), inputs.device, weights=self._weights(inputs))
        loss = self._loss(inputs, plan)["loss"]
        samples = data_samples or [DataSample() for _ in inputs]
        return [sample.set_field(loss, "pretrain_loss") or sample for sample in samples]

    def forward(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = "tensor"
    ) -> object:
        """Extend BaseSelfSupervisor's method by the mode 'predict', which validation calls."""
        if mode == "predict":
            return self.predict(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    def reconstruct(self, inputs: Tensor, plan: Plan) -> list[Tensor]:
        """Return the predictions of each group, (B, G, T * V), as the loss compares them."""
        return self.head(self.decode(inputs, plan), plan)

    def decode(self, inputs: Tensor, plan: Plan) -> Tensor:
        """Return what the head reads, (B, R, W) at the output positions of a plan."""
        if not self.with_neck:
            return self.backbone.encode(inputs, plan, plan.output_positions)
        if self.neck.memory_layers:
            outputs, vit = self.backbone.encode_layers(inputs, plan), self.backbone
            pattern = vit.with_positions(plan.encoder, plan.encoded_tokens, vit.grid)
            plan = replace(plan, encoder=pattern)  # a neck may share the relative positions
            return self.neck([_repeat_images(x, plan) for x in outputs], plan)
        return self.neck(_repeat_images(self.backbone.encode(inputs, plan), plan), plan)

    def target_values(self, inputs: Tensor, plan: Plan) -> list[Tensor]:
        """Return the values that each group should predict.

        Their shape is (B, G, T * V), or (B, G, T, V) if they are probabilities of V classes.
        """
        parts, groups, grid = self.target_generator.parts, [], self.backbone.grid
        values = [_repeat_images(part.values_in_plan(inputs, grid, plan), plan) for part in parts]
        for group in plan.groups:
            of_group = gather_tokens(values[group.part], group.tokens.flatten(1))
            of_group = of_group.view(len(of_group), group.tokens.shape[1], -1)
            of_group = parts[group.part].normalise(of_group)
            if parts[group.part].probabilities:
                of_group = of_group.unflatten(-1, (group.tokens.shape[-1], -1))
            groups.append(of_group)
        return groups

    @torch.compiler.disable  # a graph cannot hold a generator, and a fixed plan is kept
    def plan(self, inputs: Tensor, data_samples: list[DataSample] | None = None) -> Plan:
        """Return the plan of a training batch; what is random follows the seeds of its samples."""
        generator = None
        if self.objective.random or self.head.random:
            generator = _generator(data_samples, "cpu" if inputs.is_meta else inputs.device)
        plan = self.objective(len(inputs), inputs.device, generator, self._weights(inputs))
        if self._counts is not None and isinstance(generator, StepGenerator):
            groups = zip(plan.groups, self._counts, strict=True)
            plan = replace(plan, groups=[replace(g, count=count) for g, count in groups])
        if self.head.random:
            plan = replace(plan, groups=self._draw(plan, len(inputs), head_rng(generator)))
        return plan

    @torch.no_grad()
    def _weights(self, inputs: Tensor) -> Tensor | None:
        """Return the weights by which the mask draws, if it is weighted."""
        if not self.objective.weighted or inputs.is_meta:
            return None
        return self.target_generator.weights(inputs, self.backbone.grid)

    def _draw(self, plan: Plan, images: int, rng: MaskRNG) -> list[Group]:
        """Return the groups of a plan with what their heads draw."""
        groups, number = [], Counter()
        for group in plan.groups:
            head, index = self.head.of_part(group.part), number[group.part]
            draws = head.draw(index, group, images, plan.masks_per_image, rng)
            groups.append(replace(group, draws=draws))
            number[group.part] += 1
        return groups

    @contextmanager
    def counting(self, micro_batches: Iterable[list[dict]]) -> Iterator[None]:
        """Compute losses within the block as parts of a step of several micro-batches.

        A loss that is divided by the number of predictions needs their number in the whole step, on
        all processes, before the first micro-batch. Random masks follow from seeds, so they are
        drawn here without images.

        Args:
            micro_batches: For each micro-batch of this process, the ``draw_seed`` and ``step_seed``
                of each image.
        """
        varies = self.objective.random and not all(self.objective.bounds.all_in_loss)
        self._counts = self._count(micro_batches) if varies else None
        try:
            yield
        finally:
            self._counts = None

    @torch.no_grad()
    def _count(self, micro_batches: Iterable[list[dict]]) -> list[Tensor | None]:
        """Return what the head divides the loss of each group by.

        It is the mean over micro-batches and processes, and None if all links of a group count.
        """
        device, counts = self.data_preprocessor.device, []
        for samples in micro_batches:
            plan = self.objective(len(samples), device, _generator(samples, device))
            images = len(samples) * plan.masks_per_image
            counted = [
                self.head.of_part(group.part).count(group.loss_mask, images)
                for group in plan.groups
                if group.loss_mask is not None
            ]
            counts.append(torch.stack(counted))
        mean = torch.stack(counts).mean(0)
        all_reduce(mean, "mean")
        means = iter(mean)
        return [None if whole else next(means) for whole in self.objective.bounds.all_in_loss]

    def _loss(self, inputs: Tensor, plan: Plan) -> dict:
        with torch.no_grad():
            target_values = self.target_values(inputs, plan)
        return self.head.loss(self.decode(inputs, plan), plan, target_values)


def _repeat_images(x: Tensor, plan: Plan) -> Tensor:
    """Repeat (images, N, D) for each mask of an image: (masks_per_image * images, N, D)."""
    return x.repeat(plan.masks_per_image, 1, 1) if plan.masks_per_image > 1 else x


def _build_head(
    config: dict, target: Target, objective: CompiledObjective, width: int
) -> PredictionHead | SumOfHeads:
    """Build the head; its widths follow from the links, and each part of a target has its own."""
    config, parts = dict(config, shapes=objective.head_shapes(width)), target.parts
    if len(parts) == 1:
        if "heads" in config:
            raise ValueError(
                f"{type(target).__name__} is one target, and the head has a list of heads; take a "
                "PredictionHead, or a SumOfTargets"
            )
        head = MMPRETRAIN.build(config)
        _check_head(target, head)
        return head
    given = config.get("heads")
    if not given or len(given) != len(parts):
        raise ValueError(
            f"{type(target).__name__} has {len(parts)} targets, and the head has "
            f"{len(given or [config])}; set head=dict(type='xtra_toolkit.SumOfHeads', heads=[...]) "
            "with a head for each target"
        )
    head = MMPRETRAIN.build(dict(config, parts=[group.part for group in objective.links]))
    for part, own in zip(parts, head.heads, strict=True):
        _check_head(part, own)
    return head


def _check_head(target: Target, head: nn.Module) -> None:
    if not isinstance(head, PredictionHead):
        raise ValueError(
            f"head.type is {type(head).__name__}; a head must be a subclass of "
            "xtra_toolkit.models.PredictionHead, whose loss and count the pretrainer calls"
        )
    name = type(target).__name__
    if head.probabilities and not target.probabilities:
        raise ValueError(
            f"the head's loss 'soft_cross_entropy' compares probabilities, and {name} gives "
            f"{'class ids' if target.classes else 'other values'}; take a target that gives "
            "probabilities (`probabilities = True`), or another loss"
        )
    if target.classes == head.classes:
        return
    if target.classes:
        raise ValueError(f"{name} gives class ids; set head.loss='cross_entropy'")
    raise ValueError(
        f"{name} gives values, but the head's loss compares class ids; set head.loss to 'mse', "
        "'l1', 'smooth_l1' or 'cosine', or to 'soft_cross_entropy' if they are probabilities"
    )


def _generator(
    data_samples: list[DataSample | dict] | None, device: torch.device | str
) -> torch.Generator:
    """Build a generator from the seeds of the samples, or from torch's generator without them."""
    seeds = [sample.get("draw_seed") for sample in data_samples or ()]
    if seeds and None not in seeds:
        return StepGenerator(seeds, data_samples[0].get("step_seed", seeds[0]), device)
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())) + get_rank())
