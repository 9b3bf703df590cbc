"""What an encoder has learned, while it learns: the curves of a linear head and of kNN.

Shape legend: B images of a batch, D width, C classes.
"""

from collections import deque
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from xtra_toolkit.evaluation.knn_vote import pooled
from xtra_toolkit.evaluation.online_head import (
    NONE,
    OnlineHead,
    classes_of,
    labels_of,
    names_of,
    within,
)
from xtra_toolkit.evaluation.probe_validation import ProbeValidation
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.delayed_read import OneStepLate
from xtra_toolkit.utils.preserve_state import untouched
from xtra_toolkit.utils.unwrap import unwrap_model

RECENT = 20  # batches that the training accuracy is taken over


@HOOKS.register_module()
class OnlineProbe(Hook):
    """A linear head, and kNN at validation, on features of the encoder that is being trained.

        --cfg-options default_hooks.online_probe.type=xtra_toolkit.OnlineProbe \\
            train_dataloader.dataset.with_label=True

    After the first update and every ``interval``-th, the step's first micro-batch is read as a
    probe reads it: the encoder alone, in evaluation mode, under the mask of its features, in
    training's precision; the mean over the patch tokens. Nothing of the training changes: with and
    without this hook weights and losses are bit-identical.

    Logged in per cent: ``probe/train_top1``, over the last 20 batches, each classified before the
    head learns from it, by the batch's own statistics; ``probe/loss``, of the same (MMEngine's
    default ``log_processor`` averages it once more); and, where there is a validation with labels,
    ``probe/linear_top1`` and ``probe/knn_top1``, which ``save_best`` may name. Of a model that
    learns from several views of an image, MMPretrain's SimCLR for instance, the first is read. The
    number of classes is logged beside them, ``probe/classes``. Labels do not reach the encoder:
    with ``with_label=False`` it is trained the same. Under EMAHook a validation reads the averaged
    encoder, from which the head did not learn. Models that are not self-supervised are left alone.

    A look takes 0.10 of a step of XTRA-B/16 and 0.39 of MAE-B/16 (2 CPU cores, bf16): 0.5 and 2 %
    of the training by default, less where gradients are accumulated. A run of a few hundred steps
    wants ``interval=1``.

    Args:
        interval: updates from one look to the next.
        bank: training images that vote, evenly spread over the data set, without augmentation,
            their features made anew in each validation; 0: no kNN.
        k, temperature: of the votes, see :class:`KNNValLoop`.
        lr: of the head, constant. Default: 0.08 / sqrt(D), see :class:`OnlineHead`.
        num_classes: default: what the training images' names of classes say; of data sets of at
            most 100,000 images without names, what their labels say.

    Raises:
        ValueError: an option is no number of that kind.
    """

    def __init__(
        self,
        interval: int = 20,
        bank: int = 10_000,
        k: int = 20,
        temperature: float = 0.07,
        lr: float | None = None,
        num_classes: int | None = None,
    ):
        if interval < 1 or k < 1 or (lr is not None and lr <= 0) or (bank and bank < k):
            raise ValueError(
                f"OnlineProbe(interval={interval}, k={k}, lr={lr}, bank={bank}) was given; "
                "interval and k are at least 1, lr is above 0, and bank is at least k, or 0 for "
                "no kNN"
            )
        self.interval, self.lr, self.num_classes = interval, lr, num_classes
        self.validation = ProbeValidation(self.features, bank, k, temperature)
        self.head: OnlineHead | None = None
        self._off = self._begun = self._warned = False
        self._saved: dict | None = None
        self._recent: deque[list[float]] = deque(maxlen=RECENT)
        self._late = OneStepLate()

    def before_train(self, runner: Any) -> None:
        """Leaves other models alone; takes up a resumed head, which a validation may want first."""
        self._off = not isinstance(unwrap_model(runner.model), BaseSelfSupervisor)
        self._resumed = bool(runner.iter)
        self._saved = self._saved if runner.iter else None  # load_from brings one too
        if self._saved and not self._off:
            classes, width = self._saved["head"]["linear.weight"].shape
            known = self.num_classes or len(names_of(runner.train_dataloader.dataset)) or classes
            if known == classes:
                self.num_classes = classes
                self._make_head(runner, width)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None, outputs: Any = None
    ) -> None:
        """Looks, reports, learns."""
        due = self.head is None or self.every_n_train_iters(runner, self.interval)
        if self._off or not due:
            return
        labels = labels_of(data_batch.get("data_samples"))
        if not self._begun and not self._begins(runner, labels):
            return
        wrapper = runner.optim_wrapper
        features = self.features(runner, data_batch, wrapper.optim_context(runner.model))
        if self.head is None:
            self._make_head(runner, features.shape[1])
        labels = self._counted(runner, labels)
        sums = self.head.learn(features, labels.to(features.device, non_blocking=True))
        self._report(runner, self._late(sums))

    def after_train_epoch(self, runner: Any) -> None:
        """On a GPU the last batch is not reported yet."""
        self._report(runner, self._late.flush())

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fills the bank; no earlier, since averaged weights stand in their place by now."""
        if self.head is not None and batch_idx == 0:
            self.validation.begin(runner, self.head, data_batch)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None, outputs: Any = None
    ) -> None:
        """Classifies a batch."""
        if self.head is not None:
            self.validation.classify(runner, data_batch)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Puts the accuracies among the metrics of validation, before they are logged."""
        found = self.validation.end(runner) if self.head is not None else {}
        if found:  # the report compares accuracies among equally many classes
            found["probe/classes"] = self.head.linear.out_features
        for name, value in found.items():
            runner.message_hub.update_scalar(f"val/{name}", value)
            if metrics is not None:
                metrics[name] = value

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """The head, its optimizer and the last batches' figures go along."""
        self._report(runner, self._late.flush())
        if self.head is not None:
            checkpoint["online_probe"] = dict(self.head.saved(), recent=list(self._recent))

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Kept until the width of the features is known."""
        self._saved = checkpoint.get("online_probe")

    def features(self, runner: Any, data_batch: dict, context: AbstractContextManager) -> Tensor:
        """Pooled features of a batch, (B, D) in float32, without gradient."""
        model = runner.model
        if isinstance(model, DistributedDataParallel):
            model = model.module  # nothing to synchronise; other wrappers hold the weights apart
        inner = unwrap_model(model)
        with untouched(inner), torch.no_grad(), context:
            images = inner.data_preprocessor(data_batch, False)["inputs"]
            images = images[0] if isinstance(images, list | tuple) else images  # of several views
            feature = model(images, mode="tensor")
            return pooled(feature, getattr(inner.backbone, "num_extra_tokens", 0))

    def _begins(self, runner: Any, labels: Tensor) -> bool:
        """Are there labels, and is it known of how many classes? If not, it says so once."""
        self._begun, device = True, next(runner.model.parameters()).device
        any_label = (labels != NONE).any().float().to(device)
        all_reduce(any_label, "max")
        dataset, reason = runner.train_dataloader.dataset, ""
        if not any_label:
            reason = (
                "the training images have no labels (ImageFolder: "
                "train_dataloader.dataset.with_label=True)"
            )
        elif (classes := self.num_classes or classes_of(dataset)) is None:
            reason = (
                f"{type(dataset).__name__} names no classes, and its labels are not counted; set "
                "default_hooks.online_probe.num_classes"
            )
        else:
            self.num_classes = classes
        self._off = bool(reason)
        if reason:
            self.head = None
            runner.logger.warning(f"OnlineProbe reports nothing: {reason}.")
        return not reason

    def _make_head(self, runner: Any, width: int) -> None:
        classes, device = self.num_classes, next(runner.model.parameters()).device
        self.head = OnlineHead(width, classes, self.lr).to(device)
        if not self._resumed:
            return
        if self._saved and self.head.resume(self._saved):
            self._recent.extend(self._saved["recent"])
        else:
            runner.logger.info(
                f"OnlineProbe: the checkpoint holds no head for {width} values and {classes} "
                "classes; one starts anew, so its curve begins at the bottom."
            )
        self._saved = None

    def _counted(self, runner: Any, labels: Tensor) -> Tensor:
        """NONE in the place of what is no class; it says so once."""
        classes = self.head.linear.out_features
        if not self._warned and bool((labels >= classes).any()):
            self._warned = True
            runner.logger.warning(
                f"OnlineProbe has {classes} classes, and there is a label {int(labels.max())}: "
                "such images do not count; set default_hooks.online_probe.num_classes."
            )
        return within(labels, classes)

    def _report(self, runner: Any, known: tuple | None) -> None:
        if known is None or not known[0][2]:
            return
        self._recent.append(known[0])
        right, loss, count = map(sum, zip(*self._recent, strict=True))
        runner.message_hub.update_scalar("train/probe/train_top1", 100 * right / count)
        runner.message_hub.update_scalar("train/probe/loss", loss / count)
