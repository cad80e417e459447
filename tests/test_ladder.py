"""The ladder: same bytes after a kill and when shared, exact steps, models that belong together, clear refusals."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import influence
from influence.cli.app import command
from influence.cli.ladder import ladder as ladder_command
from influence.data.agree import difference
from influence.data.tokenizer import train_tokenizer
from influence.model.load import BadModel
from influence.model.peek import Seen
from influence.model.sizes import SIZES, Size, neox
from influence.model.train import initial
from influence.store import NotARun, OtherSettings, WriteFailed
from influence.study import ladder as laddering
from influence.study import opening
from influence.study.opening import BadLadder, open_ladder
from influence.study.presets import PRESETS
from influence.study.tables import curve

TEXTS = [
    f"{name} has {number} {what}."
    for name in ("Ada", "Ben", "Carl")
    for number in range(12)
    for what in ("cows", "hens")
]
SIZES_HERE = {"a": Size(1, 8, 1e-2, heads=2), "b": Size(2, 16, 1e-2, heads=2)}
ASKED = {
    "data": TEXTS, "sizes": SIZES_HERE, "seeds": 2, "tokens": 500, "batch_tokens": 32, "checkpoints": 4,
    "vocab": 280, "length": 8, "processes": 1, "progress": False,
}  # fmt: skip
STEPS = [0, 1, 2, 4, 8, 16]


def content(root: Path) -> dict[str, bytes]:
    """Every file but the log and the locks."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name not in ("log.jsonl", ".lock")]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files if ".locks" not in p.parts}


def trained(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "ladder"
    influence.ladder(root, **ASKED)
    return root


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_every_size_and_seed_with_exact_log_spaced_steps(whole: Path) -> None:
    found = open_ladder(whole)
    frame = found.models
    assert list(frame.columns[:9]) == [
        "model", "size", "parameters", "n_layers", "seed", "step", "loss", "untrained", "folder"
    ]  # fmt: skip
    assert sorted(set(frame["model"])) == ["a-s0", "a-s1", "b-s0", "b-s1"]
    assert all(part["step"].tolist() == STEPS for _, part in frame.groupby("model"))
    assert frame["untrained"].tolist() == [step == 0 for step in frame["step"]]
    assert found.sizes == ["a", "b"] and found.final["step"].tolist() == [16] * 4
    by_size = frame.drop_duplicates("size").set_index("size")
    for size in ("a", "b"):
        net = found.load(f"{size}-s0").net
        assert by_size.parameters[size] == sum(p.numel() for p in net.parameters())
        assert by_size.n_layers[size] == SIZES_HERE[size].layers
    assert (frame[frame.step == 16].loss.values < frame[frame.step == 0].loss.values).all()


def test_held_out_loss_is_that_of_rows_never_trained_on(whole: Path) -> None:
    found = open_ladder(whole)
    lm = found.load("b-s1", 4)
    rows, unseen = found.rows(lm), found.rows(lm, "held_out")
    assert not set(map(tuple, rows["input_ids"])) & set(map(tuple, unseen["input_ids"]))
    assert not set(rows["row"]) & set(unseen["row"])
    total = scored = 0.0
    with torch.no_grad():
        for ids in unseen["input_ids"]:
            logits = lm.net(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
            total -= float(logits.gather(1, torch.tensor(ids)[1:, None]).sum())
            scored += len(ids) - 1
    assert found.line("b-s1", 4)["loss"] == pytest.approx(total / scored, rel=1e-6)


def test_the_untrained_model_is_the_seed_s_first_weights(whole: Path) -> None:
    one, other = (open_ladder(whole).load(model, 0).net for model in ("a-s0", "a-s1"))
    drawn = initial(one.config, 1)
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), drawn.parameters(), strict=True))
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_loss_curves(whole: Path) -> None:
    assert [list(x) for x in curve([4.0, 2.0, 1.0, 1.0], points=3)] == [[1, 2, 4], [4.0, 2.0, 1.0]]
    losses = list(np.random.default_rng(0).random(777))
    steps, means = curve(losses)
    assert np.average(means, weights=np.diff(np.r_[0, steps])) == pytest.approx(np.mean(losses))
    frame = open_ladder(whole).losses()
    held = frame[(frame.kind == "held-out") & (frame.model == "a-s0")]
    assert held["step"].tolist() == STEPS
    assert set(frame["kind"]) == {"training", "held-out"}


SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import influence.model.train as t
from influence.study.ladder import ladder
root, asked, doomed = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "doomed"
real, steps = t._step, []
def step(*given):
    while not steps and len({(root / f".locks/b-s{s}.lock").read_text() for s in (0, 1)} - {""}) < 2:
        time.sleep(0.02)  # until each of two processes holds one
    steps.append(1)
    if doomed and len(steps) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
t._step = step
(root / ".locks").mkdir(parents=True, exist_ok=True)
for s in (0, 1):
    (root / f".locks/b-s{s}.lock").touch()
