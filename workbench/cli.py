"""The `workbench` command. Its modules are imported inside the commands: `workbench list` needs no torch."""

import ast
import errno
import json
import re
import signal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from workbench import WorkbenchError, papers, runner
from workbench import sweep as sweeps


class OneLineErrors(TyperGroup):
    """What a person can put right, or did on purpose, ends in one line and not in a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except WorkbenchError as error:
            line, code = str(error), 1
        except KeyboardInterrupt:
            line, code = "interrupted; run the same command again to go on", 130
        except OSError as error:
            if error.errno == errno.EPIPE:  # a reader like `head` has seen enough: typer ends quietly
                raise
            name, reason = error.filename or "a file that is needed", error.strerror or error
            line, code = f"{name}: {reason}: check its permissions and the room on its disk", 1
        Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)
        raise typer.Exit(code)


app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, pretty_exceptions_enable=False)

Paper = Annotated[str, typer.Argument(help="A paper's key, as `workbench list` shows it.")]
Papers = Annotated[list[str] | None, typer.Argument(help="Papers' keys; all that are built if none.")]


def known(scale: str | None) -> str | None:
    """The scale itself; WorkbenchError names the valid ones for another."""
    if scale is not None and scale not in runner.SCALES:
        raise WorkbenchError(f"unknown scale {scale!r}: choose one of {', '.join(runner.SCALES)}")
    return scale


Scale = Annotated[str, typer.Option(help=f"{', '.join(runner.SCALES)}.", callback=known)]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="How many run side by side.")]
Params = Annotated[list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE")]


def parse_value(text: str) -> Any:
    """Read a Python literal; what is none is a string."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def parse_values(text: str) -> list[Any]:
    """Read a list `a,b,c` whose items may be literals, strings, or inclusive ranges of integers like `0..9`.

    Raises WorkbenchError for an empty item, an empty range, or a value named twice.
    """
    try:
        values = list(ast.literal_eval(f"({text},)"))  # so that `(1,2),(3,4)` is two tuples
    except (ValueError, SyntaxError):
        values = []
        for item in text.split(","):
            bounds = re.fullmatch(r"\s*(-?\d+)\.\.(-?\d+)\s*", item)
            span = [*range(int(bounds[1]), int(bounds[2]) + 1)] if bounds else [parse_value(item)]
            if not span:
                raise WorkbenchError(f"the range {item} is empty: write the smaller bound first") from None
            values += span
    if "" in values:
        raise WorkbenchError(f"an empty value in {text!r}")
    if len({repr(value) for value in values}) < len(values):
        raise WorkbenchError(f"a value twice in {text!r}")
    return values


def parse_params(params: list[str] | None) -> dict[str, str]:
    """Read `name=value` pairs, the values still as text; WorkbenchError for another form or a name twice."""
    pairs = {}
    for param in params or []:
        name, equals, value = param.partition("=")
        if not (name.isidentifier() and equals and value.strip()):
            raise WorkbenchError(f"cannot read the parameter {param!r}: write it as name=value")
        if name == "scale" or name in pairs:
            raise WorkbenchError(f"{name} is given twice" if name in pairs else "write --scale, not -p scale")
        pairs[name] = value
    return pairs


@app.command("list")
def list_papers() -> None:
    """Show the ten papers: their notebooks and their ideas."""
    table = Table("", "paper", "notebook", "idea")
    for paper in papers.PAPERS:
        table.add_row(str(paper.number), paper.key, f"notebooks/{paper.notebook.name}", paper.idea)
    runner.console.print(table)


@app.command()
def run(paper: Paper, param: Params = None, scale: Scale = "quick", out: Path | None = None) -> None:
    """Run one notebook with parameters of your own; figures/ stays as it is."""
    runner.run(paper, scale, {name: parse_value(text) for name, text in parse_params(param).items()}, out)


@app.command()
def figures(
    paper: Papers = None,
    scale: Scale = "quick",
    jobs: Jobs = 2,
    verify: Annotated[
        bool, typer.Option("--verify", help="Fail where a table differs from the committed one.")
    ] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Replace the committed figures and ledger rows.")] = False,
) -> None:
    """Make figures and ledger in figures/made/<scale> by running the notebooks; compare with figures/<scale>."""
    if verify and accept:
        raise WorkbenchError("--verify compares with what --accept replaces: give one of them")
    runner.figures(paper or [], scale, jobs, verify, accept)


@app.command()
def sweep(
    paper: Paper,
    param: Params = None,
    scale: Scale = "quick",
    jobs: Jobs = 2,
    cluster: Annotated[str | None, typer.Option(help="A dask scheduler, tcp://host:port.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the CSV file goes.")] = None,
) -> None:
    """Run a paper's experiment for every combination of values: -p bits=2,4,8 -p seeds=0..9."""
    grid = {name: parse_values(text) for name, text in parse_params(param).items()}
    if not grid:
        raise WorkbenchError("nothing to sweep: name a parameter and its values, such as -p seeds=0..9")
    sweeps.sweep(paper, scale, grid, jobs, cluster, out)


@app.command()
def claims(
    scale: Annotated[
        str | None, typer.Option(help="Default: full, and quick where there is no full.", callback=known)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Show the ledger: what each paper claims, what we found, and of which kind the evidence is."""
    from workbench.evidence import read_ledger

    scales = [scale] if scale else ["quick", "full"]
    rows = {row["id"]: row for each in scales for row in read_ledger(each)}  # full replaces quick
    if not rows:
        raise WorkbenchError(f"no claims at {' or '.join(scales)} scale yet: `workbench figures --accept` makes them")
    if as_json:
        typer.echo(json.dumps(list(rows.values()), indent=1, ensure_ascii=False))
        return
    table = Table("paper", "claim", "kind", "published", "ours", "unit", "verdict", "scale")
    for row in rows.values():
        published = _number(row["published"]) + (" (unverified)" if row["verified"] is False else "")
        ours = _number(row["value"])
        if row["low"] is not None:
            ours += f" [{_number(row['low'])}, {_number(row['high'])}], n = {row['n']}"
        texts = {name: str(row[name] or "") for name in ("paper", "claim", "kind", "unit", "verdict", "scale")}
        cells = texts | {"published": published, "ours": ours}
        table.add_row(*(cells[column.header] for column in table.columns))
    runner.console.print(table)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value or "")


@app.command()
def export(paper: Papers = None, out: Annotated[Path, typer.Option(help="A folder.")] = Path("export")) -> None:
    """Write each notebook as one HTML file whose sliders work offline."""
    runner.export(paper or [], out)


@app.command()
def record(paper: Paper) -> None:
    """Repeat a paper's long runs and write their results, with provenance, to data/recorded/."""
    module = f"workbench.papers.{papers.paper(paper).key}.record"
    if find_spec(module) is None:
        raise WorkbenchError(f"{paper} records nothing: its results are made by `workbench figures {paper}`")
    import_module(module).record()


@app.command()
def data(name: Annotated[list[str] | None, typer.Argument(help="Data sets to fetch now.")] = None) -> None:
    """Show the data sets and where they are; fetch those that are named."""
    from workbench import data as data_sets

    for each in name or []:
        runner.say(f"{each}: {data_sets.fetch(each)}")
    if not name:
        table = Table("data set", "what it is", "download", "where it is")
        for each, (description, download) in data_sets.DATASETS.items():
            table.add_row(each, description, download, data_sets.status(each))
        runner.console.print(table)


def main() -> None:
    """Entry point: exit code 0, 1 (it failed; one line says why), 2 (wrong usage) or 130 (interrupted)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
