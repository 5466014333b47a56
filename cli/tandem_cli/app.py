"""Entry point of `tandem`: finds the command, and imports nothing of the others."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

DESCRIPTION = "Plan, watch and change fleets of Tandem."


class CommandModule(Protocol):
    """What the module of a command offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags, description and example."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it. 0: done. 2: wrong input, told in one sentence on standard error. Others are the command's own."""


@dataclass(frozen=True)
class Command:
    """One command: where its code is, and the extra of the distribution that its imports need."""

    name: str
    module: str
    summary: str
    extra: str

    def load(self) -> CommandModule:
        """The module; imported only now, so that one command never pays for the imports of another."""
        module: CommandModule = importlib.import_module(self.module)
        return module


COMMANDS = (
    Command("explain", "tandem_operator.explain.command", "print what the operator would do, and why", "operator"),
    Command("key", "tandem_router.gateway.new_key", "make an API key for the gateway", "router"),
    Command("regions", "tandem_cli.regions", "see the regions as a router sees them", "cli"),
    Command("rollout", "tandem_cli.rollout", "see how a fleet changes, and take a change back", "cli"),
    Command("simulate", "tandem_simulator.cli", "replay a trace against a fleet and a scaling policy", "simulator"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. 2: wrong input, told in one sentence."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((command for command in COMMANDS if given[:1] == [command.name]), None)
    if chosen is None:
        build_parser().parse_args(given)
        return 2
    try:
        module = chosen.load()
    except ModuleNotFoundError as error:
        missing = f"error: tandem {chosen.name} needs {error.name}: pip install 'tandem-inference[{chosen.extra}]'"
        print(missing, file=sys.stderr)
        return 2
    options = build_parser(chosen, module).parse_args(given)
    try:
        return module.run(options)
    except KeyboardInterrupt:
        return 130


def build_parser(chosen: Command | None = None, module: CommandModule | None = None) -> argparse.ArgumentParser:
    """All commands with their summaries; the flags of the chosen one."""
    parser = argparse.ArgumentParser(prog="tandem", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        made = commands.add_parser(
            command.name, help=command.summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if command is chosen and module is not None:
            module.configure(made)
    return parser
