"""Figures for notebooks: they are drawn, and their words say what the numbers are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray

import influence
from influence.report.scored import Drawing


def scores(values: np.ndarray) -> xarray.DataArray:
    """(query, row, layer) with the ids 5, 6, … of queries."""
    q, n, layers = values.shape
    coords = {"query": np.arange(5, 5 + q), "row": np.arange(n), "layer": np.arange(layers)}
    return xarray.DataArray(values, dims=("query", "row", "layer"), coords=coords)


def test_the_words_of_a_layer_figure_are_its_sums() -> None:
    one = scores(np.array([[[1.0, -2.0], [0.5, 4.0]], [[0.0, 1.0], [3.0, 0.0]]]))
    first = influence.layer_figure(one)
    assert "query 5 by layer: 5.50 nats added and \u22122.00 taken" in first.words
    assert "layer 1 (80 % of the absolute influence)" in first.words
    assert "layer 0 (75 %" in influence.layer_figure(one, query=6).words
    kinds = first._repr_mimebundle_()
    assert kinds["image/svg+xml"].startswith("<svg") and kinds["text/plain"] == first.words


def test_the_words_of_a_tail_figure_are_its_fits() -> None:
    drawn = np.random.default_rng(0).pareto(1.5, 4000) + 1  # density exponent 2.5
    one = scores(drawn[None, :, None])
    found = influence.tail_figure(one)
    assert "Tail of 4000 positive scores of query 5" in found.words
    said = [float(number) for number in re.findall(r"density exponent ([\d.]+\d)", found.words)]
    assert said == influence.tail(one, compare=())["alpha_density"].round(2).tolist()
    assert np.abs(np.array(said) - 2.5).max() < 3 * 1.5 / np.sqrt(500)  # three standard errors
    assert found.svg().startswith("<svg")
    few = influence.tail_figure(scores(drawn[None, :20, None]))
    assert "none, too few scores" in few.words and few.svg().startswith("<svg")


def test_what_cannot_be_drawn_is_named() -> None:
    one = scores(np.array([[[1.0], [-1.0]]]))
    with pytest.raises(ValueError, match="query 7 was not scored; scored are 5"):
        influence.layer_figure(one, query=7)
    with pytest.raises(ValueError, match="1 positive scores"):
        influence.tail_figure(one)


def test_a_drawing_shows_itself() -> None:
    assert Drawing("<svg/>", "nothing")._repr_mimebundle_() == {"image/svg+xml": "<svg/>", "text/plain": "nothing"}
