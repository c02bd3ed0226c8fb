"""`lska weights`: what is published, fetching and publishing."""

from __future__ import annotations

import shlex
import sys

from lska.cli_options import Arguments, Commands, configured, load, say
from lska.config import Config
from lska.weights.checkpoints import Checkpoint
from lska.weights.choices import Choices, checkpoint

NETWORK = "such as van_tiny-lska-k23-s0 or detection/retinanet/van_tiny-lska-k23-s0"


def add_weights(commands: Commands) -> None:
    """Add the command with its actions."""
    actions = commands.add_parser("weights", help="list, fetch and publish weights").add_subparsers(required=True)
    for name, act, about in (
        ("list", _list, "say for each network of a scale whether its weights are here, fetched or trained, or stop it"),
        ("fetch", _fetch, "bring published weights from DVC, as Snakemake does where it needs them"),
        ("publish", _publish, "add weights to DVC, push them, and say what to commit"),
    ):
        command = actions.add_parser(name, help=about)
        command.add_argument("names", nargs="+" if name == "publish" else "*", metavar="NETWORK", help=NETWORK)
        if name == "publish":
            command.add_argument("--remote", help="DVC's name of the remote (default: the project's default one)")
        configured(command)
        command.set_defaults(command=act)


def _chosen(arguments: Arguments, config: Config) -> list[Checkpoint]:
    """The networks named on the command line, or all of the scale."""
    known = config.network_names
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        expected = f"expected some of {', '.join(known)}"
        raise ValueError(f"{', '.join(unknown)}: not trained at scale {config.scale}; {expected}")
    return [checkpoint(config, name) for name in arguments.names or known]


def _list(arguments: Arguments) -> int:
    config = load(arguments)
    choices, names = Choices(config), [one.name for one in _chosen(arguments, config)]
    found, width = {name: choices.of(name) for name in names}, max(map(len, names))
    for name, choice in found.items():
        say(f"{choice.state:<5}  {name:<{width}}  {' '.join((choice.refused or choice.reason).split())}")
    return int(any(choice.refused for choice in found.values()))


def _fetch(arguments: Arguments) -> None:
    config = load(arguments)
    from lska.weights.fetch import fetch, fetchable

    wanted = _chosen(arguments, config)
    # All of a scale means all that are published, also where only a link of theirs is left.
    fetch(wanted if arguments.names else [one for one in wanted if fetchable(one)])


def _publish(arguments: Arguments) -> None:
    config = load(arguments)
    from lska.weights.publish import publish

    done = publish(_chosen(arguments, config), arguments.remote)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if not done.files:
        say("Published; git has these files already.")
        return
    files, message = map(shlex.quote, map(str, done.files)), f"Publish weights of {', '.join(arguments.names[:3])}"
    say(f"Published. So that others find them:\n  git add {' '.join(files)}\n  git commit -m {shlex.quote(message)}")
