"""Tasks shared by processes: one holder at a time, devices dealt out, the first failure told."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from influence.store.share import share
from influence.study import ladder as laddering


def test_devices_are_dealt_to_workers_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = laddering.understood({**laddering.ladder.__kwdefaults__, "out": "x", "preset": "gpu"})
    alone, second = laddering._Rank(0, 0, 1), laddering._Rank(3, 1, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="this machine shows none; give device='cpu'"):
        laddering._crew(asked, alone, None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert laddering._crew(asked, alone, None) == ["cuda:0", "cuda:1"]
    assert laddering._crew(asked, alone, 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert laddering._crew(asked, second, None) == ["cuda:1"]
    assert laddering._crew(asked._replace(device="cpu"), second, None) == ["cpu"]
    monkeypatch.setattr(laddering, "_cores", lambda: 4)
    assert laddering._crew(asked._replace(device="cpu", threads=2), alone, None) == ["cpu"] * 2
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert laddering._rank() == second


def test_tasks_are_held_by_one_at_a_time_and_all_done(tmp_path: Path) -> None:
    guard, inside, done = threading.Lock(), set[str](), list[str]()

    def do(name: str, place: int) -> None:
        with guard:
            assert name not in inside
            inside.add(name)
        time.sleep(0.005)
        with guard:
            inside.discard(name)
            done.append(name)

    names = [f"t{k}" for k in range(6)]
    calls = [threading.Thread(target=share, args=(names, do, tmp_path), kwargs={"at_once": 2}) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(60)
    assert sorted(done) == sorted(names * 2)  # each call does each once: it recognises what the other has finished


def test_the_first_failure_of_a_shared_task_is_told_and_ends_the_others(tmp_path: Path) -> None:
    stopped, begun = threading.Event(), list[str]()

    def do(name: str, place: int) -> None:
        begun.append(name)
        if name == "bad":
            raise FloatingPointError("the cause")
        assert stopped.wait(30)
        raise RuntimeError("was stopped")

    with pytest.raises(FloatingPointError, match="the cause"):
        share(["long", "bad", "never"], do, tmp_path, at_once=2, stop=stopped.set)
    assert "never" not in begun
    with pytest.raises(ValueError, match="at_once is 0"):
        share([], do, tmp_path, at_once=0)
