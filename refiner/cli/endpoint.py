"""Options about models behind endpoints that several sub-commands share, and the costs that they print."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from refiner.cli.view import Terminal
from refiner.errors import ConfigError
from refiner.ledger import Ledger, Prices, bill_lines

_IDS = ("detector", "detectors", "judge", "reviser", "inpainter", "editor")
"""Arguments that hold ids of models which may run behind an endpoint."""


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--endpoint-options`` and ``--prices``; ``apply_endpoint`` reads them."""
    group = parser.add_argument_group("models behind endpoints")
    group.add_argument(
        "--endpoint-options",
        metavar="JSON|FILE",
        help='settings of all of them, such as {"timeout": 60, "thinking": false}; those in an id count more '
        "(see docs/vision-language.md)",
    )
    words = "TOML or JSON with the prices of models: input and output, per million tokens, or image, per image"
    group.add_argument("--prices", metavar="FILE", help=words)


def apply_endpoint(args: argparse.Namespace) -> None:
    """Put ``--endpoint-options`` into the ids among the arguments, and read the table of ``--prices``.

    Raises:
        UserError: one of them cannot be read, or no id names an endpoint.
    """
    if getattr(args, "prices", None) is not None:
        args.prices = Prices.read(args.prices)
    text = getattr(args, "endpoint_options", None)
    if text is None:
        return
    from refiner.detectors.chat.options import read_object, with_options

    try:
        options = read_object(text)
    except ValueError as error:
        raise ConfigError(
            f"Expected a JSON object as --endpoint-options, got {text!r:.80} ({error}): correct it."
        ) from error
    before = {name: value for name in _IDS if (value := getattr(args, name, None)) is not None}
    after = {
        name: [with_options(each, options) for each in value]
        if isinstance(value, list)
        else with_options(value, options)
        for name, value in before.items()
    }
    if options and before == after:
        raise ConfigError(
            "--endpoint-options has no effect, because no --detector, --judge, --reviser, --inpainter or --editor "
            "names an endpoint that takes them, such as vlm:MODEL@URL: leave it out."
        )
    vars(args).update(after)


def tell_costs(ledgers: Mapping[str, Ledger], args: argparse.Namespace, terminal: Terminal) -> None:
    """Print what the chat models cost on stderr, a line for each model that was asked."""
    asked = {name: ledger for name, ledger in ledgers.items() if ledger.calls or ledger.cached}
    for line in bill_lines(asked, getattr(args, "prices", None)):
        terminal.err.print(f"costs of {line}", markup=False, soft_wrap=True, style="dim")
