"""The command line: one command = parse, build, call, exit code."""

from __future__ import annotations

import typer

from twintape.cli.common import guarded
from twintape.cli.demo import demo
from twintape.cli.exchange import exchange
from twintape.cli.look import book, cat, import_, inspect, ls
from twintape.cli.night import merge, nightly, proof, prune, verify
from twintape.cli.record import record

__all__ = ["app", "main"]

app = typer.Typer(
    name="twintape",
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
app.command()(ls)
app.command()(inspect)
app.command()(cat)
app.command()(book)
app.command()(exchange)
app.command()(demo)


@app.callback()
def _version() -> None:
    """Record Binance order-book deltas on several machines; prove, merge and only then prune them.

    Exit codes: 0 fine, 1 findings, 2 usage or configuration, 3 refused.
    """


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and the promised exit code."""
    with guarded():
        app()
