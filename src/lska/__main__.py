"""The command `lska`, also as `python -m lska`, the form that torchrun launches."""

import sys

MISSING = """\
lska: error: {} is not installed: the command line needs the pipeline's packages. `make demo` in the project's folder \
installs them, as locked; or `pip install '.[pipeline]'`."""


def start() -> int:
    """Run the command line; where the networks alone are installed, say how to get the rest."""
    try:
        from lska.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "lska").partition(".")[0] == "lska":
            raise
        print(MISSING.format(error.name), file=sys.stderr)
        return 1
    return main()


if __name__ == "__main__":
    raise SystemExit(start())
