"""The six quantities on tables with known answers, and what is said where they cannot be tested."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from influence.study.hypotheses import (
    Cells,
    Design,
    Effect,
    Verdict,
    World,
    centroid,
    excess,
    margin,
    read,
    scale,
    signature,
    simulate,
    tail_slope,
    verdict_table,
    verdicts,
)
from influence.study.hypotheses.margin import shifts
from influence.study.hypotheses.outcomes import averages, model_effects
from influence.study.hypotheses.partial import masters, partial
from influence.study.hypotheses.tail_slope import slopes, sums
from influence.study.hypotheses.usable import usable
from influence.study.hypotheses.verdict import Sentences, corrected, untestable

FEW = {"permutations": 199, "bootstrap": 100}
STRONG = Effect(centroid=0.9, excess=1.0, tail=1.5, margin=0.1, removal=0.1, scale=12.0)


@pytest.fixture(scope="module")
def nothing() -> Cells:
    return read(simulate(seed=11))


@pytest.fixture(scope="module")
def strong() -> Cells:
    return read(simulate(effect=STRONG, seed=1))


def test_strong_relations_are_all_claimed(strong: Cells) -> None:
    found = {v.quantity: v for v in verdicts(strong, permutations=999, bootstrap=100)}
    for quantity in (1, 2, 3, 5, 6):
        verdict = found[quantity]
        assert verdict.claims and verdict.p_adjusted <= 0.05, str(verdict)
        assert verdict.low <= verdict.effect <= verdict.high
    assert [found[q].decision for q in (1, 2, 3, 5, 6)] == ["relation"] * 4 + ["trend"]
    assert found[1].effect > 0.5 and found[2].effect > 0 and found[3].effect < 0 and "deeper" in found[1].words
    assert found[4].decision == "descriptive" and np.isnan(found[4].p)
    table = verdict_table(found.values())
    assert table["quantity"].tolist() == [1, 2, 3, 4, 5, 6] and table["words"].str.len().min() > 20
    assert "after Holm" in str(found[1]) and "<pre>" in found[1]._repr_html_()


def test_nothing_is_claimed_where_nothing_is(nothing: Cells) -> None:
    found = verdicts(nothing, **FEW)  # type: ignore[arg-type]
    assert not any(v.claims for v in found)
    assert [v.decision for v in found] == ["no relation"] * 3 + ["descriptive", "no relation", "no trend"]
    again = verdicts(nothing, **FEW)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(verdict_table(found), verdict_table(again))


def test_centroid_is_the_mean_of_spearman_correlations(nothing: Cells) -> None:
    found = centroid(nothing, **FEW)  # type: ignore[arg-type]
    assert nothing.mass is not None and nothing.depth is not None and found.parts is not None
    each, number = [], []
    for (depth, mass), d50 in zip(nothing.mass, nothing.depth["d50"], strict=True):
        known = np.isfinite(d50)
        each.append(spearmanr((mass @ depth).mean(1)[known], d50[known]).statistic)
        number.append(known.sum())
    assert found.effect == pytest.approx(np.average(each, weights=np.array(number) - 1))
    assert found.parts["concepts"].tolist() == number
    assert abs(found.details["expected"]) < 0.05


def by_hand() -> Cells:
    """Two models of four layers, six concepts; the mass of each lies evenly above its own D95."""
    d95 = np.array([0.1, 0.3, 0.55, 0.55, 0.3, 0.8])
    depth = np.array([0.25, 0.5, 0.75, 1.0])
    lines = []
    for model in ("a", "b"):
        for c, threshold in enumerate(d95):
            above = depth > threshold
            mass = above / above.sum()
            lines += [(model, 1, f"c{c}", f"q{c}", i, depth[i], mass[i]) for i in range(4)]
    mass = pd.DataFrame(lines, columns=["model", "step", "concept", "query", "layer", "depth", "mass"])
    keys = mass[["model", "step", "concept"]].drop_duplicates(ignore_index=True)
    table = keys.assign(d50=np.tile(d95 - 0.05, 2), d95=np.tile(d95, 2))
    models = pd.DataFrame({"model": ["a", "b"], "size": ["s", "t"], "parameters": [10, 20], "n_layers": 4, "seed": 0,
                           "step": 1})  # fmt: skip
    return read({"models": models, "layer_mass": mass, "depth": table})


def test_excess_by_hand() -> None:
    found = excess(by_hand(), bootstrap=100)
    d95, depth = np.array([0.1, 0.3, 0.55, 0.55, 0.3, 0.8]), np.array([0.25, 0.5, 0.75, 1.0])
    above = depth > d95[:, None]
    mass = above / above.sum(1, keepdims=True)
    square = mass @ above.T - above.mean(1)
    assert found.details["excess"][0] == pytest.approx(np.diagonal(square).mean())  # 1 − share of layers above
    assert found.details["excess"][0] == pytest.approx((1 - above.mean(1)).mean())
    assert found.details["expected"] == pytest.approx(square.mean())
    assert found.effect == pytest.approx(np.diagonal(square).mean() - square.mean())
    all_orders = [square[list(order), range(6)].mean() for order in itertools.permutations(range(6))]
    far = np.abs(np.array(all_orders) - square.mean())
    assert found.p == pytest.approx((far >= far[0] - 1e-9).mean()) and found.p < 0.05
    assert found.decision == "relation" and not found.falsifiers


def test_slopes_are_least_squares_with_an_intercept_per_model(nothing: Cells) -> None:
    held = sums(nothing)
    d50 = nothing.depths("d50")
    slope, spread = slopes(held, d50, np.isfinite(d50).astype(float))
    assert nothing.tail is not None
    top = bottom = 0.0
    for m, (depth, values) in enumerate(nothing.tail):
        known = np.isfinite(d50[m])
        x, y = (depth - d50[m][known][:, None]).ravel(), values[known].ravel()
        assert slope[m] == pytest.approx(np.polyfit(x, y, 1)[0])
        top += slope[m] * ((x - x.mean()) ** 2).sum()
        bottom += ((x - x.mean()) ** 2).sum()
    assert (slope * spread).sum() / spread.sum() == pytest.approx(top / bottom)
    assert tail_slope(nothing, **FEW).effect == pytest.approx(top / bottom)  # type: ignore[arg-type]


def test_partial_correlation_takes_mastery_out(nothing: Cells) -> None:
    d50 = nothing.depths("d50")
    there = np.ones(d50.shape, bool)
    used = usable(nothing, there, np.isfinite(d50), "D50 is defined")
    held = masters(nothing, used)
    assert held is not None and held.names == ("tfidf", "query_loss", "recall")
    loss = nothing.depths("query_loss")
    rng = np.random.default_rng(0)
    influence = np.argsort(np.argsort(loss, 1), 1) + 3 * rng.normal(size=loss.shape)
    moves = used.moves(199, rng)
    found = partial(used.cut(influence, used.there), used.cut(d50), held, used, moves)
    assert found is not None and abs(found.observed) < 0.3
    each, number = [], []
    for m, defined in enumerate(used.defined):
        columns = [np.ones(defined.sum())]
        for name in held.names:  # ranks over all concepts, as the basis has them
            columns.append(rankdata(nothing.depths(name)[m])[defined])
        z = np.stack(columns, 1)
        whole = np.stack([np.ones(len(defined)), *(rankdata(nothing.depths(n)[m]) for n in held.names)], 1)
        left = rankdata(influence[m]) - whole @ np.linalg.lstsq(whole, rankdata(influence[m]), rcond=None)[0]
        sides = [left[defined], rankdata(d50[m][defined])]
        one, other = (side - z @ np.linalg.lstsq(z, side, rcond=None)[0] for side in sides)
        each.append(np.corrcoef(one, other)[0, 1])
        number.append(defined.sum() - 4)
    assert found.observed == pytest.approx(np.average(each, weights=number))


def test_a_relation_through_mastery_alone_is_not_claimed() -> None:
    world = World(confounded=3.0, missing=0.0)
    said = [centroid(read(simulate(world=world, seed=s)), permutations=199, bootstrap=0) for s in range(4)]
    assert sum(v.p <= 0.05 for v in said) >= 3
    assert not any(v.claims for v in said)
    first = next(v for v in said if v.p <= 0.05)
    assert first.decision == "no relation beyond mastery" and "mastery" in first.words


def test_a_relation_that_random_labels_show_too_is_not_claimed(strong: Cells) -> None:
    assert strong.depth is not None
    same = replace(strong, depth=strong.depth | {"d50_random": strong.depth["d50"]})
    found = centroid(same, **FEW)  # type: ignore[arg-type]
    assert found.p <= 0.05 and found.decision == "no more than random labels"


def test_additive_fit_finds_model_effects_over_any_cells() -> None:
    rng = np.random.default_rng(0)
    model, concept = rng.normal(size=(6, 1)), rng.normal(size=(1, 9))
    values = model + concept
    values[rng.random(values.shape) < 0.4] = np.nan
    effect, parts = model_effects(values)
    np.testing.assert_allclose(effect - effect.mean(), (model - model.mean())[:, 0], atol=1e-10)
    np.testing.assert_allclose(parts, 0, atol=1e-10)
    apart = np.full((5, 6), np.nan)
    apart[:3, :3], apart[3:, 3:] = 1.0, 9.0  # two parts that nothing connects
    assert np.isfinite(model_effects(apart)[0]).tolist() == [True] * 3 + [False] * 2
    mean, parts = averages(values)
    np.testing.assert_allclose(mean, np.nanmean(values, 1))
    np.testing.assert_allclose(parts.sum(1), 0, atol=1e-12)


def test_sizes_that_differ_without_a_line_are_not_called_a_trend() -> None:
    tables = simulate(world=World(seed=0.02), seed=3)
    jump = tables["models"].set_index("model")["size"].map({"s0": 0.0, "s1": 0.0, "s2": 3.0, "s3": 3.0, "s4": 2.0})
    factor = np.exp(tables["tails"]["model"].astype(str).map(jump).to_numpy(float))
    tables["tails"]["effective_count"] *= factor
    found = scale(read(tables), permutations=499)
    assert found.p <= 0.05 and found.decision == "sizes differ, no trend shown"
    assert found.parts is not None and found.parts["outcome"].tolist()[0].startswith("correlation")


def test_signatures_of_untrained_models_stand_beside(strong: Cells) -> None:
    assert strong.signature is not None
    low = {name: np.full_like(value, 0.55) for name, value in strong.signature.items()}
    found = signature(strong, untrained=replace(strong, signature=low))
    assert found.details["auc_untrained"] == pytest.approx((0.55, 0.55, 0.55))
    assert "auc_untrained" not in signature(strong).details


def test_untrained_models_with_the_same_trend_take_the_claim_away(strong: Cells) -> None:
    found = scale(strong, permutations=199, untrained=strong)
    assert found.decision == "a trend, also without training"
    assert isinstance(scale(strong, permutations=199, untrained=replace(strong, count=None)).details["untrained"],
                      pd.DataFrame)  # fmt: skip


def test_a_concept_lost_by_removal_counts_as_known_at_the_last_layer() -> None:
    table = pd.DataFrame({
        "size": "s", "seed": 0, "concept": ["a", "a", "b", "b", "c", "c"], "arm": ["top", "random"] * 3,
        "d50_before": [0.25, 0.25, 0.5, 0.5, np.nan, np.nan], "d50_after": [np.nan, 0.25, 0.75, 0.5, 0.5, 0.5],
        "recall_before": 1.0, "recall_after": [0.2, 0.9, 0.5, 0.5, 1, 1],
    })  # fmt: skip
    found = shifts(table).set_index("concept")
    assert found["depth"].to_dict() == {"a": 0.75, "b": 0.25}
    assert found["recall"].to_dict() == pytest.approx({"a": -0.7, "b": 0.0})
    with pytest.raises(ValueError, match="two lines"):
        shifts(pd.concat([table, table.head(1)]))


def test_margin_without_removals_says_so(nothing: Cells) -> None:
    found = margin(replace(nothing, removal=None), **FEW)  # type: ignore[arg-type]
    assert "was not tested" in found.words and "no table removal" in found.remarks[0]
    assert nothing.removal is not None
    five = replace(nothing, removal=nothing.removal[nothing.removal["size"] == "s4"])
    assert "5 pairs of retrainings of 1 sizes" in margin(five, **FEW).remarks[0]  # type: ignore[arg-type]


def only(cells: Cells, keep: Callable[[pd.DataFrame], pd.Series]) -> Cells:
    """The cells of some models."""
    place = np.flatnonzero(keep(cells.models))
    cut = {name: value[place] for name, value in (cells.depth or {}).items()}
    return replace(
        cells,
        models=cells.models.iloc[place].reset_index(drop=True),
        depth=cut,
        mass=tuple(cells.mass[m] for m in place) if cells.mass else None,
        draws=None,
        count=None if cells.count is None else cells.count[place],
        signature={name: value[place] for name, value in (cells.signature or {}).items()},
    )


def test_one_size_or_few_seeds_are_named(nothing: Cells) -> None:
    one = scale(only(nothing, lambda m: m["size"] == "s1"))
    assert one.decision == "not testable" and "1 of the 1 sizes have 3 seeds" in one.words and np.isnan(one.p)
    two = scale(only(nothing, lambda m: (m["seed"] < 2) | (m["size"] == "s0")))
    assert "1 of the 5 sizes" in two.words and "s1 (2)" in two.words
    four = scale(only(nothing, lambda m: (m["seed"] < 2) | (m["size"] != "s0")), permutations=199)
    assert four.testable and "fewer than 3 seeds: s0 (2)" in four.remarks[-1]
    assert "s0" not in four.details["sizes"]


def test_undefined_depths_and_few_concepts_are_named(nothing: Cells) -> None:
    assert nothing.depth is not None
    nowhere = replace(nothing, depth=nothing.depth | {"d50": np.full(nothing.shape, np.nan)})
    assert "in no model centroid and D50 are defined for 5 concepts" in centroid(nowhere).words
    four = nothing.depth["d50"].copy()
    four[0, 4:] = np.nan
    some = centroid(replace(nothing, depth=nothing.depth | {"d50": four}), **FEW)  # type: ignore[arg-type]
    assert some.testable and "s0-0 (" in some.remarks[0]
    kinds = replace(nothing, kind=np.arange(24) // 2)
    assert centroid(kinds, **FEW).testable  # type: ignore[arg-type]
    assert "allow 1 permutations" in centroid(replace(nothing, kind=np.arange(24))).words


@pytest.mark.parametrize(
    ("test", "lacks"),
    [(centroid, "mass"), (excess, "mass"), (tail_slope, "tail"), (margin, "margin"), (signature, "signature")],
)
def test_missing_tables_are_named(nothing: Cells, test: Callable[[Cells], Verdict], lacks: str) -> None:
    found = test(replace(nothing, **{lacks: None}))
    assert not found.testable and "there is no table" in found.words and np.isnan(found.p)
    assert "Not testable here because" in str(found)


def test_everything_missing_still_gives_six_verdicts() -> None:
    tables = simulate(Design(sizes=1, seeds=1, concepts=4, queries=1), seed=0)
    found = verdicts(read(tables), **FEW)  # type: ignore[arg-type]
    assert [v.decision for v in found] == ["not testable"] * 6
    bare = verdicts(read({"models": tables["models"]}), **FEW)  # type: ignore[arg-type]
    assert [v.decision for v in bare] == ["not testable"] * 6


def verdict(quantity: int, p: float, **others: object) -> Verdict:
    said = Sentences("Found.", "Nothing.", {"stricter": "weaker", "control": "same in the control"})
    return Verdict(quantity, 0.1, 0.0, 0.2, "unit", p, "null", sentences=said, **others)  # type: ignore[arg-type]


def test_holm_decides_over_five_planned_tests() -> None:
    found = corrected([verdict(1, 0.009), verdict(2, 0.02), untestable(3, "of this")])
    assert [v.decision for v in found] == ["relation", "no relation", "not testable"]
    assert found[0].p_adjusted == pytest.approx(0.045) and found[1].p_adjusted == pytest.approx(0.08)
    assert "not beside the other tests" in found[1].words
    with pytest.raises(ValueError, match="twice"):
        corrected([verdict(1, 0.1), verdict(1, 0.2)])


def test_falsifiers_and_controls_have_a_say() -> None:
    one, two, three = corrected([
        verdict(1, 0.001, falsifiers={"stricter": 0.2}), verdict(2, 0.001, controls={"control": 0.01}),
        verdict(3, 0.001, falsifiers={"stricter": 0.04}, controls={"control": 0.5}),
    ])  # fmt: skip
    assert [v.decision for v in (one, two, three)] == ["weaker", "same in the control", "relation"]
    assert [v.claims for v in (one, two, three)] == [False, False, True]


def test_a_shift_that_loss_of_recall_explains_is_told_apart() -> None:
    effect = Effect(margin=0.1)
    explained = margin(read(simulate(effect=effect, world=World(confounded=1.0), seed=2)), bootstrap=0)
    assert explained.p <= 0.05 and explained.decision == "no relation beyond mastery"
    both = replace(effect, removal=0.1)
    assert margin(read(simulate(effect=both, world=World(confounded=1.0), seed=2)), bootstrap=0).claims


def test_scale_at_fixed_mastery() -> None:
    """An effective count that only follows query loss trends with size, and not at fixed mastery."""
    tables = simulate(world=World(seed=0.2, missing=0.0), seed=3)
    keys = ["model", "concept"]
    text = dict.fromkeys(keys, str)
    loss = tables["depth"].astype(text).set_index(keys)["query_loss"]
    counts = tables["tails"].astype(text).set_index(keys)
    own = np.random.default_rng(0).normal(size=len(counts)) * 0.02
    tables["tails"] = counts.assign(effective_count=np.exp(3 * loss.loc[counts.index].to_numpy() + own)).reset_index()
    found = scale(read(tables), permutations=199)
    assert found.parts is not None
    line = found.parts.set_index("outcome").loc["log effective count"]
    assert line["high"] < -0.1 and line["p"] <= 0.05
    assert abs(line["fixed"]) < 0.1 * abs(line["effect"])
    other = found.parts.set_index("outcome").loc["correlation of centroid and D50"]
    assert other["fixed_low"] < other["fixed"] < other["fixed_high"]
