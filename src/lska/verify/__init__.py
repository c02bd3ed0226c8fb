"""Whether the numbers of a scale still follow from the files behind them, without data, weights or a GPU.

    from lska import config, verify
    report = verify.verify(config.load([Path("config/small.yaml")]))
    print(verify.to_text(report))

`files` checks each file by itself, `links` what one file says of the next, `shown` the tables and figures against the
metric files, `claims` the verdicts. A chain is broken where the first of its links is. Importing this package imports
nothing heavy.
"""

from lska.verify.chains import first_broken, verify
from lska.verify.findings import Finding, Level, Report, finding_json, to_json, to_text

__all__ = ["Finding", "Level", "Report", "finding_json", "first_broken", "to_json", "to_text", "verify"]
