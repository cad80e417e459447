"""What the methods of a study say: definitions, statistics of the tests, and the settings' names in plain words."""

from __future__ import annotations

# section -> paragraphs that hold for every study, since they say what the code does
DEFINITIONS: dict[str, tuple[str, ...]] = {
    "models": ("Only the last step of every trained model enters the tests.",),
    "probe": (
        "Depth of a layer is (layer + 1) / number of layers: 0 the embeddings, 1 the last block. Linear (logistic) "
        "probes read a concept's label from the residual stream after every block, at the last token. Groups of "
        "statements are split into 60 % training, 20 % validation and 20 % test; strength and layer are chosen on "
        "validation, and everything shown is measured on test statements, as AUC.",
        "D50 and D95 are the first depths at which the probe reaches 50 % and 95 % of its excess over the control "
        "at its best layer, by linear interpolation between layers. They are undefined where the interval of that "
        "excess holds zero, and draws over groups of statements give their intervals. Controls are the strongest of "
        "those that tell the true classes (an untrained model of the same shape, a bag of words, length, majority), "
        "and beside them a control task of random labels.",
    ),
    "influence": (
        "A query asks what the probe asks: log p(completion | prompt) less log p(contrast | prompt). The influence "
        "of a training row on it is the gradient of that difference times the inverse damped Gauss-Newton matrix "
        "times the gradient of the row's log-likelihood, over the number of training rows, in nats, by layer. The "
        "matrix is EK-FAC with labels sampled from the model, over the linear maps of all blocks; the damping is "
        "per map.",
        "Layer mass of a query is the sum over rows of the absolute influence through a layer, over the mean of the "
        "same for matched control queries, made to sum to 1 over layers. The centroid is the mean depth weighted by "
        "it. The effective count of a query is the squared sum over the sum of squares of its positive influences. "
        "Tail exponents are of the density, by maximum likelihood: of a query over its 500 largest scores, of a "
        "layer over the 50 largest of the rows that bear the concept and of as many other rows of the same strata "
        "(form, style, length), as a mean over queries.",
    ),
    "margin": (
        "The margin of a probe is its weights times the hidden state of its layer, towards an item's own label, "
        "with the weights held fixed; the mean margin of some items is one measurement. Rows are ranked by their "
        "signed influence on it; the AUC says how far rows that bear the concept stand above others of their own "
        "stratum. Its controls are probes of labels drawn at random for each group and random directions of the "
        "probe's norm.",
        "In the removal, models are trained again without the top rows of all concepts together, and, beside it, "
        "without as many rows that bear the same concepts, drawn by chance from the strata of the top rows; all "
        "else is as in the ladder.",
    ),
    "tests": (
        "One primary p per quantity, named before the study was run; Holm's correction over the five primaries "
        "(quantities 1, 2, 3, 5 and 6), in which a test that could not be made counts as p = 1; Benjamini-Hochberg "
        "within each. D50 is the primary depth. A relation is claimed where the corrected p and every falsifier are "
        "at most .05 and no control is. Quantity 4 is descriptive and stands outside.",
    ),
}
# of the section "llc", where something of it was measured
COEFFICIENTS = (
    "The local learning coefficient of a part is λ̂ = nβ (mean of L(w) − L(w*)), L the mean over rows of their summed "
    "loss, along chains that begin at the model's weights w* and in which only this part moves: a whole block (layer), "
    "or the query, key, value and output weights of one head. They sample p(w) ∝ exp(−nβ L(w) − (γ/2)‖w − w*‖²) by "
    "SGLD on batches of 8 rows: 4 chains, 400 steps before the first draw and 8 for each draw, nβ = n / log n of the "
    "rows drawn, γ = 100. The rows are drawn by the seed alone, the same for every model.",
    "All layers of a model have one step size and all its heads one: the smallest of those that the search finds for "
    "each layer, and for the first head of each layer, on the model itself (short chains must not diverge, and the "
    "step may add at most 5 % to the estimate). An estimate is withheld where fewer than two chains have not diverged. "
    "Untrained models, where they are measured, are a control: their weights are no minimum of the loss.",
)
STATISTICS = {
    1: "Spearman correlation over concepts of the centroid of influence with D50 within each model, averaged over "
    "models with weight concepts \u2212 1.",
    2: "layer mass above a concept's own D95 less the share of layers there, beyond the same at the D95 of other "
    "concepts of its kind in the same model.",
    3: "slope, pooled over models, of the tail exponent of bearing rows less that of matched rows on depth \u2212 D50.",
    4: "AUC of the probe on influence signatures less that of the same probe on the backward signal alone.",
    5: "AUC of influence on the probe's margin for bearing rows, above that of a control-task probe and of a random "
    "direction; and the shift of D50 after retraining without the top rows, beyond that without random ones.",
    6: "slope on log(parameters) of five outcomes, one number per model, over its standard error (HC3); the largest of "
    "the five against the largest of each permutation.",
}
# parts of a path -> the section that tells it
PLACE = {
    **dict.fromkeys(
        ("corpus", "world", "tokenizer", "vocab", "length", "text_column", "split", "errors", "held_out", "data",
         "rows", "pack"), "corpus"),
    **dict.fromkeys(
        ("ladder", "models", "sizes", "seeds", "tokens", "batch_tokens", "checkpoints", "warmup", "accumulate",
         "compute_dtype", "threads", "device", "steps", "preset", "folder", "revisions",
         "source", "untrained"), "models"),
    **dict.fromkeys(("concepts", "concept", "concept_digest", "queries", "controls", "kinds", "user"), "concepts"),
    **dict.fromkeys(("probe", "probes", "splits", "metric", "sites", "site", "k95", "position", "strengths",
         "bootstrap"), "probe"),
    **dict.fromkeys(("influence", "damping", "fit_rows", "solver", "blocks", "dtype", "batch_size", "factors"),
                    "influence"),
    **dict.fromkeys(("llc", "llc_rows"), "llc"),
    **dict.fromkeys(("margin", "signature", "signature_rows", "removal", "retrain", "retraining",
         "removal_seeds", "removal_sizes"), "margin"),
    **dict.fromkeys(("tests", "test", "hypotheses", "permutations", "level", "alpha", "seed"), "tests"),
}  # fmt: skip
GLOSS = {
    "tokens": "tokens that every model sees in training",
    "batch_tokens": "tokens of a batch at most, padding included",
    "checkpoints": "log-spaced ones between the untrained model and the last",
    "warmup": "steps of rising learning rate",
    "accumulate": "pieces in which a batch is computed one after another",
    "compute_dtype": "precision of products in training",
    "threads": "of each process on the CPU",
    "width": "of the hidden state",
    "layers": "blocks",
    "heads": "of attention",
    "lr": "highest learning rate",
    "weight_decay": "of AdamW",
    "vocab": "entries of the tokenizer",
    "length": "tokens per row",
    "held_out": "share of the rows that no model is shown",
    "persons": "invented persons of the embedded world",
    "countries": "invented countries of the embedded world",
    "facts_each": "facts per subject",
    "prose": "rows of real prose",
    "world.seed": "by which the embedded world is drawn",
    "sha256": "of the corpus",
    "seeds": "training seeds",
    "splits": "of statements by group, each with its own probes",
    "bootstrap": "draws of intervals, over groups of statements",
    "tests.bootstrap": "draws of intervals, over concepts and queries",
    "damping": "in mean eigenvalues of a block",
    "fit_rows": "training rows that the factors are fitted on, all where there are fewer",
    "queries": "per concept",
    "controls": "control queries per concept",
    "margin": "items per concept whose probe margin is traced in every layer; 0: not measured",
    "signature": "items per concept of the descriptive quantity 4; 0: not measured",
    "signature_rows": "rows of a signature",
    "k95": "whether neurons for 95 % of a dense probe are counted",
    "llc": "draws per chain of the local learning coefficient of every layer and head; 0: not measured",
    "llc_rows": "training rows on which it is estimated, all where there are fewer",
    "batch_size": "sequences at a time",
    "dtype": "precision of influence; float32 where it is not set",
    "seed": "of draws, splits and controls",
    "source": "the ladder's folder, or its models",
    "ladder": "models at their steps, with parameters, layers and digests",
    "models": "patterns of the names of models",
    "steps": "checkpoints beside the last; none: the last alone",
    "untrained": "whether the untrained model of every seed is measured as well",
    "data": "the training corpus, where the ladder does not hold it",
    "pack": "documents end to end in full rows",
    "text_column": "of the corpus",
    "world": "settings of the embedded world, where the ladder does not hold them",
    "rows": "digest of the training rows",
    "concepts": "patterns of the names of built-in concepts",
    "concept": "concepts of one's own",
    "concept_digest": "digest of all concepts",
    "removal": "rows taken out for each concept in a retraining; 0: none",
    "removal_seeds": "retrainings of each size and arm",
    "removal_sizes": "sizes that are trained again",
    "study": "version of these settings",
    "permutations": "at most, all where there are fewer",
    "level": "of intervals",
}
