import hashlib
import os
import platform
import sys
import time
import tracemalloc

import numpy as np
import pytest

from scaling.data import batches, held_out, open_source
from scaling.data.corpus import Corpus
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec


def _run(source: str, *, vocab_size: int = 256, context: int = 32, batch: int = 8) -> RunSpec:
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=vocab_size, context=context),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=source),
        eval=EvalSpec(tokens=context),
        batch=batch,
        steps=10,
    )


def _open(source: str, **fields) -> Corpus:
    run = _run(source, **fields)
    corpus = open_source(run.data, run.model)
    assert isinstance(corpus, Corpus)
    return corpus


def _content(documents) -> bytes:
    return b"".join(block.tobytes() for block in documents.blocks())


def _is_held_out(path: str) -> bool:
    return int.from_bytes(hashlib.sha256(path.encode()).digest(), "big") % 20 == 0


# bytes:stdlib


def test_the_library_is_python_source_without_tests():
    corpus = _open("bytes:stdlib")
    assert corpus.train_tokens > 5e6 and 1e5 < corpus.held_out_tokens < 1.5e6
    text = _content(corpus.whole)
    with open(os.__file__, "rb") as file:
        assert file.read() in text
    assert b"class TestResult" in text  # unittest is part of the library, its tests are not
    assert b"test_list_tests" not in text and b"class EditorWindow" not in text  # of test.regrtest and of idlelib
    assert corpus.vocab_size == 256 and corpus.bytes_per_token == 1.0 and corpus.entropy is None


def test_each_library_document_is_on_one_side():
    corpus = _open("bytes:stdlib")
    train, tested = _content(corpus.train), _content(corpus.held_out)
    assert len(train) + len(tested) == len(_content(corpus.whole))
    for i in range(len(corpus.whole.sizes)):
        document = corpus.whole.open_document(i).tobytes()
        if len(document) > 2000:
            assert (document in train) != (document in tested)


def test_a_record_can_tell_which_library_it_was():
    facts = _open("bytes:stdlib").provenance
    assert facts["python"] == f"{platform.python_implementation()} {platform.python_version()}"
    assert facts["sha256"] == hashlib.sha256(_content(_open("bytes:stdlib").whole)).hexdigest()
    assert all(isinstance(value, str) for value in facts.values())


def test_the_library_of_cpython_3_11_7_is_the_one_the_reference_results_used():
    facts = _open("bytes:stdlib").provenance
    if facts["python"] != "CPython 3.11.7" or facts["files"] != "386":
        pytest.skip("another Python version, or a distribution that ships other files")
    assert facts["train_tokens"] == "7332643" and facts["held_out_tokens"] == "485684"
    assert facts["held_out_files"] == "20"
    assert facts["sha256"].startswith("5e1305f6362aaf35")


# text:PATH


@pytest.fixture
def folder(tmp_path):
    for i in range(100):
        path = tmp_path / ("deep/er" if i % 2 else ".") / f"{i:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * (5 + i * 7 % 50))
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_bytes(b"\xff" * 1000)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"\xfe" * 1000)
    return tmp_path


def test_a_folder_holds_out_whole_documents_by_the_hash_of_their_path(folder):
    corpus = _open(f"text:{folder}")
    expected = {i for i in range(100) if _is_held_out(f"deep/er/{i:02}.txt" if i % 2 else f"{i:02}.txt")}
    assert expected and set(_content(corpus.held_out)) == expected
    assert set(_content(corpus.train)) == set(range(100)) - expected


