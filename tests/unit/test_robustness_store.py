"""Predictions: what is kept of a network's outputs, and files that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lska.evaluate.predictions import BEST, Columns, PredictionError, Store

FIELDS = ("label", "top1", "top2", "top3", "top4", "top5", "label_probability", "confidence")


def predictions(count: int, seed: int = 0, classes: int = 7, allowed: torch.Tensor | None = None) -> Columns:
    """Columns of random outputs; labels are among 2, 3 and 5."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.tensor([2, 3, 5])[torch.randint(0, 3, (count,), generator=generator)]
    return Columns.of(logits, labels, allowed)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "predictions")


@pytest.fixture
def place(store: Store) -> Path:
    """A folder with predictions on ten images, in shards of four, four and two."""
    folder = store.place("fog/3", "sha256:" + "a" * 64, "member")
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        store.write(folder, start, {"full": predictions(stop - start, start)})
    return folder


def test_columns_hold_the_five_most_probable_classes_and_two_probabilities() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, -1.0, 2.0, 5.0, 4.0], [9.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    made = Columns.of(logits, torch.tensor([4, 0]))
    assert made.best.tolist() == [[5, 6, 1, 4, 2], [0, 6, 5, 4, 3]]
    assert made.label.tolist() == [4, 0]
    shares = np.exp(logits.numpy().astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(made.label_probability, [shares[0, 4], shares[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(made.confidence, [shares[0, 5], shares[1, 0]], rtol=1e-6)
    kinds = [array.dtype for array in (made.label, made.best, made.label_probability, made.confidence)]
    assert kinds == [np.int16, np.int16, np.float32, np.float32]
    assert made.outcome.correct.tolist() == [False, True]
    assert made.outcome.confidence is made.confidence


def test_classes_without_any_probability_are_still_ranked_by_their_outputs() -> None:
    made = Columns.of(torch.tensor([[-300.0, 500.0, -100.0, 200.0, -200.0, 0.0, 100.0]]), torch.tensor([0]))
    assert made.best.tolist() == [[1, 3, 6, 5, 2]]
    assert (made.label_probability.item(), made.confidence.item()) == (0, 1)


def test_fewer_classes_than_are_kept() -> None:
    made = Columns.of(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]))
    assert made.best.tolist() == [[1, 2, 0, -1, -1]]
    masked = Columns.of(torch.tensor([[0.0, 2.0, 1.0, 9.0, 5.0, 8.0]]), torch.tensor([2]), torch.tensor([0, 2]))
    assert masked.best.tolist() == [[2, 0, -1, -1, -1]]


def test_restricted_outputs_leave_out_a_class_that_wins() -> None:
    logits = torch.tensor([[1.0, 9.0, 2.0, 8.0], [1.0, 9.0, 0.0, 8.0]])
    labels, allowed = torch.tensor([2, 2]), torch.tensor([0, 2])
    full, masked = Columns.of(logits, labels), Columns.of(logits, labels, allowed)
    assert (full.best[:, 0].tolist(), masked.best[:, 0].tolist()) == ([1, 1], [2, 0])
    assert full.outcome.correct.tolist() == [False, False]
    assert masked.outcome.correct.tolist() == [True, False]
    np.testing.assert_allclose(masked.label_probability, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)
    np.testing.assert_allclose(masked.confidence, 1 / (1 + np.exp(-1)), rtol=1e-6)
    assert (full.label_probability < 0.001).all()
    assert masked.label.tolist() == [2, 2]


def test_a_label_outside_the_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="label is not among the classes that the outputs are restricted to"):
        Columns.of(torch.zeros(2, 4), torch.tensor([0, 3]), torch.tensor([0, 2]))


def test_files_have_the_documented_columns_and_give_back_what_was_written(store: Store) -> None:
    place, allowed = store.place("test", "sha256:" + "b" * 64, "member"), torch.tensor([2, 3, 5])
    written = {"full": predictions(6), "masked": predictions(6, allowed=allowed)}
    store.write(place, 0, written)
    (path,) = place.iterdir()
    assert path.name == "00000000-00000006.parquet"
    schema = pq.read_schema(path)
    assert schema.names == [f"{kind}_{name}" for kind in ("full", "masked") for name in FIELDS]
    integers = {name for name in FIELDS if name not in ("label_probability", "confidence")}
    for kind in ("full", "masked"):
        types = {name: schema.field(f"{kind}_{name}").type for name in FIELDS}
        assert types == {name: pa.int16() if name in integers else pa.float32() for name in FIELDS}
        read = store.read(place, kind, 6)
        assert read.best.shape == (6, BEST)
        for name in ("label", "best", "label_probability", "confidence"):
            np.testing.assert_array_equal(getattr(read, name), getattr(written[kind], name))
            assert getattr(read, name).dtype == getattr(written[kind], name).dtype


def test_places_differ_by_part_images_and_member(store: Store, tmp_path: Path) -> None:
    identity = "sha256:" + "0123456789abcdef" * 4
    assert store.place("fog/3", identity, "m") == tmp_path / "predictions" / "fog_3" / "0123456789abcdef" / "m"
    assert store.place("fog/3", "sha256:" + "f" * 64, "m") != store.place("fog/3", identity, "m")


def test_shards_are_joined_in_order(store: Store, place: Path) -> None:
    assert store.covered(place, 10) == [(0, 4), (4, 8), (8, 10)]
    read = store.read(place, "full", 10)
    parts = [predictions(count, start) for start, count in ((0, 4), (4, 4), (8, 2))]
    np.testing.assert_array_equal(read.confidence, np.concatenate([part.confidence for part in parts]))
    np.testing.assert_array_equal(read.best, np.concatenate([part.best for part in parts]))
    assert store.covered(place.parent / "other", 10) == []


def test_what_a_killed_process_was_writing_is_no_shard(store: Store, place: Path) -> None:
    (place / ".00000008-00000010.parquet.x1y2.tmp.parquet").write_bytes(b"PAR1")
    assert store.covered(place, 10) == [(0, 4), (4, 8), (8, 10)]
    assert len(store.read(place, "full", 10)) == 10


def test_missing_shards_are_an_error_of_reading_only(store: Store, place: Path) -> None:
    (place / "00000004-00000008.parquet").unlink()
    assert store.covered(place, 10) == [(0, 4), (8, 10)]
    with pytest.raises(PredictionError, match=f"^{place}: predictions on 10 images expected, some are missing; run it"):
        store.read(place, "full", 10)


def refused(store: Store, place: Path, message: str) -> None:
    """Reading refuses with a message, and leaves every file as it is."""
    before = {path: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(PredictionError, match=message):
        store.read(place, "full", 10)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("length", [0, 7, 400, -1], ids=["empty", "header", "half", "without its last byte"])
def test_a_truncated_file_is_named(store: Store, place: Path, length: int) -> None:
    path = place / "00000004-00000008.parquet"
    path.write_bytes(path.read_bytes()[:length])
    refused(store, place, f"^{path} is damaged .*; remove it, the predictions are made again")


def test_a_changed_byte_of_the_data_is_found(store: Store, tmp_path: Path) -> None:
    place = store.place("test", "sha256:" + "c" * 64, "member")
    written = predictions(10)
    store.write(place, 0, {"full": written})
    path = place / "00000000-00000010.parquet"
    content = bytearray(path.read_bytes())
    content[content.index(written.confidence[3].tobytes())] ^= 1
    path.write_bytes(bytes(content))
    refused(store, place, f"^{path} is damaged .*; remove it")


def test_a_file_with_other_columns_is_named(store: Store, place: Path) -> None:
    path = place / "00000004-00000008.parquet"
    pq.write_table(pa.table({"full_label": [1, 2, 3, 4]}), path)
    refused(store, place, f"^{path} is damaged")
    with pytest.raises(PredictionError, match="00000000-00000004.parquet is damaged .*masked"):
        store.read(place, "masked", 10)


def test_a_file_with_another_number_of_rows_is_named(store: Store, place: Path) -> None:
    path = place / "00000004-00000008.parquet"
    shutil.copy(place / "00000008-00000010.parquet", path)
    refused(store, place, f"^{path} has 2 rows, expected 4 by its name; remove it")


@pytest.mark.parametrize(
    "name", ["notes.parquet", "4-8.parquet", "00000008-00000004.parquet", "00000003-00000003.parquet"]
)
def test_a_foreign_name_is_named(store: Store, place: Path, name: str) -> None:
    shutil.copy(place / "00000008-00000010.parquet", place / name)
    refused(store, place, f"^{place / name}: not a name of a shard .*; remove the file")


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [(2, 6, "expected images from 4 on of 10, found images 2 to 6"), (10, 12, "expected images from 10 on of 10")],
    ids=["overlap", "beyond the end"],
)
def test_shards_that_contradict_each_other_are_named(
    store: Store, place: Path, start: int, stop: int, message: str
) -> None:
    path = place / f"{start:08d}-{stop:08d}.parquet"
    store.write(place, start, {"full": predictions(stop - start)})
    refused(store, place, f"^{path}: {message}.*; remove {place}, they are made again")
