"""Training: it learns, it goes on bit by bit after any interruption, and it says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from influence.model import schedule
from influence.model.batches import BadRows
from influence.model.recall import recall
from influence.model.sizes import SIZES, Size, neox
from influence.model.together import Job, train_together
from influence.model.train import initial, train, trained_already
from influence.store.errors import OtherSettings, WriteFailed

VOCAB = 40
CONFIG = neox(Size(1, 16, 1e-2), VOCAB, heads=2, context=16)
SETTINGS = {"lr": 1e-2, "steps": 40, "batch_tokens": 48, "warmup": 4, "checkpoints": 3, "save_every": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Sentences that go up by one: the first token says all the others."""
    rng = np.random.default_rng(0)
    ids = [[1 + (int(a) + k) % (VOCAB - 1) for k in range(int(n))] for a, n in rng.integers(3, 12, (60, 2))]
    masks = [[0] + [1] * (len(one) - 1) for one in ids]
    return datasets.Dataset.from_dict({"input_ids": ids, "loss_mask": masks, "row": list(range(60))})


def run(folder: Path, rows: datasets.Dataset, **changed):
    return train(folder, CONFIG, rows, **{**SETTINGS, "progress": False, **changed})


def weights(folder: Path) -> dict[str, bytes]:
    names = sorted(folder.rglob("model.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("whole") / "model"
    return folder, run(folder, rows).losses


def test_loss_falls_and_the_model_loads(whole, rows) -> None:
    from transformers import AutoModelForCausalLM

    folder, losses = whole
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    net = AutoModelForCausalLM.from_pretrained(folder / "final")
    untrained = AutoModelForCausalLM.from_pretrained(folder / "steps" / "step-000000")
    assert recall(net, rows).mean() > 0.5 > recall(untrained, rows).mean()
    assert not (folder / "state.safetensors").exists()
    assert sorted(path.name for path in (folder / "steps").iterdir()) == [
        f"step-{step:06d}" for step in (0, 1, 3, 12, 40)
    ]


def test_recall_is_greedy_decoding(whole, rows) -> None:
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(whole[0] / "steps" / "step-000012")
    masks = [[0] * 2 + [1] * (len(ids) - 2) for ids in rows["input_ids"]]
    asked = rows.remove_columns("loss_mask").add_column("loss_mask", masks)
    asked = asked.filter(lambda ids: len(ids) > 2, input_columns="input_ids")
    expected = []
    for ids in asked["input_ids"]:
        told = net.generate(torch.tensor([ids[:2]]), max_new_tokens=len(ids) - 2, do_sample=False, eos_token_id=-1)
        expected.append(told[0].tolist() == ids)
    assert recall(net, asked, batch_size=7).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert net.training is False


class Stop(Exception):
    pass


@pytest.mark.parametrize("last", [1, 7, 8, 23, 40])
def test_interrupted_training_ends_with_the_same_bits(whole, rows, tmp_path, last: int) -> None:
    def stop(done: int, steps: int, loss: float) -> None:
        if done == last:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "m", rows, progress=stop)
    again = run(tmp_path / "m", rows)
    assert again.losses == whole[1]
    assert weights(tmp_path / "m") == weights(whole[0])


def test_a_finished_training_is_recognised(whole, rows) -> None:
    def never(done: int, steps: int, loss: float) -> None:
        raise Stop

    assert run(whole[0], rows, progress=never).losses == whole[1]
    done = trained_already(whole[0], CONFIG, rows, **SETTINGS)
    assert done == run(whole[0], rows)
    assert trained_already(whole[0].with_name("none"), CONFIG, rows, **SETTINGS) is None
    assert set(done.checkpoints) == {0, 1, 3, 12, 40}
    assert all((path / "config.json").exists() for path in [done.final, *done.checkpoints.values()])


def test_other_settings_are_refused_with_the_difference(whole, rows) -> None:
    with pytest.raises(OtherSettings, match=r"lr: 0\.01 there, 0\.02 asked for"):
        run(whole[0], rows, lr=0.02)
    with pytest.raises(OtherSettings, match="rows: "):
        run(whole[0], rows.select(range(50)))
    with pytest.raises(OtherSettings, match=r"config\.num_hidden_layers"):
        train(whole[0], neox(Size(2, 16, 1e-2), VOCAB, heads=2, context=16), rows, **SETTINGS, progress=False)


def test_damage_is_recognised_and_made_good(whole, rows, tmp_path) -> None:
    def stop(done: int, steps: int, loss: float) -> None:
        if done == 20:
            raise Stop

    folder = tmp_path / "m"
    with pytest.raises(Stop):
        run(folder, rows, progress=stop)
    state = folder / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-100] ^= 1
    state.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert run(folder, rows).losses == whole[1]
    final = folder / "final" / "model.safetensors"
    final.write_bytes(final.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"final is not what was saved"):
        run(folder, rows)
    assert weights(folder) == weights(whole[0])


@pytest.mark.parametrize("nth", [1, 2, 4, 6, 9])
def test_a_full_disk_loses_nothing(whole, rows, tmp_path, monkeypatch, nth: int) -> None:
    """Every write of a piece ends with an fsync, so failing the n-th fsync fails the n-th piece."""
    calls = 0
    real = os.fsync

    def full(number: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteFailed, match="No space left on device; free some space") as caught:
            run(tmp_path / "m", rows)
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "m").rglob(".*.partial"))
    assert run(tmp_path / "m", rows).losses == whole[1]
    assert weights(tmp_path / "m") == weights(whole[0])


