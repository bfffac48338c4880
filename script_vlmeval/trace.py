"""What a pruned prefill really did, measured where it happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Trace:
    """The last prefill: enough to count FLOPs, size the cache and draw the kept tokens.

    Tensors stay on the model's device until somebody looks, so that tracing does not stall it.
    """

    text: Tensor | None = None  # (B,) text tokens
    visual: Tensor | None = None  # (B,) visual tokens before pruning
    between: Tensor | None = None  # (B,) those of them that no method touches: newlines between rows, the CLS of frames
    stages: dict[int, Tensor] = field(default_factory=dict)  # stage -> (B,) real tokens, text included, from there on
    # stage -> per group that loses some (I, G, k) positions in the tile, -1 merged; inside the language model (I, 1, k) positions
    # in the image, or among all visual tokens of the sample for methods that choose among these
    kept: dict[int, list[Tensor]] = field(default_factory=dict)
    rows: dict[int, list[Tensor]] = field(default_factory=dict)  # stage -> per group (I,) the sample that each is of
    lengths: list[int] = field(default_factory=list)  # padded sequence length that entered each layer
    again: Trace | None = None  # of the last step that read the prompt again, in generation without a cache
    relevance: str = "none"  # clip | llm | none: where the question's relevance came from

    def begin(self, text: Tensor, visual: Tensor) -> None:
        """Forget the prefill before."""
        self.text, self.visual, self.relevance, self.again = text, visual, "none", None
        self.between = torch.zeros_like(visual)
        self.stages.clear()
        self.kept.clear()
        self.rows.clear()
        self.lengths.clear()

    def note(self, stage: int, row: Tensor, kept: Tensor) -> None:
        """What a group of images of these samples keeps at a stage."""
        self.kept.setdefault(stage, []).append(kept)
        self.rows.setdefault(stage, []).append(row)

    def entering(self, n_layers: int) -> Tensor:
        """(n_layers, B) real tokens, text included, that entered each layer."""
        assert self.text is not None, "no prefill has run yet"
        assert self.visual is not None
        now, rows = self.text + self.visual, []
        for layer in range(n_layers):
            now = self.stages.get(layer, now).to(now.device)  # of a model over several GPUs, later stages are on other ones
            rows.append(now)
        return torch.stack(rows)

    def counts(self, n_layers: int) -> list[dict[str, Any]]:
        """Per row: visual tokens before pruning, their mean over the layers, those of them that no method touches, text tokens,
        all tokens entering each layer; where relevance came from, of rows that have a picture."""
        assert self.text is not None, "no prefill has run yet"
        assert self.visual is not None
        assert self.between is not None
        layers = self.entering(n_layers).T.tolist()
        return [
            {
                "visual_full": v,
                "visual_kept": sum(row) / len(row) - t,
                "between": s,
                "text": t,
                "layers": row,
                "relevance": self.relevance if v else "none",
            }
            for v, s, t, row in zip(*(x.tolist() for x in (self.visual, self.between, self.text)), layers, strict=True)
        ]
