"""Factors on disk: what is read is what was written, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_ekfac import fit, pairs

import ekfac


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return ekfac.save(fit(*pairs(0), splits=2), tmp_path / "factors.safetensors")


def test_round_trip(tmp_path: Path) -> None:
    fitted = fit(*pairs(0))
    path = fitted.save(tmp_path / "deep" / "factors.safetensors")
    found = ekfac.Factors.load(path)
    assert found.how == fitted.how
    assert list(found) == list(fitted)
    for part in ("basis_in", "basis_out", "eigenvalues", "values_in", "values_out"):
        assert torch.equal(getattr(found["x"], part), getattr(fitted["x"], part))
    assert (found["x"].count, found["x"].positions) == (fitted["x"].count, fitted["x"].positions)


def test_same_factors_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = ekfac.save(fit(*pairs(0), splits=2), tmp_path / "again.safetensors")
    assert again.read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 9, 200, -1])
def test_a_truncated_file_is_named(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ekfac.DamagedFactors, match=r"factors\.safetensors.*fit again"):
        ekfac.load(saved)


@pytest.mark.parametrize("place", [-1, -9, -100])
def test_one_flipped_bit_is_seen(saved: Path, place: int) -> None:
    data = bytearray(saved.read_bytes())
    data[place] ^= 1
    saved.write_bytes(bytes(data))
    with pytest.raises(ekfac.DamagedFactors, match="checksum"):
        ekfac.load(saved)


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match="fit one with"):
        ekfac.load("nowhere.safetensors")


def test_a_folder_in_the_way_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "factors.safetensors").mkdir()
    with pytest.raises(OSError, match=r"factors\.safetensors"):
        ekfac.save(fit(*pairs(0)), tmp_path / "factors.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["factors.safetensors"]


def test_merging_factors_of_one_basis() -> None:
    fitted = fit(*pairs(1))
    both = ekfac.merge(fitted, fitted)
    assert both["x"].count == 2 * fitted["x"].count
    torch.testing.assert_close(both["x"].eigenvalues, fitted["x"].eigenvalues)
    with pytest.raises(ValueError, match="different bases"):
        ekfac.merge(fitted, fit(*pairs(2)))
