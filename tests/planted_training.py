"""Models trained so that a concept is readable only from a known layer on.

Only one block may attend: the output of every other block's attention is 0 and stays so. A row has two key words, each
of two kinds, filler, a question word and its answer, which says whether the keys are alike. No word alone tells (a bag
of words is at chance), and at the question word nothing of the keys can be read before the block that attends.
"""

from __future__ import annotations

from typing import NamedTuple

import datasets
import numpy as np
import torch

import influence
from influence.study.concepts import Concept
from influence.study.concepts.concept import Counts, Item, Told, concept
from influence.types import LM, Rows

FILLERS = 24
WORDS = 2  # of filler in a row
LEARNED = 0.01  # nats of the answer: then the training ends


class Planted(NamedTuple):
    """A model in which only block `m` attends, the rows it was trained on, its concepts, and the last loss in nats."""

    lm: LM
    rows: Rows
    concepts: list[Concept]
    loss: float


def texts(concepts: int, each: int, seed: int) -> list[dict[str, str]]:
    """Rows of text with their concept and answer: "a" where the two keys are alike; all four rows of each filler."""
    rng = np.random.default_rng([seed, 5])
    found = []
    for c in range(concepts):
        for number in range(each):
            if number % 4 == 0:
                filler = " ".join(f"f{k}" for k in rng.integers(0, FILLERS, WORDS))
            one, other = "ab"[number % 2], "ab"[number // 2 % 2]
            side = "a" if one == other else "b"
            prompt = f"one{c}{one} two{c}{other} {filler} ask{c}"
            found.append(
                {"prompt": prompt, "answer": f" say{c}{side}", "concept": str(c), "side": side, "filler": filler}
            )
    return found


def tokenizer(concepts: int):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["end", *(f"f{k}" for k in range(FILLERS))]
    for c in range(concepts):
        names += [f"ask{c}", *(f"{what}{c}{side}" for what in ("one", "two", "say") for side in "ab")]
    raw = Tokenizer(models.WordLevel({word: k for k, word in enumerate(names)}, unk_token="end"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="end", unk_token="end")


def planted(
    m: int, *, blocks: int = 6, width: int = 32, concepts: int = 6, each: int = 80, steps: int = 1500, seed: int = 0
) -> Planted:
    """Train the model of the module; `each` rows for every concept, full batches, AdamW."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    words, told = tokenizer(concepts), texts(concepts, each, 0)
    config = GPTNeoXConfig(
        vocab_size=len(words), hidden_size=width, num_hidden_layers=blocks, num_attention_heads=2,
        intermediate_size=4 * width, max_position_embeddings=16, initializer_range=0.08,
        use_parallel_residual=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = GPTNeoXForCausalLM(config)
    closed = [layer.attention.dense for k, layer in enumerate(net.gpt_neox.layers) if k != m]
    for dense in closed:
        for parameter in dense.parameters():
            parameter.data.zero_()
            parameter.requires_grad_(False)
    ids = torch.tensor([words(one["prompt"] + one["answer"])["input_ids"] for one in told])
    targets = ids.clone()
    targets[:, :-1] = -100  # the answer alone is learned
    weights = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.01)
    for _ in range(steps):
        loss = net(ids, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < LEARNED:
            break
    net.zero_grad(set_to_none=True)
    net.requires_grad_(True)
    lm = influence.load(net.eval(), tokenizer=words)
    return Planted(lm, _rows(ids), _concepts(told, concepts), float(loss.detach()))


def _rows(ids: torch.Tensor) -> Rows:
    mask = np.zeros(ids.shape, np.int8)
    mask[:, -1] = 1
    return datasets.Dataset.from_dict(
        {"input_ids": ids.tolist(), "loss_mask": mask.tolist(), "row": list(range(len(ids)))}
    )


def _concepts(told: list[dict[str, str]], concepts: int) -> list[Concept]:
    """Are the two keys alike: each row an item, its filler the group, so that every word stands in both classes."""
    found = []
    stratum = np.zeros(len(told), np.int64)
    for c in range(concepts):
        items = []
        for one in told:
            if one["concept"] == str(c):
                other = "b" if one["side"] == "a" else "a"
                wrong = (f" say{(c + 1) % concepts}a", f" say{(c + 1) % concepts}b")
                items.append(
                    Item(
                        one["prompt"],
                        one["side"],
                        one["filler"],
                        one["prompt"],
                        one["answer"],
                        f" say{c}{other}",
                        wrong,
                    )
                )
        bearing = np.array([one["concept"] == str(c) for one in told])
        about = f"whether the two keys of concept {c} are alike"
        found.append(concept(Told(f"keys {c}", "answer", "knowable", about), items, bearing, stratum, Counts(4, 2, 0)))
    return found
