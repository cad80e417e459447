"""A run survives kills, full disks and damage, and ends with the same bytes or a typed error."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import faults
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence.store import NotARun, StoreError, WriteFailed, open_run, read_log, read_manifest

SETTINGS = faults.SETTINGS


def litter(root: Path) -> list[str]:
    return [p.name for p in root.rglob("*.partial")]


def test_killed_anywhere_the_next_call_ends_the_same(tmp_path: Path) -> None:
    """A step of 1 in place of 7 tries every point, in half a minute."""
    told = subprocess.check_output([sys.executable, faults.__file__, tmp_path, "7"], timeout=120)
    found = json.loads(told)
    assert found["points"] > 25 and not found["wrong"]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, lasting: bool) -> None:
    seen: list[int] = []
    with faults.counted(lambda n, when: seen.append(n)):
        faults.job(tmp_path / "whole")
    whole = faults.contents(tmp_path / "whole")
    for point in range(0, max(seen) + 1, 3):
        root = tmp_path / str(point)
        with faults.counted(faults.refusing(point, lasting)):
            try:
                faults.job(root)
            except WriteFailed as error:
                assert "No space left" in str(error) and "free some space" in str(error)
                assert error.errno == errno.ENOSPC
        if not lasting:
            assert not litter(tmp_path)
        faults.job(root)
        assert faults.contents(root) == whole


def test_a_real_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_run(tmp_path / "run", SETTINGS) as run:
        run.write("small.bin", lambda p: p.write_bytes(b"x"))
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
            with pytest.raises(WriteFailed, match=r"large\.bin.*free some space"):
                run.write("large.bin", lambda p: p.write_bytes(bytes(100_000)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert run.piece("small.bin") and run.piece("large.bin") is None
        assert not litter(tmp_path) and not (tmp_path / "run" / "large.bin").exists()


def test_writers_in_rust_say_it_in_their_own_words(tmp_path: Path) -> None:
    def writer(path: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with open_run(tmp_path / "run", SETTINGS) as run, pytest.raises(WriteFailed, match="free some space"):
        run.write("a.safetensors", writer)


def test_errors_of_a_writer_pass_through_and_leave_no_litter(tmp_path: Path) -> None:
    def writer(path: Path) -> None:
        path.write_bytes(b"half")
        raise ArithmeticError("NaN in block 3")

    with open_run(tmp_path / "run", SETTINGS) as run:
        run.write("a.bin", lambda p: p.write_bytes(b"old"))
        for error in (ArithmeticError, FileNotFoundError):
            with pytest.raises(error):
                run.write(
                    "a.bin", writer if error is ArithmeticError else lambda p: Path("/nowhere/at/all").read_bytes()
                )
        assert not litter(tmp_path) and run.piece("a.bin")
        assert (tmp_path / "run" / "a.bin").read_bytes() == b"old"


def test_ctrl_c_while_writing_keeps_what_was(tmp_path: Path) -> None:
    def writer(path: Path) -> None:
        path.mkdir()
        (path / "x").write_bytes(b"half")
        raise KeyboardInterrupt

    with open_run(tmp_path / "run", SETTINGS) as run, pytest.raises(KeyboardInterrupt):
        run.write("scores.zarr", writer)
    assert not litter(tmp_path)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(data[:7] + bytes([data[7] ^ 1]) + data[8:])
    elif how == "zeroed tail":
        path.write_bytes(data[:-10] + bytes(10))
    elif how == "longer":
        path.write_bytes(data + b"\0")
    elif how == "missing":
        path.unlink()
    elif how == "linked":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    elif how == "a directory":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how", ["truncated", "emptied", "flipped", "zeroed tail", "longer", "missing", "linked", "a directory"]
)
@pytest.mark.parametrize("name", ["factors/ekfac.safetensors", "scores.zarr/c1"])
def test_a_damaged_piece_is_named_and_computed_again(tmp_path: Path, how: str, name: str) -> None:
    faults.job(tmp_path)
    whole = faults.contents(tmp_path)
    damage(tmp_path / name, how)
    piece = "scores.zarr" if name.startswith("scores") else name
    if how == "linked" and piece == name:
        with pytest.raises(StoreError, match="is a link"):
            faults.job(tmp_path)
        return
    with pytest.warns(UserWarning, match=f"damaged piece.*{piece}"):
        faults.job(tmp_path)
    assert {k: v for k, v in faults.contents(tmp_path).items() if not k.endswith("elsewhere")} == whole
    assert any(event["event"] == "damaged" and event["piece"] == piece for event in read_log(tmp_path))


def test_a_stale_or_swapped_file_in_a_directory_is_noticed(tmp_path: Path) -> None:
    faults.job(tmp_path)
    (tmp_path / "scores.zarr" / "c0").rename(tmp_path / "t")
    (tmp_path / "scores.zarr" / "c1").rename(tmp_path / "scores.zarr" / "c0")
    (tmp_path / "t").rename(tmp_path / "scores.zarr" / "c1")
    with open_run(tmp_path, None) as run, pytest.warns(UserWarning, match=r"scores\.zarr"):
        assert run.piece("scores.zarr") is None


@given(st.data())
def test_any_damage_to_the_manifest_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("run")
    faults.job(root)
    text = (root / "manifest.json").read_bytes()
    at = data.draw(st.integers(0, len(text) - 1))
    bit = data.draw(st.integers(0, 7))
    broken = text[:at] if data.draw(st.booleans()) else text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :]
    (root / "manifest.json").write_bytes(broken)
    try:
        told = read_manifest(root)
    except NotARun as error:
        assert "cannot be trusted" in str(error) and "manifest.json" in str(error)
        with pytest.raises(NotARun):
            faults.job(root)
    else:  # white space outside the values says nothing
        (root / "manifest.json").write_bytes(text)
        assert told == read_manifest(root)


def test_temporary_files_of_a_writer_are_removed_too(tmp_path: Path) -> None:
    def writer(path: Path) -> None:
        path.with_name(f".{path.name}.123.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    with open_run(tmp_path, SETTINGS) as run:
        with pytest.raises(KeyboardInterrupt):
            run.write("factors/a.bin", writer)
        assert not list((tmp_path / "factors").iterdir())
        (tmp_path / "factors" / "..a.bin.partial.123.tmp").write_bytes(b"half")
    with open_run(tmp_path, SETTINGS):
        assert not list((tmp_path / "factors").iterdir())


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
def test_an_unwritable_directory_is_named(tmp_path: Path, code: int) -> None:
    with faults.counted(faults.refusing(0, True, code)), pytest.raises(WriteFailed) as refused:
        open_run(tmp_path / "run", SETTINGS)
    assert os.strerror(code) in str(refused.value) and str(tmp_path / "run") in str(refused.value)
