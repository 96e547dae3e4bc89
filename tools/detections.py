"""Detections of a model with decoded boxes, and how far two models agree on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCORE, SUPPRESS, SAME = 0.7, 0.3, 0.5


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of one box with others, (4,) and (n, 4) -> (n,).

    Boxes are corners: x0, y0, x1, y1.
    """
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(np.clip(others[:, 2:] - others[:, :2], 0, None), axis=1)
    union = np.prod(np.clip(box[2:] - box[:2], 0, None)) + areas - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def detect(scores: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the boxes that stay after greedy non-maximum suppression, surest first.

    Args:
        scores: of the class that is looked for, (n,).
        boxes: (n, 4).
    """
    sure = np.flatnonzero(scores > SCORE)
    left = boxes[sure[np.argsort(-scores[sure], kind="stable")]]
    found = []
    while len(left):
        found.append(left[0])
        left = left[1:][overlap(left[0], left[1:]) <= SUPPRESS]
    return np.array(found, dtype=boxes.dtype).reshape(-1, 4)


@dataclass(slots=True)
class Agreement:
    """Detections of a reference, of a candidate, and how many are the same.

    A detection of the candidate is the same as the one of the reference it overlaps most, of
    those that none before it took, where the overlap is above ``SAME``.
    """

    reference: int = 0
    candidate: int = 0
    same: int = 0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Count one image: boxes, (n, 4) and (m, 4), surest first."""
        self.reference += len(reference)
        self.candidate += len(candidate)
        free = np.ones(len(reference), dtype=bool)
        for box in candidate:
            shared = np.where(free, overlap(box, reference), 0.0)
            if shared.size and shared.max() > SAME:
                free[int(shared.argmax())] = False
                self.same += 1

    def to_json(self) -> dict[str, int]:
        """Return plain values."""
        return {"reference": self.reference, "candidate": self.candidate, "same": self.same}
