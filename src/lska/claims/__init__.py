"""The paper's relative statements as predicates over metric files, each with a verdict.

    from lska import config
    from lska.claims.verdicts import check
    results = check(config.load([Path("config/demo.yaml")]))

`paper/claims.csv` holds the statements; `predicates` reads what they assert, `evidence` finds the numbers, `statistics`
tells differences from noise, `verdicts` judges, `page` shows. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from lska.claims.listing import CLAIMS, Claim, outputs, read_claims, requirements

__all__ = ["CLAIMS", "Claim", "outputs", "read_claims", "requirements"]
