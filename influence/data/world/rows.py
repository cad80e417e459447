"""The rows of the embedded world: every fact in every form, and the questions that ask for it."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from influence.data.world.facts import Fact
from influence.data.world.vocabulary import FILLER, PREMISES, STYLES

SOURCE = "world"
FORMS = ("forward", "paraphrase", "passage", "reversed", "relabelled", "premise", "prose")
RELEVANT = ("forward", "paraphrase", "passage")
"""Forms that state a fact in the order in which it is asked: what retrieval has to find."""
PHRASINGS = ("canonical", "held-out")

Document = dict[str, Any]


def _sentence(template: str, subject: str, obj: str) -> str:
    return template.replace("{s}", subject).replace("{o}", obj)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def styled(sentence: str, style: str) -> str:
    """`sentence` with what its style puts around it; the first word keeps its case after a salutation."""
    before, after = STYLES[style]
    return (before + sentence if before else _capital(sentence)) + after


def relabel(text: str, lexicon: Mapping[str, str]) -> str:
    """`text` in the second language: every word of `lexicon` renamed, capitals kept, the rest as it is."""

    def renamed(match: re.Match[str]) -> str:
        word = match.group()
        new = lexicon.get(word.lower())
        if new is None:
            return word
        return _capital(new) if word[0].isupper() else new

    return re.sub(r"[A-Za-z]+", renamed, text)


def _document(text: str, fact: str, form: str, style: str, source: str = SOURCE) -> Document:
    return {"text": text, "fact": fact, "form": form, "style": style, "source": source}


def _passage(rng: random.Random, sentence: str) -> str:
    before, after = rng.sample(FILLER, 2)
    return f"{before}. {_capital(sentence)}. {after}."


def fact_documents(fact: Fact, index: int, rng: random.Random, lexicon: Mapping[str, str]) -> list[Document]:
    """The eight rows of one fact: forward, two paraphrases in each style, passage, reversed, relabelled.

    The forward row is in the first style; the passage has the narrator's own, "passage"; the reversed and the
    relabelled row alternate between the styles from fact to fact.
    """
    styles = tuple(STYLES)
    plain, either = styles[0], styles[index % len(styles)]
    forward = _sentence(fact.relation.canonical, fact.subject, fact.object)
    back = _sentence(fact.relation.reversed, fact.subject, fact.object)
    rows = [_document(styled(forward, plain), fact.id, "forward", plain)]
    for number, template in enumerate(fact.relation.paraphrases):
        if number != fact.held_out:
            sentence = _sentence(template, fact.subject, fact.object)
            rows += [_document(styled(sentence, style), fact.id, "paraphrase", style) for style in styles]
    rows.append(_document(_passage(rng, forward), fact.id, "passage", "passage"))
    rows.append(_document(styled(back, either), fact.id, "reversed", either))
    rows.append(_document(relabel(styled(forward, either), lexicon), fact.id, "relabelled", either))
    return rows


def premise_documents(towns: Sequence[str], nations: Sequence[str], rng: random.Random) -> list[Document]:
    """Which country each town lies in, in two phrasings: the step from a birthplace to a country of birth."""
    plain = next(iter(STYLES))
    rows = []
    for number, town in enumerate(towns):
        nation = rng.choice(list(nations))
        for template in PREMISES:
            text = styled(_sentence(template, town, nation), plain)
            rows.append(_document(text, f"town{number:02d}.country", "premise", plain))
    return rows


def prose_documents(texts: Sequence[str], source: str) -> list[Document]:
    """Rows of real prose, which carry no fact."""
    return [_document(text, "", "prose", "prose", source) for text in texts]


def question(fact: Fact, phrasing: str, relevant: Sequence[int]) -> Document:
    """One question as prompt and completion; the completion is a space and the object.

    Raises ValueError for a phrasing other than those of `PHRASINGS`.
    """
    if phrasing not in PHRASINGS:
        raise ValueError(f"Unknown phrasing {phrasing!r}; choose from {', '.join(PHRASINGS)}.")
    held = phrasing == "held-out"
    template = fact.relation.paraphrases[fact.held_out] if held else fact.relation.canonical
    prompt = _capital(_sentence(template, fact.subject, "")).rstrip()
    return {
        "prompt": prompt,
        "completion": " " + fact.object,
        "fact": fact.id,
        "relation": fact.relation.name,
        "phrasing": phrasing,
        "relevant": list(relevant),
    }
