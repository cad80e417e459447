"""House rules no formatter knows: short functions and files, nothing random or failing in secret."""

import ast

import pytest
import source

import influence

LINES_OF_A_FUNCTION = 60
LINES_OF_A_FILE = 300

GLOBAL_RANDOM = {
    "torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all",
    "torch.random.manual_seed", "torch.set_rng_state", "random.seed", "random.random", "random.randint",
    "random.choice", "random.choices", "random.sample", "random.shuffle", "random.uniform", "random.gauss",
    "transformers.set_seed", "set_seed",
}  # fmt: skip
RANDOM_IN_TORCH = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal"}
RANDOM_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_"}
OF_NUMPY = ("default_rng", "Generator", "PCG64", "Philox", "SeedSequence")


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def hidden_randomness(call: ast.Call) -> str | None:
    """The name of a call that reads or seeds a global generator, or None."""
    name = dotted(call.func)
    named = {word.arg for word in call.keywords}
    if name in GLOBAL_RANDOM:
        return name
    if name.startswith(("np.random.", "numpy.random.")) and not name.endswith(OF_NUMPY):
        return name
    bare = name.removeprefix("torch.")
    if bare != name and bare in RANDOM_IN_TORCH and "generator" not in named:
        return name
    if name.rpartition(".")[2] in RANDOM_IN_PLACE and "." in name and "generator" not in named:
        return name
    return None


@pytest.mark.parametrize("module", source.modules())
def test_files_and_functions_are_short(module: str) -> None:
    lines = source.file_of(module).read_text(encoding="utf-8").count("\n")
    assert lines <= LINES_OF_A_FILE, f"{module} has {lines} lines; split it by what it does"
    for node in ast.walk(source.modules()[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                said = node.body[0]
                length -= (said.end_lineno or said.lineno) - said.lineno + 1
            assert length <= LINES_OF_A_FUNCTION, f"{module}.{node.name} has {length} lines of code"


def forked(tree: ast.Module) -> set[ast.AST]:
    """Nodes under `with torch.random.fork_rng(…)`, where the global generator is put back afterwards."""
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any("fork_rng" in ast.dump(item) for item in node.items):
            inside.update(ast.walk(node))
    return inside


@pytest.mark.parametrize("module", source.modules())
def test_nothing_fails_or_draws_in_secret(module: str) -> None:
    tree = source.modules()[module]
    lent = forked(tree)
    for node in ast.walk(tree):
        at = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{at} catches everything, also Ctrl-C; name the errors"
        if isinstance(node, ast.Call):
            said = None if node in lent else hidden_randomness(node)
            assert said is None, f"{at} calls {said}, which uses a global generator; pass one"
            trusts = [w for w in node.keywords if w.arg == "trust_remote_code"]
            assert not any(isinstance(w.value, ast.Constant) and w.value.value for w in trusts), at
            assert dotted(node.func) not in ("torch.load", "eval", "exec"), f"{at} runs what it reads"


def test_public_names_are_documented() -> None:
    for name, module in influence._HOME.items():
        module = f"{module}.run" if module == f"influence.{name}" else module  # a room that can be called
        found = {n.name: n for n in source.modules()[module].body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name in found, f"influence.{name} is promised and {module} does not define it"
        assert ast.get_docstring(found[name]), f"influence.{name} has no docstring"


def test_modules_say_what_they_hold() -> None:
    bare = [m for m, tree in source.modules().items() if tree.body and not ast.get_docstring(tree)]
    assert not bare, f"no docstring at the top of: {', '.join(bare)}"


def test_the_judge_can_say_no() -> None:
    def first(text: str) -> str | None:
        return hidden_randomness(next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)))

    assert first("torch.randn(3)") and first("np.random.rand(2)") and first("random.seed(0)")
    assert first("x.normal_(0, 1)") and first("torch.manual_seed(0)")
    assert first("torch.randn(3, generator=g)") is None and first("np.random.default_rng(0)") is None