def test_windows_of_a_folder_are_windows_of_its_documents_end_to_end(folder):
    corpus, run = _open(f"text:{folder}"), _run(f"text:{folder}")
    text = _content(corpus.train)
    windows = (len(text) - 1) // 32
    rows = batches(corpus, run, 0, windows // 8).reshape(-1, 33)
    crossing = [row for row in rows if len(set(row.tolist())) > 1]
    assert len(crossing) > 50
    starts = {text[i * 32 : i * 32 + 33] for i in range(windows)}
    assert {row.tobytes() for row in rows} <= starts
    tested = held_out(corpus, 64, 32).token_RxT
    assert tested[0].tobytes() + tested[1, 1:].tobytes() == _content(corpus.held_out)[:65]


def test_a_folder_always_holds_out_a_document(tmp_path):
    for name in "ab":  # the hash of neither is a multiple of 20
        assert not _is_held_out(name)
        (tmp_path / name).write_bytes(name.encode() * 100)
    corpus = _open(f"text:{tmp_path}")
    first = min("ab", key=lambda name: hashlib.sha256(name.encode()).digest())
    assert _content(corpus.held_out) == first.encode() * 100
    assert len(_content(corpus.train)) == 100


def test_the_last_twentieth_of_a_file_is_held_out(tmp_path):
    text = bytes(np.random.default_rng(0).integers(0, 256, 10_019, np.uint8))
    (tmp_path / "a.txt").write_bytes(text)
    corpus = _open(f"text:{tmp_path}/a.txt")
    assert _content(corpus.train) == text[:-500] and _content(corpus.held_out) == text[-500:]
    assert corpus.provenance["sha256"] == hashlib.sha256(text).hexdigest()


def test_a_file_that_changed_is_opened_anew(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 1000)
    before = _open(f"text:{path}")
    assert _open(f"text:{path}") is before
    path.write_bytes(b"b" * 2000)
    assert _open(f"text:{path}").train_tokens == 1900
    assert _open(f"text:{path}").provenance["sha256"] != before.provenance["sha256"]


def test_a_file_larger_than_memory_is_never_read_whole(tmp_path):
    size = 2 << 30
    with open(tmp_path / "big.txt", "wb") as file:
        file.truncate(size)  # sparse
        file.seek(size - 1)
        file.write(b"\x01")
    start = time.process_time()
    tracemalloc.start()
    corpus, run = _open(f"text:{tmp_path}/big.txt"), _run(f"text:{tmp_path}/big.txt")
    rows = batches(corpus, run, 10, 20)
    tested = held_out(corpus, 3200, 32).token_RxT
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (20, 8, 33) and tested.shape == (100, 33)
    assert corpus.train_tokens + corpus.held_out_tokens == size
    assert peak_bytes < 5e6
    assert time.process_time() - start < 1
    assert corpus.provenance["sha256"].endswith("of 1024 blocks of 65536 B")


def test_a_large_text_is_told_apart_by_blocks_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.data.corpus._HASHED_BYTES", 10**6)
    seen = set()
    for place in (0, 10**6, 2 * 10**6 - 1):
        text = np.zeros(2 * 10**6, np.uint8)
        text[place] = 1
        path = tmp_path / f"{place}.txt"
        path.write_bytes(text.tobytes())
        seen.add(_open(f"text:{path}").provenance["sha256"])
    assert len(seen) == 3


def test_many_documents_need_few_open_files(tmp_path):
    resource = pytest.importorskip("resource")
    for i in range(300):
        (tmp_path / f"{i}.txt").write_bytes(b"%d " % i * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 100, hard))
    try:
        corpus, run = _open(f"text:{tmp_path}"), _run(f"text:{tmp_path}")
        assert batches(corpus, run, 0, 50).shape == (50, 8, 33)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# tokens:PATH


def test_a_token_file_reads_the_same_in_every_form(tmp_path):
    ids = np.random.default_rng(0).integers(0, 50_000, 3000)
    ids[7] = 49_999
    ids.astype("<u2").tofile(tmp_path / "two.bin")
    ids.astype("<u4").tofile(tmp_path / "four.bin")
    np.save(tmp_path / "eight.npy", ids)
    np.save(tmp_path / "swapped.npy", ids.astype(">i4"))
    forms = {"{}/two.bin": 50_257, "uint16:{}/two.bin": 10**5, "{}/four.bin": 10**5, "uint32:{}/four.bin": 50_257,
             "{}/eight.npy": 50_257, "{}/swapped.npy": 50_257}  # fmt: skip
    for form, vocab_size in forms.items():
        name = f"tokens:{form.format(tmp_path)}"
        run = _run(name, vocab_size=vocab_size)
        corpus = _open(name, vocab_size=vocab_size)
        assert corpus.vocab_size == 50_000 and corpus.bytes_per_token is None
        assert (corpus.train_tokens, corpus.held_out_tokens) == (2850, 150)
        np.testing.assert_array_equal(held_out(corpus, 128, 32).token_RxT[:, 1:].ravel(), ids[2851 : 2851 + 128])
        rows = batches(corpus, run, 0, 11).reshape(-1, 33)  # one epoch is 89 windows
        assert {tuple(row) for row in rows.tolist()} <= {tuple(ids[i * 32 : i * 32 + 33].tolist()) for i in range(89)}


@pytest.mark.parametrize("suffix", ["bin", "npy"])
def test_a_folder_of_train_and_val_keeps_its_own_split(tmp_path, suffix):
    for name, ids in (("train", np.arange(2000, dtype=np.uint16)), ("val", np.arange(2000, 2500, dtype=np.uint16))):
        ids.tofile(tmp_path / f"{name}.bin") if suffix == "bin" else np.save(tmp_path / f"{name}.npy", ids)
    corpus = _open(f"tokens:{tmp_path}", vocab_size=2500)
    assert np.concatenate([*corpus.train.blocks()]).tolist() == list(range(2000))
    assert np.concatenate([*corpus.held_out.blocks()]).tolist() == list(range(2000, 2500))
    assert corpus.vocab_size == 2500
