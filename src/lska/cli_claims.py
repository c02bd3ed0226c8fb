"""`lska claims`: what the measurements of a scale say to the paper's relative statements."""

from __future__ import annotations

import json

from lska.cli_options import Arguments, Commands, configured, load, say


def add_claims(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("claims", help="the paper's statements with a verdict each")
    command.add_argument("--only", nargs="+", metavar="ID", help="show these claims, for example R07")
    command.add_argument("--json", action="store_true", help="print everything behind the verdicts, for scripts")
    command.add_argument("--write", action="store_true", help="write page and JSON to results/<scale>/claims instead")
    configured(command)
    command.set_defaults(command=_claims)


def _claims(arguments: Arguments) -> None:
    from lska.claims.claims_page import claims_content, claims_text, write_claims
    from lska.claims.verdicts import judge_claims

    if arguments.write and (arguments.only or arguments.json):
        raise ValueError("--write: page and JSON always hold all claims; leave out --only and --json")
    config = load(arguments)
    results = judge_claims(config)
    if arguments.write:
        write_claims(results, config, config.results)
        return
    if arguments.only:
        known = [result.claim.id for result in results]
        unknown = sorted(set(arguments.only) - set(known))
        if unknown:
            raise ValueError(f"--only: no claim {', '.join(unknown)} in paper/claims.csv; expected {', '.join(known)}")
        results = tuple(result for result in results if result.claim.id in arguments.only)
    content = claims_content(results, config)
    say(json.dumps(content, indent=2) if arguments.json else claims_text(content))
