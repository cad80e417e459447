"""What a command leaves behind, as an object that shows itself in text and in a notebook."""

from __future__ import annotations

import html
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import show
from influence.store import read_manifest

if TYPE_CHECKING:
    import pandas as pd

    import ekfac
    from influence.types import Scores


@dataclass(frozen=True)
class Result:
    """A run's directory, its report (None where there is none) and the command that comes next."""

    folder: Path
    report: Path | None
    next: str

    @property
    def manifest(self) -> dict[str, Any]:
        """What was asked, versions, hashes, shares tracked, facts and warnings."""
        return read_manifest(self.folder)

    @property
    def scores(self) -> Scores:
        """Scores (query, row, layer) in nats."""
        from influence.cli.parts import from_zarr

        return from_zarr(self.folder / "scores.zarr")

    @property
    def factors(self) -> ekfac.Factors:
        """The fitted factors."""
        import ekfac

        return ekfac.load(self.folder / "factors" / "ekfac.safetensors")

    def table(self, name: str) -> pd.DataFrame:
        """One of the tables: queries, rows, top, tokens, layers, tails, tail_points, blocks, certificate, truth …"""
        import pandas

        path = self.folder / "tables" / f"{name}.parquet"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.parquet"))) or "none"
            raise FileNotFoundError(f"the run in {self.folder} has no table {name!r}; it has: {there}")
        return pandas.read_parquet(path)

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the table that a person reads first: the queries where there are scores, else blocks."""
        there = self.manifest["pieces"]
        return self._queries() if "tables/top.parquet" in there else self._blocks()

    def __str__(self) -> str:
        head, rows = self.summary()
        facts, tracked = self.manifest["facts"], self.manifest["tracked"]
        lines = [
            show.table(head, rows, f"{shown(self.folder)}/tables"),
            "",
            f"tracked  {tracked_share(tracked)}",
            f"run      {shown(self.folder)}  ({facts.get('n_rows', 0):,} rows, damping {facts.get('damping')})",
        ]
        if (said := self._solver()) is not None:
            lines.insert(2, f"solver   {said}")
        if self.report is not None:
            lines.append(f"report   {shown(self.report)}")
        return "\n".join([*lines, f"next     {self.next}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows = self.summary()
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(show.printable(cell))}</td>" for cell in row) + "</tr>"
            for row in rows[: show.MOST]
        )
        tracked = html.escape(tracked_share(self.manifest["tracked"]))
        where = html.escape(str(self.report or self.folder))
        return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table><p>{tracked}</p><p>{where}</p>"

    def _solver(self) -> str | None:
        """The solver and its certificate in a line; None where nothing was scored."""
        manifest = self.manifest
        if "scores.zarr" not in manifest["pieces"]:
            return None
        name = manifest["settings"].get("solver", "ekfac")
        if "tables/certificate.parquet" not in manifest["pieces"]:
            return f"{name}, not certified: influence truth {shown(self.folder)} measures it"
        frame, made = self.table("certificate"), manifest["certificate"].get("products", "?")
        worst = frame[["residual", "floor", "change"]].max()
        middle = frame[["residual", "change"]].median()
        return (
            f"{name}, {made} products: residual {middle['residual']:.2g}, worst {worst['residual']:.2g} "
            f"(floor {worst['floor']:.2g}); last change of scores {middle['change']:.1%}, worst {worst['change']:.1%}"
        )

    def _queries(self) -> tuple[list[str], list[list[str]]]:
        top, tails = self.table("top"), self.table("tails")
        best = top[(top["side"] == "for") & (top["ranking"] == "normalised") & (top["place"] == 1)].set_index("query")
        law = tails[tails["rule"] == "ks"].set_index("query")
        rows = []
        for line in self.table("queries").to_dict("records"):
            query = line["query"]
            first = best.loc[query] if query in best.index else None
            said = f"{show.shorten(line['prompt'], 40)} ▸ {show.shorten(line['completion'], 16)}"
            score = show.number(None if first is None else first["score"], 2, sign=True)
            text = "–" if first is None else show.shorten(first["text"], 60)
            exponent = show.number(law["alpha_density"].get(query), 2)
            share = show.number(law["top1_share"].get(query), 2)
            rows.append([said, show.number(line["log_p"], 3), score, text, exponent, share])
        return ["query", "log p", "nats", "first row for it (over row norm)", "α", "top 1 %"], rows

    def _blocks(self) -> tuple[list[str], list[list[str]]]:
        frame = self.table("blocks")
        rows = [
            [kind, str(len(part)), f"{int(part['parameters'].sum()):,}", show.number(part["mean_eigenvalue"].mean())]
            for kind, part in frame.groupby("kind", sort=False)
        ]
        return ["kind", "blocks", "parameters", "mean eigenvalue"], rows


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def tracked_share(tracked: dict[str, Any]) -> str:
    """The two shares tracked in words."""
    if "of_all" not in tracked:
        return "not recorded"
    return (
        f"{tracked['of_all']:.1%} of all parameters, "
        f"{tracked['of_selected']:.1%} of the linear maps selected inside the decoder blocks"
    )
