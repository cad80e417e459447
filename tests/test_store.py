"""A run's directory survives what disks and operators do to it, or says by name what is wrong."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import faults
import pytest

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


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    faults.job(tmp_path)
    before = faults.contents(tmp_path)
    asked = {"model": "tiny", "length": 16, "damping": 1.0}
    with pytest.raises(OtherSettings) as refused:
        open_run(tmp_path, asked)
    text = str(refused.value)
    assert "length: 8 there, 16 now" in text and "damping: 0.1 there, 1.0 now" in text
    assert "model" not in text.replace(str(tmp_path), "")
    assert faults.contents(tmp_path) == before
    assert isinstance(refused.value, ValueError)


def test_a_run_without_pieces_takes_any_settings(tmp_path: Path) -> None:
    with open_run(tmp_path, {"data": "typo.txt", "length": 8}) as run:
        run.identify(model="abc")
    with open_run(tmp_path, {"data": "text.txt"}) as run:
        run.identify(model="xyz")
        run.write("a.bin", lambda p: p.write_bytes(b"x"))
    assert read_manifest(tmp_path)["settings"] == {"data": "text.txt", "length": 8}
    with pytest.raises(OtherSettings):
        open_run(tmp_path, {"data": "typo.txt"})


def test_a_later_stage_adds_its_own_settings(tmp_path: Path) -> None:
    faults.job(tmp_path)
    with open_run(tmp_path, {"queries": "q.jsonl"}) as run:
        assert run.piece("scores.zarr")
    assert read_manifest(tmp_path)["settings"] == {**SETTINGS, "queries": "q.jsonl"}
    with pytest.raises(OtherSettings, match=r"queries: 'q\.jsonl' there, 'r\.jsonl' now"):
        open_run(tmp_path, {"queries": "r.jsonl"})


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
