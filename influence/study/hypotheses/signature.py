"""Quantity 4, descriptive: the depth at which the influence signature of an item shows the concept.

The same probe reads the influence signature [I_l(z, q)]_z and, beside it, the backward signal alone, which carries
what late layers know to the first. Only what the signature shows beyond the backward signal is about training rows.
Outside Holm: no p, no claim.
"""

from __future__ import annotations

import numpy as np

from influence.study.hypotheses import verdict as v
from influence.study.hypotheses.cells import Cells
from influence.study.hypotheses.nulls import Array, Index
from influence.study.hypotheses.usable import LEAST_CONCEPTS, percentiles


def signature(
    cells: Cells, *, bootstrap: int = 999, level: float = 0.95, seed: int = 0, untrained: Cells | None = None
) -> v.Verdict:
    """Mean AUC of the probe on influence signatures above that on the backward signal, paired.

    Intervals: percentiles over concepts, which models share (paired cluster bootstrap).

    Returns:
        effect as AUC; details, each with its interval: `depth` (D50 of the signature less that of the backward
        signal), `auc_signature`, `auc_backward`, `auc_random` (random labels: .5 is right), and `auc_untrained`, that
        of signatures in the untrained twins of the ladder, where they are given.
    """
    if cells.signature is None:
        return v.untestable(4, "there is no table signature")
    held = cells.signature
    gain = held["auc_signature"] - held["auc_backward"]
    number = int(np.isfinite(gain).any(0).sum())
    if number < LEAST_CONCEPTS:
        return v.untestable(4, f"the AUCs of signature and backward signal are both there for {number} concepts")
    rng = np.random.default_rng([seed, 4])
    drawn = rng.integers(0, gain.shape[1], (bootstrap, gain.shape[1]))
    effect = averaged(gain, drawn, level)
    details = {name: averaged(held[name], drawn, level) for name in ("auc_signature", "auc_backward", "auc_random")}
    details["depth"] = averaged(held["d50_signature"] - held["d50_backward"], drawn, level)
    beside = f"random labels {v.figure(*details['auc_random'])}"
    if untrained is not None and untrained.signature is not None:
        raw = untrained.signature["auc_signature"]
        again = np.random.default_rng([seed, 44]).integers(0, raw.shape[1], (bootstrap, raw.shape[1]))
        details["auc_untrained"] = averaged(raw, again, level)
        beside += f"; untrained models {v.figure(*details['auc_untrained'])}"
    words = (
        f"The probe on influence signatures has AUC {v.figure(*effect)} above the backward signal's "
        f"({v.figure(*details['auc_signature'])}; {beside}) and reaches half "
        f"of it {v.figure(*details['depth'])} deeper."
    )
    return v.Verdict(4, *effect, "AUC", float("nan"), "none: descriptive", v.DESCRIPTIVE, words, details=details)


def averaged(values: Array, drawn: Index, level: float) -> tuple[float, float, float]:
    """Mean of values (m c) over what is defined, and the interval over draws of concepts (b c)."""
    known = np.isfinite(values)
    total, number = np.where(known, values, 0.0).sum(0), known.sum(0)
    if not number.sum():
        return float("nan"), float("nan"), float("nan")
    many = number[drawn].sum(1)
    means = np.divide(total[drawn].sum(1), many, out=np.full(len(drawn), np.nan), where=many > 0)
    return float(total.sum() / number.sum()), *percentiles(means, level)