ladder(root, **asked)
"""


def start(root: Path, fate: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    asked = {**ASKED, "sizes": {name: size._asdict() for name, size in SIZES_HERE.items()}}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), json.dumps(asked), fate], env=env)


def test_two_processes_share_and_one_takes_over_from_the_killed(whole: Path, tmp_path: Path) -> None:
    """Each begins with one of the two larger models; one is killed between two checkpoints of its own."""
    root = tmp_path / "shared"
    with start(root, "doomed") as one, start(root, "whole") as other:
        assert one.wait(200) == -signal.SIGKILL
        assert other.wait(200) == 0
    assert sorted(line["model"] for line in trained(root)) == ["a-s0", "a-s1", "b-s0", "b-s1"]
    assert {line["process"] for line in trained(root)} == {other.pid}
    assert content(root) == content(whole)


def test_models_in_processes_of_their_own_have_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    for name in ("settings.json", "README.md"):
        shutil.copy(whole / name, tmp_path / "apart" / name)
    for name in ("a-s0", "a-s1", "b-s1"):
        shutil.copytree(whole / "models" / name, tmp_path / "apart" / "models" / name)
    influence.ladder(tmp_path / "apart", **{**ASKED, "processes": 2})
    assert sorted(line["model"] for line in trained(tmp_path / "apart")) == ["b-s0"]
    assert content(tmp_path / "apart") == content(whole)


@pytest.mark.parametrize("nth", [5, 23])
def test_a_full_disk_at_any_write(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    calls, real = 0, os.fsync

    def full(number: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4 * nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteFailed, match="No space left on device; free some space"):
            influence.ladder(tmp_path / "l", **ASKED)
    influence.ladder(tmp_path / "l", **ASKED)
    assert content(tmp_path / "l") == content(whole)


def test_a_disk_too_small_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(WriteFailed, match=r"need about 0\.0 GB .* fewer checkpoints"):
        influence.ladder(tmp_path / "l", **ASKED)
    assert not (tmp_path / "l" / "settings.json").exists()


def test_damage_is_recognised_and_made_good(whole: Path, copy: Path) -> None:
    weights = copy / "models/a-s1/steps/step-000002/model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ValueError, match="step-000002 is damaged"):
        open_ladder(copy).load("a-s1", 2)
    (copy / "corpus/train.parquet").write_bytes(b"no rows")
    with pytest.warns(UserWarning, match="damaged") as said:
        influence.ladder(copy, **ASKED)
    told = " ".join(str(one.message) for one in said)
    assert "corpus/train.parquet is not what was saved" in told
    assert "steps/step-000002 is not what was saved" in told
    assert content(copy) == content(whole)
    assert [line["model"] for line in trained(copy)][4:] == ["a-s1"]


def test_other_settings_are_refused_with_the_difference(whole: Path, tmp_path: Path) -> None:
    before = content(whole)
    with pytest.raises(OtherSettings, match=r"seeds: \[0, 1\] there, \[0, 1, 2\] asked for"):
        influence.ladder(whole, **{**ASKED, "seeds": 3})
    with pytest.raises(OtherSettings, match=r"corpus\.sha256"):
        influence.ladder(whole, **{**ASKED, "data": TEXTS[1:]})
    with pytest.raises(OtherSettings, match="threads: 1 there, 2 asked for"):
        influence.ladder(whole, **{**ASKED, "threads": 2})
    assert content(whole) == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(NotARun, match="is not empty and holds no ladder"):
        influence.ladder(tmp_path, **ASKED)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preset": "day"}, "no preset 'day'; choose from\n  minutes: "),
        ({"sizes": ["d32", "d33"]}, "unknown sizes: d33; choose from d32, d64"),
        ({"sizes": ["d32", "d32"]}, "given twice: d32"),
        ({"sizes": {"x": {"layers": 1}}}, "give a Size, or a mapping with layers, width"),
        ({"sizes": {"../x": SIZES["d32"]}}, "no name for a size"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]"),
        ({"tokens": 0}, "tokens is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16'"),
        ({"data": TEXTS[:3], "length": 100}, "at least 10 are needed"),
        ({"tokens": None}, r"preset would show each of them \d+ times; give at least 5,468 tokens"),
        ({"data": ["a b"] * 50, "pack": False}, "1 of them different"),
        ({"data": [{"input_ids": [1, 2]}] * 20}, "name the tokenizer"),
        ({"tokenizer": "gone/nowhere", "vocab": None}, "cannot open a tokenizer"),
        ({"device": "cuda:99"}, "CUDA device"),
        ({"device": "gpu"}, "names none"),
    ],
)
def test_bad_input_is_refused(changed: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        influence.ladder(tmp_path / "l", **{**ASKED, **changed})
    assert not (tmp_path / "l" / "settings.json").exists()


def test_presets_keep_their_word() -> None:
    for one in PRESETS.values():
        assert set(one.sizes) <= set(SIZES)
    assert len(PRESETS["hour"].sizes) >= 4 and PRESETS["hour"].seeds >= 3
    asked = laddering.understood({**laddering.ladder.__kwdefaults__, "out": "x", "preset": "hour", "progress": False})
    assert asked.names[:3] == ["d256-s0", "d256-s1", "d256-s2"] and asked.names[-1] == "d32-s2"
    assert laddering.understood({**laddering.ladder.__kwdefaults__, "out": "x"}).settings["compute_dtype"] is None
    top = PRESETS["gpu"].sizes[-1]
    from influence.model.peek import shape_of

    assert shape_of(neox(top, PRESETS["gpu"].vocab)).parameters > 30e6


def test_models_with_other_tokenizers_are_no_ladder(whole: Path, copy: Path) -> None:
    stranger = copy / "models/b-s0/final"
    train_tokenizer(["other words entirely " * 3], stranger, vocab=270)
    with pytest.raises(
        BadLadder, match=r"^final \(.*a-s0/final\) and big \(.*b-s0/final\) have different tokenizers: 280"
    ):
        open_ladder({"final": whole / "models/a-s0/final", "big": stranger})
    one = train_tokenizer(TEXTS, vocab=280)
    assert difference(one, train_tokenizer(TEXTS, vocab=280)) is None
    assert "is number" in str(difference(one, train_tokenizer([t.upper() for t in TEXTS], vocab=280)))


def test_one_size_and_missing_checkpoints_are_named(whole: Path, copy: Path) -> None:
    with pytest.warns(UserWarning, match=r"one size only \(a\): questions about scale are skipped"):
        found = open_ladder({"a": [whole / "models/a-s0", whole / "models/a-s1"]})
    assert found.models["model"].unique().tolist() == ["a-s0", "a-s1"] and len(found.models) == 12
    with pytest.warns(UserWarning, match=r"left out: a-s0 at step 3 \(it has 0, 1, 2, 4, 8, 16\); a-s1 at step 3"):
        assert open_ladder(whole, steps=[3, 16]).models["step"].unique().tolist() == [16]
    with pytest.raises(BadLadder, match="no checkpoint of these steps: a-s0 at step 5"):
        open_ladder(whole, steps=[5])
    (copy / "models/b-s1/finished.json").unlink()
    with pytest.warns(UserWarning, match=r"not trained yet and left out: b-s1; `influence ladder"):
        assert open_ladder(copy).models["model"].nunique() == 3
    with pytest.raises(ValueError, match=r"no model 'c'; it has a-s0, a-s1, b-s0, b-s1"):
        open_ladder(whole).load("c")
    with pytest.raises(ValueError, match="a-s0 has no step 3"):
        open_ladder(whole).load("a-s0", 3)
    with pytest.raises(BadLadder, match="no models are given"):
        open_ladder([])
    with pytest.raises(BadLadder, match="nothing was found of"):
        open_ladder([str(whole / "nowhere")])


def test_hub_names_with_revisions(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"org/p-70m": Seen(70, 6), "org/p-160m": Seen(160, 12)}

    def peek(name: str, revision: str | None = None) -> Seen:
        if revision == "step512" and name == "org/p-160m":
            raise BadModel(f"there is no causal language model {name!r} at revision {revision!r}")
        return shapes[name]

    tokenizer = open_ladder(whole).load("a-s0").tokenizer
    monkeypatch.setattr(opening, "peek", peek)
    monkeypatch.setattr(opening, "tokenizer_of", lambda name, revision: tokenizer)
    with pytest.warns(UserWarning, match=r"left out: there is no .*'org/p-160m' at revision 'step512'"):
        found = open_ladder(list(shapes), steps=[0, 512, 1000])
    assert found.models[["model", "step", "revision"]].values.tolist() == [
        ["p-70m", 0, "step0"], ["p-70m", 512, "step512"], ["p-70m", 1000, "step1000"],
        ["p-160m", 0, "step0"], ["p-160m", 1000, "step1000"],
    ]  # fmt: skip
    assert found.sizes == ["p-70m", "p-160m"] and found.models["untrained"].sum() == 2
    assert "–" in str(found) and found._repr_html_().startswith("<table")
    named = open_ladder({"70m": "org/p-70m@step1000", "160m": "org/p-160m"}).models
    assert named["step"].tolist() == [1000, -1] and named["n_layers"].tolist() == [6, 12]
    with pytest.raises(ValueError, match="were not trained here"):
        found.losses()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, api = (inspect.signature(one).parameters for one in (ladder_command, influence.ladder))
    assert [(name, ours[name].default) for name in ours] == [(name, api[name].default) for name in api]
    (tmp_path / "t.txt").write_text("\n\n".join(TEXTS))
    asked = ["ladder", str(tmp_path / "l"), "--data", str(tmp_path / "t.txt"), "--sizes", "d32", "--seeds", "1"]
    asked += ["--tokens", "300", "--length", "8", "--vocab", "280", "--processes", "1", "--no-progress"]
    assert command(asked) == 0
    said = capsys.readouterr()
    lines = said.out.rstrip().splitlines()
    assert len(lines) <= 20 and lines[2].split()[:2] == ["d32", "2"]
    assert lines[-1].startswith("next     influence run ") and "d32-s0/final --data " in lines[-1]
    assert "questions about scale are skipped" in said.err
    assert command([*asked, "--batch-tokens", "128"]) == 2
    assert "batch_tokens: 256 there, 128 asked for" in capsys.readouterr().err
