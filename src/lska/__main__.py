"""`python -m lska`: the form that torchrun launches."""

from lska.cli import main

raise SystemExit(main())
