"""V-JEPA that says what happens in boxes of a video's key frame. Letters as in modeling_vjepa; R boxes of a clip."""

from dataclasses import dataclass

import torch
from torch import nn
from torchvision.ops import roi_align
from transformers.utils import ModelOutput, can_return_tuple

from .modeling_vjepa import VJEPAPooledModel


@dataclass
class VJEPAForActionDetectionOutput(ModelOutput):
    """What happens in the boxes of a batch of clips.

    Attributes:
        loss: binary cross entropy, mean over the boxes and the actions; only with labels.
        logits: `(B, R, L)`, one independent yes or no an action: their sigmoid is a score in [0, 1]. Padding has the
            lowest number there is, and so the score 0.
        hidden_states: of the encoder, as in `VJEPAModelOutput`.
        attentions: of the encoder, as in `VJEPAModelOutput`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class VJEPAForActionDetection(VJEPAPooledModel):
    """Encoder, RoIAlign, attentive pooler and a linear classifier of each box (localization on AVA: paper, section 5).

    A box is given, by annotators or by a detector of people; the model tells which of the L actions it shows, any
    number of them. RoIAlign (He et al., 2017) cuts `roi_size` x `roi_size` features out of the box at every time
    step, and the pooler attends to all of them, through time.
    """

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        boxes: torch.Tensor,
        box_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> VJEPAForActionDetectionOutput:
        """Scores of every action in every box.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)` around their key frames.
            boxes: `(B, R, 4)` as x1, y1, x2, y2 in units of the frame's width and height, from 0 to 1, so that they
                do not change when the frame is resized. The features of all time steps are taken from this place.
            box_mask: `(B, R)`, True for a box and False for the padding of a clip with fewer boxes than others; None
                for boxes everywhere. Clips may have no box at all.
            labels: `(B, R, L)`, 1 for the actions of a box and 0 for the others.
            output_hidden_states: whether to return the residual stream after every layer.
            output_attentions: whether to return attention weights; needs `attn_implementation="eager"`.

        Raises:
            ValueError: for shapes that do not fit each other, and for boxes that are empty or not within [0, 1].
        """
        tubelets, grid = self.vjepa.tokenize(pixel_values_videos)
        if box_mask is None:
            box_mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        self._check_boxes(len(tubelets), boxes, box_mask, labels)
        outputs = self.vjepa(
            tubelets=tubelets,
            grid_size=grid,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        # Padding is left out before the work begins: n boxes in all.
        real_boxes, clips = boxes[box_mask], box_mask.nonzero()[:, 0]
        num_boxes = len(real_boxes)
        if num_boxes == 0:
            # Attention does not run on nothing, and a loss must reach every parameter: a box that is left out below.
            real_boxes, clips = boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]]), clips.new_zeros(1)
        tokens = box_features(outputs.last_hidden_state, grid, real_boxes, clips, self.config.roi_size)
        box_logits = self.classifier(self.pooler(tokens))[:num_boxes]  # (n, L)
        loss = None
        if labels is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(
                box_logits.float(), labels[box_mask].float(), reduction="sum"
            ) / max(1, box_logits.numel())
        logits = box_logits.new_full((*box_mask.shape, box_logits.shape[-1]), torch.finfo(box_logits.dtype).min)
        logits[box_mask] = box_logits
        return VJEPAForActionDetectionOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _check_boxes(
        self, batch: int, boxes: torch.Tensor, box_mask: torch.Tensor, labels: torch.Tensor | None
    ) -> None:
        if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
            raise ValueError(f"boxes of {batch} clips have the shape ({batch}, R, 4), got {tuple(boxes.shape)}.")
        if box_mask.dtype != torch.bool or box_mask.shape != boxes.shape[:2]:
            raise ValueError(
                f"box_mask of boxes {tuple(boxes.shape)} is a bool tensor {tuple(boxes.shape[:2])}, got "
                f"{box_mask.dtype} {tuple(box_mask.shape)}."
            )
        expected = (*box_mask.shape, self.config.num_labels)
        if labels is not None and labels.shape != expected:
            raise ValueError(f"labels have the shape (B, R, num_labels) = {expected}, got {tuple(labels.shape)}.")
        low, high = boxes[box_mask].split(2, dim=-1)
        if not ((low >= 0) & (low < high) & (high <= 1)).all():
            raise ValueError(
                "boxes are x1 < x2 and y1 < y2 between 0 and 1: divide pixels by the width and height of the frame, "
                "and clamp what reaches beyond it."
            )


def box_features(
    features: torch.Tensor, grid: tuple[int, int, int], boxes: torch.Tensor, clips: torch.Tensor, roi_size: int
) -> torch.Tensor:
    """Features `(n, t * roi_size * roi_size, D)` inside boxes, from those of whole clips, `(B, N, D)`.

    Args:
        features: one vector a token.
        grid: token grid (t, h, w) of the clips.
        boxes: `(n, 4)` as x1, y1, x2, y2 between 0 and 1.
        clips: `(n,)`, the clip that each box belongs to.
        roi_size: rows and columns that a box is cut into at each time step.
    """
    t, h, w = grid
    # Time beside the channels, so that one box cuts all time steps: (B, t * h * w, D) -> (B, t * D, h, w)
    volume = features.unflatten(1, (t, h, w)).permute(0, 1, 4, 2, 3).flatten(1, 2)
    corners = boxes * boxes.new_tensor([w, h, w, h])
    rois = torch.cat([clips[:, None].to(corners), corners], dim=1)
    # In single precision: the operation knows no bfloat16 on a CPU.
    regions = roi_align(volume.float(), rois.float(), roi_size, aligned=True).to(features.dtype)
    # (n, t * D, roi_size, roi_size) -> (n, t * roi_size * roi_size, D)
    return regions.unflatten(1, (t, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)


__all__ = ["VJEPAForActionDetection"]
