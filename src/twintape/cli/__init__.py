"""The command line: one command = parse, build, call, exit code."""

from __future__ import annotations

from typing import Annotated, Any

try:
    import typer
    from typer.core import TyperGroup

    from twintape import __version__
    from twintape.cli.common import guarded
    from twintape.cli.compare import compare
    from twintape.cli.demo import demo
    from twintape.cli.doctor import doctor
    from twintape.cli.exchange import exchange
    from twintape.cli.keep import accept, restore
    from twintape.cli.look import book, cat, import_, inspect, ls
    from twintape.cli.night import merge, nightly, proof, prune, verify
    from twintape.cli.record import record
    from twintape.cli.simulate import simulate
except KeyboardInterrupt:  # this takes long enough for a Ctrl-C to come in between
    raise SystemExit(130) from None

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Every error of ours in any command becomes one line on stderr and the promised exit code."""

    def invoke(self, ctx: Any) -> Any:
        with guarded():
            return super().invoke(ctx)


app = typer.Typer(
    name="twintape",
    cls=_Commands,
    help="Record Binance order-book deltas on several machines; prove, merge and only then prune them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(record)
app.command("import")(import_)
app.command()(merge)
app.command()(verify)
app.command()(proof)
app.command()(prune)
app.command()(nightly)
app.command()(accept)
app.command()(restore)
app.command()(doctor)
app.command()(ls)
app.command()(inspect)
app.command()(cat)
app.command()(book)
app.command()(compare)
app.command()(exchange)
app.command()(demo)
app.command()(simulate)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"twintape {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Record Binance order-book deltas on several machines; prove, merge and only then prune them.

    Exit codes: 0 fine, 1 findings, 2 usage or configuration, 3 refused; 130 after Ctrl-C, 143 after SIGTERM.
    """


def main() -> None:
    """Run the command line."""
    app()
