"""`influence demo`: small models that learned known facts, whether their rows are found again, a study of them."""


def demo(
    out: str = "runs/demo",
    *,
    sizes: tuple[str, ...] = ("d32", "d96", "d128"),
    seed: int = 0,
    queries: int = 60,
    tokens: int | None = None,
    removal: bool = False,
    study: bool = True,
    progress: bool = True,
) -> None:
    """Train small models on a world of invented facts, trace what they say, compare with baselines.

    Nothing is downloaded. The models are kept, so a second call is quick; killed, the same command goes on.

    Args:
        out: Directory for models, runs and the report.
        sizes: Models to train, smallest first: d32, d96, d128, d192.
        seed: Of the world, the weights and the order of training.
        queries: Learned facts that are asked for in a phrasing that was held out.
        tokens: Seen in training; default as many as the trainer sees.
        removal: Also retrain the largest model without the rows found, five seeds (20 trainings).
        study: Also compare the sizes on a few concepts: probes, influence by layer, tails.
        progress: Show progress bars.
    """
    from influence.cli import planted

    made = planted.demo(out, sizes=sizes, seed=seed, queries=queries, tokens=tokens, removal=removal,
                        study=study, progress=progress)  # fmt: skip
    print(made)
