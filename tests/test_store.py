"""A run's directory survives what disks and operators do to it, or says by name what is wrong."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import faults
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence.store import Busy, NotARun, OtherSettings, StoreError, WriteFailed, open_run, read_log, read_manifest

SETTINGS = faults.SETTINGS
BAD_NAMES = [
    "", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "a//b", "a/", "/", "~/.bashrc", "a\\..\\b", "c:\\x",
    "manifest.json", "log.jsonl", "README.md", ".lock", ".hidden", "a/.hidden", "x.partial", "a\x00b", "a\nb",
    "a b", "$(id)", "`id`", "ü", "a" * 200, "%2e%2e/x", "a/./b", "\u202ex", "manifest.json/x", "-rf",
]  # fmt: skip


def litter(root: Path) -> list[str]:
    return [p.name for p in root.rglob("*.partial")]


def test_a_piece_is_there_after_it_was_written(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", SETTINGS) as run:
        assert run.piece("tables/a.parquet") is None
        path = run.write("tables/a.parquet", lambda p: p.write_bytes(b"abc"))
        assert path == tmp_path / "run" / "tables" / "a.parquet" == run.piece("tables/a.parquet")
        run.note(n_rows=7, damping=0.1)
        run.warn("one", "two", "one")
        run.describe(versions={"influence": "0"})
    with open_run(tmp_path / "run", None) as run:
        assert run.piece("tables/a.parquet") == path and path.read_bytes() == b"abc"
    manifest = read_manifest(tmp_path / "run")
    assert manifest["settings"] == SETTINGS and manifest["facts"] == {"n_rows": 7, "damping": 0.1}
    assert manifest["warnings"] == ["one", "two"] and manifest["pieces"]["tables/a.parquet"]["bytes"] == 3
    assert "scores.zarr" in (tmp_path / "run" / "README.md").read_text()


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        faults.job(tmp_path / name)
    assert faults.contents(tmp_path / "a") == faults.contents(tmp_path / "b")
    assert not litter(tmp_path)


def test_killed_anywhere_the_next_call_ends_the_same(tmp_path: Path) -> None:
    """A step of 1 in place of 5 tries every point, in half a minute."""
    told = subprocess.check_output([sys.executable, faults.__file__, tmp_path, "5"], timeout=120)
    found = json.loads(told)
    assert found["points"] > 25 and not found["wrong"]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, lasting: bool) -> None:
    seen: list[int] = []
    with faults.counted(lambda n, when: seen.append(n)):
        faults.job(tmp_path / "whole")
    whole = faults.contents(tmp_path / "whole")
    for point in range(0, max(seen) + 1, 2):
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


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    faults.job(tmp_path)
    before = faults.contents(tmp_path)
    asked = {"model": "tiny", "length": 16, "seed": 0}
    with pytest.raises(OtherSettings) as refused:
        open_run(tmp_path, asked)
    text = str(refused.value)
    assert "length: 8 there, 16 now" in text and "damping: 0.1 there, '(unset)' now" in text
    assert "seed: '(unset)' there, 0 now" in text and "model" not in text.replace(str(tmp_path), "")
    assert faults.contents(tmp_path) == before
    assert isinstance(refused.value, ValueError)


def test_another_model_under_the_same_name_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS) as run:
        run.identify(model="aaa", rows="bbb")
        run.identify(model="aaa", queries="ccc")
        with pytest.raises(OtherSettings, match="rows: 'bbb' there, 'xxx' now"):
            run.identify(rows="xxx")


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from influence.store import open_run\n"
        "run = open_run(sys.argv[1], {}); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path / "run"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=f"id {other.pid}"):
            open_run(tmp_path / "run", {})
        assert read_manifest(tmp_path / "run")["settings"] == {}
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with open_run(tmp_path / "run", {}):
        pass


def test_a_place_that_cannot_hold_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteFailed, match="give a directory that can be written"):
        open_run(tmp_path / "file", SETTINGS)
    with pytest.raises(WriteFailed):
        open_run(tmp_path / "file" / "below", SETTINGS)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(NotARun, match=r"thesis\.tex.*new or empty"):
        open_run(tmp_path / "home", SETTINGS)
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == ["thesis.tex"]
    for opened in (open_run, read_manifest):
        with pytest.raises(NotARun, match="no manifest"):
            opened(tmp_path / "none", *([None] if opened is open_run else []))  # type: ignore[operator]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
def test_an_unwritable_directory_is_named(tmp_path: Path, code: int) -> None:
    with faults.counted(faults.refusing(0, True, code)), pytest.raises(WriteFailed) as refused:
        open_run(tmp_path / "run", SETTINGS)
    assert os.strerror(code) in str(refused.value) and str(tmp_path / "run") in str(refused.value)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_cannot_lead_outside(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path / "run", SETTINGS) as run:
        for call in (run.piece, run.drop, lambda n: run.write(n, lambda p: p.write_bytes(b"x"))):
            with pytest.raises(StoreError, match="no name for a piece"):
                call(name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_links_out_of_the_run_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with open_run(tmp_path / "run", SETTINGS) as run:
        (tmp_path / "run" / "tables").symlink_to(tmp_path / "out")
        with pytest.raises(StoreError, match="is a link"):
            run.write("tables/a", lambda p: p.write_bytes(b"x"))
        with pytest.raises(StoreError, match="not a plain file"):
            run.write("scores", lambda p: (p.mkdir(), (p / "x").symlink_to("/etc/passwd")))
    assert not list((tmp_path / "out").iterdir()) and not litter(tmp_path)


def test_numbers_in_the_manifest_are_finite_and_the_log_may_be_cut(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS) as run:
        with pytest.raises(ValueError, match="finite"):
            run.note(x=float("nan"))
        with pytest.raises(ValueError, match="pieces"):
            run.describe(pieces={})
        run.note(by_layer={10: 1.0, 9: 2.0})
        run.log("fit", "done", seconds=1.5)
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(b'{"time": "20')
    with open_run(tmp_path, None) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log("fit", "resumed")
    assert [event["event"] for event in read_log(tmp_path)] == ["done", "resumed"]


def test_a_dropped_piece_is_gone(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS) as run:
        run.write("parts/0.npy", lambda p: p.write_bytes(b"x"))
        run.drop("parts/0.npy")
        run.drop("parts/1.npy")
        assert run.piece("parts/0.npy") is None and not (tmp_path / "parts" / "0.npy").exists()
