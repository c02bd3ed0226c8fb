"""Where a number comes from: the chain of files behind a cell of a table or a point of a figure.

    from lska import chain, config
    scale = config.load([Path("config/small.yaml")])
    table = chain.filled("table_03", scale)
    found = chain.of(table, chain.choose(table, "VAN-LSKA-Tiny", "top-1"), scale)
    print(chain.to_text(found))

A chain starts with the cell as shown. Its links are the paper's entry and the metric files; on each of these rest the
weights (their sidecar), on the weights the recipe, the backbone they started from and the data. Nothing is computed and
no data or weights are needed. Importing this package imports nothing heavy.
"""

from lska.chain.build import filled, of
from lska.chain.choose import choose, listing
from lska.chain.model import Chain, Link, to_json
from lska.chain.text import to_text

__all__ = ["Chain", "Link", "choose", "filled", "listing", "of", "to_json", "to_text"]
