"""What is made again, and why, as a table: without Snakemake, and without files."""

from __future__ import annotations

import pytest

from lska.pipeline.current import Product, pending

MISSING, GONE = "never measured", "the weights are missing"

NETWORK = {
    "data/images": Product(),
    "weights/net": Product(reads=("data/images",)),
    "weights/head": Product(reads=("weights/net", "data/images"), follows=("weights/net",)),
    "metrics/net": Product(reads=("weights/net", "data/images"), follows=("weights/net",)),
    "metrics/pass": Product(reads=("weights/net", "data/images"), follows=("weights/net", "data/images")),
    "metrics/head": Product(reads=("weights/head", "data/images"), follows=("weights/head",)),
}
"""A network, a detector that starts from it, and what is measured on both."""

OF_WEIGHTS, OF_DATA = "its weights are to be made anew", "its data are to be made anew"

CASES: list[tuple[str, dict[str, dict], dict[str, str]]] = [
    ("all is current", {}, {}),
    ("a missing result alone", {"metrics/net": {"stale": MISSING}}, {"metrics/net": MISSING}),
    (
        "another recipe, and all that follows from it",
        {"weights/net": {"stale": "trained otherwise"}},
        {"weights/net": "trained otherwise", "weights/head": OF_WEIGHTS, "metrics/net": OF_WEIGHTS,
         "metrics/pass": OF_WEIGHTS, "metrics/head": OF_WEIGHTS},
    ),
    (
        "another head leaves its backbone alone",
        {"weights/head": {"stale": "trained otherwise"}},
        {"weights/head": "trained otherwise", "metrics/head": OF_WEIGHTS},
    ),
    ("lost weights that nothing needs", {"weights/net": {"lost": GONE, "exact": False}}, {}),
    (
        "lost weights are trained for one result, and then all of theirs are measured again",
        {"weights/net": {"lost": GONE, "exact": False}, "metrics/net": {"stale": MISSING}},
        {"metrics/net": MISSING, "weights/net": GONE, "weights/head": OF_WEIGHTS, "metrics/pass": OF_WEIGHTS,
         "metrics/head": OF_WEIGHTS},
    ),
    (
        "published weights are fetched for one result, and the others stay",
        {"weights/net": {"lost": "published"}, "metrics/net": {"stale": MISSING}},
        {"metrics/net": MISSING, "weights/net": "published"},
    ),
    (
        "a lost backbone is fetched for a head that is trained",
        {"weights/net": {"lost": "published"}, "weights/head": {"stale": "never trained"}},
        {"weights/head": "never trained", "weights/net": "published", "metrics/head": OF_WEIGHTS},
    ),
    (
        "a lost backbone stays away from a head that is only measured",
        {"weights/net": {"lost": "published"}, "metrics/head": {"stale": MISSING}},
        {"metrics/head": MISSING},
    ),
    ("lost images that nothing reads", {"data/images": {"lost": "gone"}}, {}),
    (
        "lost images are made again for a result, which leaves the others as they are",
        {"data/images": {"lost": "gone"}, "metrics/pass": {"stale": MISSING}},
        {"metrics/pass": MISSING, "data/images": "gone"},
    ),
    (
        "other images",
        {"data/images": {"stale": "made of something else"}},
        {"data/images": "made of something else", "metrics/pass": OF_DATA},
    ),
    (
        "a chain of lost ones is followed to its start",
        {"data/images": {"lost": "gone"}, "weights/net": {"lost": GONE, "exact": False},
         "weights/head": {"lost": GONE, "exact": False}, "metrics/head": {"stale": MISSING}},
        {"metrics/head": MISSING, "weights/head": GONE, "data/images": "gone", "weights/net": GONE,
         "metrics/net": OF_WEIGHTS, "metrics/pass": OF_WEIGHTS},
    ),
    (
        "its own reason goes before that of what it is made of",
        {"weights/net": {"stale": "trained otherwise"}, "weights/head": {"stale": "never trained"},
         "metrics/net": {"stale": MISSING}, "metrics/pass": {"stale": MISSING}, "metrics/head": {"stale": MISSING}},
        {"weights/net": "trained otherwise", "weights/head": "never trained", "metrics/net": MISSING,
         "metrics/pass": MISSING, "metrics/head": MISSING},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_made_again_and_why(changes: dict[str, dict], expected: dict[str, str]) -> None:
    products = {name: Product(**(vars(one) | changes.get(name, {}))) for name, one in NETWORK.items()}
    assert pending(products) == expected
    assert pending(dict(reversed(products.items()))).keys() == expected.keys()


def test_a_long_chain_is_followed_whatever_its_order() -> None:
    """What is made anyway may turn out late to become another, and then what follows it has to be made too."""
    chain = {
        "metrics/other": Product(reads=("data/chosen",), follows=("data/chosen",)),
        "data/chosen": Product(lost="gone", reads=("weights/head",), follows=("weights/head",)),
        "weights/head": Product(lost="published", reads=("weights/net",), follows=("weights/net",)),
        "weights/net": Product(lost=GONE, exact=False),
        "metrics/one": Product(stale=MISSING, reads=("data/chosen",), follows=("data/chosen",)),
    }
    assert pending(chain).keys() == pending(dict(reversed(chain.items()))).keys() == chain.keys()