def test_a_folder_that_cannot_be_written(rows, tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WriteFailed, match="Not a directory"):
        run(tmp_path / "file" / "m", rows)


def test_a_loss_that_is_not_finite(rows, tmp_path) -> None:
    with pytest.raises(FloatingPointError, match=r"At step \d+ of 40 .*smaller lr"):
        run(tmp_path / "m", rows, lr=1e30, clip=1e30, warmup=1)


def test_bad_rows_and_settings(rows, tmp_path) -> None:
    def with_ids(ids: list[int]) -> datasets.Dataset:
        masks = [[0] + [1] * (len(ids) - 1)]
        return datasets.Dataset.from_dict({"input_ids": [ids], "loss_mask": masks, "row": [5]})

    with pytest.raises(ValueError, match="token 40, but the model's vocabulary has 40"):
        run(tmp_path, with_ids([1, 40]))
    with pytest.raises(ValueError, match="Row 5 has 17 tokens, but the model's context is 16"):
        run(tmp_path, with_ids([1] * 17))
    with pytest.raises(BadRows, match="no rows"):
        run(tmp_path, rows.select([]))
    for bad in ({"lr": 0}, {"steps": 0}, {"batch_tokens": 0}, {"save_every": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            run(tmp_path, rows, **bad)
    with pytest.raises(ValueError, match="shares"):
        run(tmp_path, rows, checkpoints=[1.5])
    assert not list(tmp_path.iterdir())


def test_nothing_global_is_touched(rows, tmp_path) -> None:
    before = torch.random.get_rng_state()
    one, other, third = initial(CONFIG, 0), initial(CONFIG, 0), initial(CONFIG, 1)
    run(tmp_path / "m", rows, steps=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(third.parameters()))


def test_epochs_show_every_row_once_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 700)
    first, again, second = (schedule.epoch(lengths, 3, number, 256) for number in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(700))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    padded = [len(places) * lengths[places].max() for places in first]
    assert max(padded) <= 256
    assert lengths.sum() / sum(padded) > 0.8
    assert len(schedule.epoch(np.array([500, 3]), 0, 0, 256)) == 2


def test_steps_rates_and_kept_steps() -> None:
    lengths = np.full(100, 10)
    once = len(schedule.epoch(lengths, 0, 0, 50))
    assert schedule.steps_for(lengths, 0, 50, 1000) == once
    assert schedule.steps_for(lengths, 0, 50, 1001) == once + 1
    rates = [schedule.rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], abs=0.02)
    assert rates[-1] < 0.001
    assert schedule.kept_steps(1000, 3) == [0, 1, 10, 100, 1000]
    assert schedule.kept_steps(1000, [0.6, 0.8, 1.0]) == [0, 600, 800, 1000]
    assert schedule.kept_steps(5, 0) == [0, 5]


def test_sizes() -> None:
    config = neox("d128", 2048)
    assert (config.num_hidden_layers, config.hidden_size) == (4, 128)
    assert SIZES["d128"].options == {"lr": 4e-3, "weight_decay": 0.45}
    with pytest.raises(ValueError, match="Unknown size 'd1'; choose from d32"):
        neox("d1", 2048)
    with pytest.raises(ValueError, match="heads"):
        neox(Size(1, 10, 1e-3), 64)


def test_two_at_a_time_in_processes(whole, rows, tmp_path) -> None:
    good = Job(tmp_path / "a", CONFIG, SETTINGS)
    seeded = Job(tmp_path / "b", CONFIG, {**SETTINGS, "seed": 1})
    one, two = train_together([good, seeded], rows, progress=False)
    assert one.losses == whole[1]
    assert two.losses != one.losses
    assert weights(tmp_path / "a") == weights(whole[0])
    assert (set(one.checkpoints), one.final) == ({0, 1, 3, 12, 40}, tmp_path / "a" / "final")
    with pytest.raises(OtherSettings, match="lr: 0"):
        train_together([good._replace(options={**SETTINGS, "lr": 0.5})], rows, progress=False)


SLOW = """
import json, sys, time
import numpy as np, torch
from influence.model.plan import TokenRows
from influence.model.train import train
torch.set_num_threads(1)
ids, masks, row = json.loads(sys.argv[1])
def slow(done, steps, loss):
    print(done, flush=True)
    time.sleep(0.03)
rows = TokenRows([np.array(x) for x in ids], [np.array(x) for x in masks], np.array(row))
train(rows=rows, progress=slow, **json.loads(sys.argv[2]))
"""


def test_killed_at_any_moment(whole, rows, tmp_path) -> None:
    """SIGKILL between start and end of a process that takes its time over every step."""
    plain = [rows["input_ids"][:], rows["loss_mask"][:], rows["row"][:]]
    asked = {**SETTINGS, "folder": str(tmp_path / "m"), "config": CONFIG.to_dict()}
    command = [sys.executable, "-c", SLOW, json.dumps(plain), json.dumps(asked)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    rng = np.random.default_rng(time.time_ns() % 2**32)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        stop = int(rng.integers(1, 36))
        for count, _ in enumerate(process.stdout):
            if count == stop:
                time.sleep(float(rng.uniform(0, 0.03)))
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "m" / "finished.json").exists()
    assert run(tmp_path / "m", rows).losses == whole[1]
    assert weights(tmp_path / "m") == weights(whole[0])
