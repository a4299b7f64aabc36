"""Label forms against FKD's formulas (arXiv 2112.01528, section 3.5), written out class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dali_dr.record.labels import FORMS, Form, sparsify, targets


def by_formula(p: np.ndarray, form: str, k: int) -> np.ndarray:
    """One row: p (C,), all of the teacher's probabilities."""
    order = sorted(range(len(p)), key=lambda c: (-p[c], c))
    top = order[:k]
    out = np.empty(len(p))
    for c in range(len(p)):
        if form == "full":
            out[c] = p[c]
        elif form == "hard":
            out[c] = 1.0 if c == order[0] else 0.0
        elif form == "smoothing":
            out[c] = p[c] if c == order[0] else (1 - p[order[0]]) / (len(p) - 1)
        elif form == "marginal_smoothing":
            out[c] = p[c] if c in top else (1 - sum(p[t] for t in top)) / (len(p) - k)
        else:
            out[c] = p[c] / sum(p[t] for t in top) if c in top else 0.0
    return out


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("stored", "topk"), [(20, None), (20, 20), (5, None), (5, 3), (1, None)])
def test_forms_are_fkds(form: Form, stored: int, topk: int | None, kind: str) -> None:
    classes = 20
    dense = np.random.default_rng(0).dirichlet([0.3] * classes, 9).astype(np.float32)
    ids, probs = sparsify(dense, stored)
    give = (lambda a: a) if kind == "numpy" else torch.from_numpy
    if form == "full" and stored < classes:
        with pytest.raises(ValueError, match="--keep full"):
            targets(give(ids), give(probs), classes, form, topk)
        return
    got = np.asarray(targets(give(ids), give(probs), classes, form, topk))
    want = np.stack([by_formula(row.astype(np.float64), form, topk or stored) for row in dense])
    assert got.dtype == np.float32 and got.shape == (9, classes)
    if form in ("marginal_smoothing", "smoothing") and (topk or stored) == classes:
        want = np.where(want < 0, 0, want)
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)


def test_forms_of_batches_and_refusals() -> None:
    ids = torch.tensor([[[3, 1], [0, 2]]])
    probs = torch.tensor([[[0.5, 0.25], [0.75, 0.0]]])
    got = targets(ids, probs, 4, "marginal_smoothing")
    assert got.tolist() == [[[0.125, 0.25, 0.125, 0.5], [0.75, 0.125, 0.0, 0.125]]]
    assert targets(ids, probs, 4, "hard").tolist() == [[[0, 0, 0, 1], [1, 0, 0, 0]]]
    with pytest.raises(ValueError, match="3 classes: 2 are stored"):
        targets(ids, probs, 4, "marginal_renorm", 3)
    with pytest.raises(ValueError, match="form"):
        targets(ids, probs, 4, "soft")  # type: ignore[arg-type]
