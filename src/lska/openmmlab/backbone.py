"""VAN as a backbone of mmdet and mmseg: the one network of `lska.models.van`, with feature maps as its output."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from lska.models import check_attention
from lska.models.checkpoint import fit_weights, read_weights
from lska.models.van import SIZES, VAN
from lska.runs import Run

logger = logging.getLogger(__name__)

CLASSIFIER = "head."
"""Start of the names that pretrained weights have and a backbone has not."""


class VANBackbone(VAN):
    """VAN that gives the feature maps of its stages, each after its LayerNorm.

    Parameter names are the published ones, those of the classifier without its head. Nothing is frozen, and BatchNorm
    keeps learning its statistics (released configurations; paper/protocol.md, sections 3 and 4).

    Args:
        run: run id, which fixes model, attention and kernel size, for example `van_tiny-lska-k23-s0`.
        checkpoint: pretrained weights of that run, read by `init_weights`; the file must be named after the run, so
            that network and weights cannot be of different runs. None keeps the random initialisation.
        architecture: settings of `lska.models.van.VAN` that differ from the paper's network.
        drop_path_rate: largest share of blocks skipped.
        layer_norm_eps: eps of the LayerNorm that ends each stage: 1e-5 in the released detection and segmentation
            code, 1e-6 in pretraining.
        out_indices: stages from 0 whose maps are returned.
        synchronize: whether BatchNorm takes its statistics over all processes (segmentation, on GPUs).

    Raises:
        ValueError: the run is no VAN, or the checkpoint is of another run.
    """

    def __init__(
        self,
        run: str,
        checkpoint: str | None = None,
        architecture: dict[str, object] | None = None,
        drop_path_rate: float = 0.1,
        layer_norm_eps: float = 1e-5,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        synchronize: bool = False,
    ) -> None:
        parsed = Run.parse(run)
        if parsed.model not in SIZES:
            raise ValueError(f"{run}: no backbone for detection and segmentation; expected one of {', '.join(SIZES)}")
        if checkpoint is not None and Path(checkpoint).stem != run:
            raise ValueError(f"backbone {run}: expected a checkpoint of that run, found {checkpoint}")
        check_attention(parsed.attention)
        settings = {**SIZES[parsed.model], **(architecture or {})}
        super().__init__(
            attention=parsed.attention, kernel_size=parsed.kernel, num_classes=0, drop_path_rate=drop_path_rate,
            **settings,
        )  # fmt: skip
        self.checkpoint = checkpoint
        self.out_indices = tuple(out_indices)
        for number in range(1, self.num_stages + 1):
            getattr(self, f"norm{number}").eps = layer_norm_eps
        if synchronize:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def init_weights(self) -> None:
        """Load the pretrained weights, if any; mmengine calls this once, before it takes over a saved state.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape, the classifier's apart; the message names
                the file and the tensors.
        """
        if self.checkpoint is not None:
            load_backbone(self, Path(self.checkpoint))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages `out_indices` for images (B, 3, H, W): (B, C_i, H / stride_i, W / stride_i)."""
        return tuple(self.forward_intermediates(x, indices=list(self.out_indices), intermediates_only=True))


def strides(architecture: dict[str, object] | None = None) -> tuple[int, ...]:
    """Strides of the four stages in pixels: 4, 8, 16, 32 unless the first convolution strides otherwise."""
    first = int((architecture or {}).get("stem_stride", 4))
    return tuple(first * 2**stage for stage in range(4))


def widths(model: str, architecture: dict[str, object] | None = None) -> tuple[int, ...]:
    """Channels of the four stages."""
    return tuple({**SIZES[model], **(architecture or {})}["embed_dims"])


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Copy pretrained weights into a backbone, strictly but for the classifier.

    Raises:
        CheckpointError: as `VANBackbone.init_weights`; the backbone is then unchanged.
    """
    tensors = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith(CLASSIFIER)}
    fit_weights(backbone, tensors, str(path))
    logger.info("backbone: %d tensors from %s", len(tensors), path)
