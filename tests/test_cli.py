"""The command: quick to say what it can do, clear about what it cannot, and the same as the Python call."""

from __future__ import annotations

import inspect
import json
import resource
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import job_case
import pytest

import influence
from influence.cli import blocks, fit, job, report, run, score, show, truth
from influence.cli.app import COMMANDS, command, exit_code
from influence.cli.config import to_toml
from influence.store import Busy, OtherSettings, WriteFailed, open_run, read_manifest

START = "from influence.cli import main; main()"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return job_case.make(tmp_path_factory.mktemp("case"))


def seconds_of(*arguments: str) -> float:
    """Processor seconds of one call of the command, the least of three."""
    best = 9.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", START, *arguments], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_comes_at_once(arguments: list[str]) -> None:
    assert seconds_of(*arguments) < 0.3


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys, influence\n"
        "from influence.cli.app import command\n"
        "command(['--help']); command(['run', '--help']); command(['rum'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'xarray', 'altair', 'scipy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert command(["run", "--help"]) == 0
    text = capsys.readouterr().out
    flags = [f"--{name.replace('_', '-')}" for name in inspect.signature(run.run).parameters]
    assert all(flag in text for flag in flags) and "Training rows" in text


def same(cli: Callable[..., Any], api: Callable[..., Any], extra: set[str]) -> None:
    """Names, order and defaults of a command are those of the function behind it."""
    ours, theirs = inspect.signature(cli).parameters, inspect.signature(api).parameters
    assert [n for n in ours if n not in extra] == [
        n for n in theirs if theirs[n].kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name in set(ours) - extra:
        assert ours[name].default == theirs[name].default, name


def test_commands_and_functions_have_the_same_names_and_defaults() -> None:
    same(run.run, influence.run, {"config", "python"})
    same(score.score, job.score, set())
    same(truth.truth, influence.truth_of, set())
    fitted = inspect.signature(fit.fit).parameters
    whole = inspect.signature(influence.run).parameters
    for name in set(fitted) - {"config"}:
        assert fitted[name].default == whole[name].default, name
    assert set(whole) - set(fitted) == {"queries", "solver", "solver_steps", "top", "report"}
    opened = inspect.signature(influence.load).parameters
    assert set(inspect.signature(blocks.blocks).parameters) - {"model", "every"} <= set(opened)


def test_settings_of_the_job_are_those_of_the_functions_below() -> None:
    known = inspect.signature(influence.run).parameters
    for function in (influence.load, influence.corpus, influence.fit_ekfac):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in known and name not in ("queries", "dtype", "tokenizer"):
                assert known[name].default == parameter.default, (function, name)


@pytest.mark.parametrize("function", [run.run, fit.fit, score.score, truth.truth, report.report, blocks.blocks])
def test_signatures_have_plain_types(function: Callable[..., Any]) -> None:
    plain = {str, int, float, bool, type(None), str | None, int | None, tuple[str, ...]}
    hints = typing.get_type_hints(function)
    assert set(hints.values()) <= plain


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("rum m --data d --queries q", '"run"'),
        ("reprot r", '"report"'),
        ("run m --data d --queries q --lenght 3", "--length"),
        ("run m --data d --queries q --dampng 3", "--damping"),
        ("fit m --data d --batch-sise 3", "--batch-size"),
        ("truth r --patch-row 3", "--patch-rows"),
    ],
)
def test_a_typo_gets_a_suggestion(line: str, suggestion: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(shlex.split(line)) == 2
    caught = capsys.readouterr()
    assert f"Did you mean {suggestion}?" in " ".join(caught.err.split()) and "Traceback" not in caught.err
    assert not caught.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run m --data d", "--queries"),
        ("run m --data d --queries q --length x", "unable to convert"),
        ("run m --data d --queries q --config none.toml", "there is no file none.toml"),
        ("report {tmp}", "holds no run"),
        ("report {tmp}/none", "holds no run"),
        ("truth {tmp}", "holds no run"),
        ("truth {tmp} --queries 0", "queries is 0"),
        ("run {model} --data {tmp}/none.txt --queries {queries} --out {tmp}/o", "none.txt"),
        ("run {model} --data {data} --queries {tmp}/none.jsonl --out {tmp}/o", "none.jsonl"),
        ("run {model} --data {data} --queries {queries} --blocks nothing --out {tmp}/o", "nothing"),
        ("run {model} --data {data} --queries {queries} --length 99999 --out {tmp}/o", "context"),
        ("run {model} --data {data} --queries {empty} --out {tmp}/o", "completion is empty"),
        ("run {model} --data {data} --queries {queries} --labels dat --no-pack --length 48 --out {tmp}/o", "labels"),
        (
            "run {model} --data {data} --queries {queries} --batch-size 0 --no-pack --length 48 --out {tmp}/o",
            "batch_size",
        ),
        ("run {model} --data {data} --queries {queries} --damping=-1 --no-pack --length 48 --out {tmp}/o", "damping"),
        ("run {model} --data {blank} --queries {queries} --length 48 --out {tmp}/o", "blank.txt"),
        ("run {model} --data {latin} --queries {queries} --length 48 --out {tmp}/o", "latin.txt"),
        ("run {model} --data {data} --queries {queries} --out {latin}", "cannot write"),
    ],
)
def test_bad_input_is_one_clear_message(
    line: str, said: str, given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1") * 9)
    (tmp_path / "empty.jsonl").write_text('{"prompt": "A", "completion": ""}\n')
    files = {"blank": tmp_path / "blank.txt", "latin": tmp_path / "latin.txt", "empty": tmp_path / "empty.jsonl"}
    code = command(shlex.split(line.format(tmp=tmp_path, **given, **files)))
    caught = capsys.readouterr()
    assert code == (1 if "cannot write" in said else 2), caught.err
    assert said in caught.err and "Traceback" not in caught.err
    assert not list(tmp_path.rglob("*.partial*"))


def test_a_file_gives_what_flags_would(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        to_toml({**given, "pack": False, "accept_untracked": ["a*", "b"], "batch_size": 4, "report": False})
    )
    flags = ["--no-pack", "--accept-untracked", "a*", "--accept-untracked", "b", "--batch-size", "4", "--no-report"]
    asked = [given["model"], "--data", given["data"], "--queries", given["queries"]]
    said = []
    for line in (["--config", str(file)], asked + flags, [*asked, "--config", str(file), "--batch-size", "4"]):
        assert command(["run", *line, "--python"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and "batch_size=4" in said[0] and "pack=False" in said[0]
    assert command(["run", "--config", str(file), "--batch-size", "7", "--report", "--python"]) == 0
    text = capsys.readouterr().out
    assert "batch_size=7" in text and "report" not in text and "damping" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lenght = 3", "Did you mean --length?"),
        ("[run]\nlength = 3", "run"),
        ("config = 'x.toml'\nmodell = 'x'", "modell"),
        ("length = 'x'", "unable to convert"),
        ("length = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_key_or_value_in_a_file_is_fatal(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert command(["run", "m", "--data", "d", "--queries", "q", "--config", str(file), "--python"]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_settings_survive_the_way_through_a_file() -> None:
    settings = {"a": 'quote " \\ and \n line \x7f \x01 é 🙂', "b": 0.1, "c": 3, "d": True, "e": ["x", "y"], "f": None}
    settings["g"] = "<LM>"
    found = tomllib.loads(to_toml(settings))
    assert found == {k: v for k, v in settings.items() if k not in ("f", "g")}


def test_run_ends_with_a_table_the_report_and_the_next_command(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [given["model"], "--data", given["data"], "--queries", given["queries"], "--no-pack", "--length", "48"]
    assert command(["run", *line, "--top", "3", "--no-progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = next((tmp_path / "runs").iterdir())
    assert "α" in lines[0] and len(lines) <= 25
    assert lines[-4].startswith("tracked  ") and lines[-3].startswith(f"run      runs/{folder.name}")
    assert lines[-2] == f"report   runs/{folder.name}/report.html" and lines[-1].startswith("next     influence ")
    assert (folder / "report.html").stat().st_size > 10_000

    before = job_case.numbers(folder)
    monkeypatch.chdir(folder)
    assert command(["run", "--config", "config.toml", "--out", ".", "--no-progress"]) == 0
    assert job_case.numbers(folder) == before
    (folder / "report.html").unlink()
    assert command(["report", str(folder)]) == 0
    assert "report" in capsys.readouterr().out and (folder / "report.html").exists()


def test_blocks_shows_what_is_tracked(given: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["blocks", given["model"]]) == 0
    text = capsys.readouterr().out
    assert "gpt_neox.layers.*.mlp.dense_h_to_4h" in text and "100.0% of the linear maps" in text and "next" in text
    assert command(["blocks", given["model"], "--blocks", "mlp", "--every"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("mlp" in line for line in lines) == 4


def test_doctor_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["doctor"]) == 0
    assert "torch" in (text := capsys.readouterr().out) and "free disk" in text


def test_interrupted_it_says_how_to_go_on(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("influence.attribution.fit.fit_ekfac", interrupted)
    line = ["run", given["model"], "--data", given["data"], "--queries", given["queries"], "--out", str(tmp_path / "r")]
    assert command([*line, "--no-pack", "--length", "48", "--no-progress"]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert read_manifest(tmp_path / "r")["pieces"]


def test_errors_have_codes_and_bugs_keep_their_traceback(tmp_path: Path) -> None:
    def raised(work: Callable[[], Any]) -> Exception:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            work()
        return caught.value

    assert exit_code(OtherSettings("x")) == 2 and exit_code(Busy("x")) == 1 and exit_code(WriteFailed("x")) == 1
    assert exit_code(MemoryError()) == 1 and exit_code(FileNotFoundError("x")) == 2 and exit_code(OSError("x")) == 1
    assert exit_code(raised(lambda: show.table(["a"], [["b", "c"]]))) == 2  # zip in our code: ValueError
    assert exit_code(raised(lambda: json.loads("{"))) is None and exit_code(raised(lambda: [][1])) is None
    assert exit_code(raised(lambda: open_run(tmp_path / "none", None))) == 2


def test_text_of_strangers_cannot_move_the_cursor() -> None:
    hostile = "a\x1b[2Jb\x07\r\nc\u202ed\u2028e\x9bf\tg"
    assert show.printable(hostile) == "a [2Jb c d e f g"
    shown = show.table(["x"], [[hostile]] * 40, "there")
    assert len(shown.splitlines()) == 20 and "23 more in there" in shown
    assert not any(ord(c) < 32 and c != "\n" for c in shown)


def test_tables_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = show.table(["query", "nats"], [["long " * 40, "+1.5"], ["short", "-0.25"]])
    assert max(map(len, text.splitlines())) <= 70 and "…" in text
    assert text.splitlines()[2].endswith(" +1.5") and text.splitlines()[3].endswith("-0.25")
    assert show.number(None) == show.number(float("nan")) == "–"
