"""Where files are looked for, what a checksum decides, and downloads from a local server."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from real_data import real_data

from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import (
    CorpusFile,
    CorpusSource,
    CorpusWarning,
    checksum_of,
    download,
    find,
)
from erc_bench.corpus.text_files import read_csv
from erc_bench.errors import ErcBenchError
from erc_bench.files import cache_folder

CONTENT = {split: f"label,text\nyes,{split} one\nno,two\n".encode() for split in ("train", "test")}


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Tiny(CorpusSource):
    """A corpus of two files with one dialogue of two utterances each."""

    name = "tiny"
    labels = LabelSet(("no", "yes"))
    counts = {"train": (1, 2), "test": (1, 2)}  # noqa: RUF012

    def __init__(self, url=None):
        self.files = {
            split: CorpusFile(
                f"tiny/{split}.csv",
                sha256(data),
                url and f"{url}/{split}.csv",
                (CorpusFile(f"tiny/other/{split}.csv", sha256(data)),),
            )
            for split, data in CONTENT.items()
        }

    def parse(self, paths):
        return {split: [self.dialogue(split, path)] for split, path in paths.items()}

    def dialogue(self, split, path):
        rows = enumerate(read_csv(path, ("label", "text")))
        turns = [
            Utterance(f"{split}-{i}", "Ann", text.strip(), self.labels.index(label, where))
            for i, (where, (label, text)) in rows
        ]
        return Dialogue(split, tuple(turns))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def put(folder, contents=CONTENT):
    for split, data in contents.items():
        path = folder / "tiny" / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


class Server(BaseHTTPRequestHandler):
    """Serves ``server.pages``; answers 503 to the first ``server.busy`` requests."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if len(self.server.requests) <= self.server.busy:
            self.send_error(503)
        elif self.path not in self.server.pages:
            self.send_error(404)
        else:
            data = self.server.pages[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.pages = {f"/{split}.csv": data for split, data in CONTENT.items()}
    server.requests, server.busy = [], 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


# Where files are looked for


def test_the_cache_follows_xdg(tmp_path):
    assert cache_folder() == tmp_path / "cache" / "erc-bench"


def test_the_order_of_the_folders(tmp_path, monkeypatch):
    file = Tiny().files["train"]
    assert find(file, None).path is None
    put(cache_folder())
    assert find(file, None).cached
    put(tmp_path / "env")
    monkeypatch.setenv("ERC_BENCH_DATA", str(tmp_path / "env"))
    assert find(file, None).path == tmp_path / "env" / "tiny" / "train.csv"
    given = put(tmp_path / "given")
    assert find(file, given).path == given / "tiny" / "train.csv"
    (given / "tiny" / "train.csv").unlink()
    assert find(file, given).path == tmp_path / "env" / "tiny" / "train.csv"


def test_an_alternative_path_is_found(tmp_path):
    folder = put(tmp_path / "data")
    (folder / "tiny").rename(folder / "other")
    (folder / "tiny").mkdir()
    (folder / "other").rename(folder / "tiny" / "other")
    assert Tiny().prepare(folder)["test"] == folder / "tiny" / "other" / "test.csv"
    assert Tiny().load(folder).name == "tiny"


@pytest.mark.parametrize("origin", ["--data-dir", "ERC_BENCH_DATA"])
def test_a_folder_that_does_not_exist_is_an_error(tmp_path, monkeypatch, origin):
    nowhere = tmp_path / "nowhere"
    if origin == "ERC_BENCH_DATA":
        monkeypatch.setenv(origin, str(nowhere))
    with pytest.raises(ErcBenchError, match=rf"{origin} names .*nowhere, which is not a folder"):
        Tiny().load(nowhere if origin == "--data-dir" else None)


def test_the_checksum_of_git(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert checksum_of(tmp_path / "empty", "git-blob") == (
        "git-blob:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    )
    assert checksum_of(tmp_path / "hello", "git-blob") == (
        "git-blob:ce013625030ba8dba906f756967f9e9ca394464a"
    )


# What a checksum decides


def test_official_files_load_without_a_warning(tmp_path, recwarn):
    corpus = Tiny().load(put(tmp_path))
    assert corpus.dialogues("train")[0].utterances[0].text == "train one"
    assert not [w for w in recwarn if issubclass(w.category, CorpusWarning)]


def test_another_copy_with_the_right_counts_loads_with_a_warning(tmp_path):
    official = Tiny().load(put(tmp_path / "a"))
    other = put(tmp_path / "b", {**CONTENT, "test": CONTENT["test"].replace(b"\n", b"\r\n")})
    with pytest.warns(CorpusWarning, match=r"checksum of .*test\.csv is not the official one"):
        assert Tiny().load(other).digest == official.digest
    assert [s.state for s in Tiny().status(other)] == ["present", "checksum fails"]


def test_another_copy_with_other_counts_is_an_error(tmp_path):
    folder = put(tmp_path, {**CONTENT, "test": CONTENT["test"] + b"yes,three\n"})
    with pytest.raises(ErcBenchError) as caught:
        Tiny().load(folder)
    message = str(caught.value)
    assert message.startswith("tiny, test: 3 labelled utterances, the release has 2.")
    assert f"The checksum of {folder / 'tiny' / 'test.csv'} is not the official one." in message
    assert "\n" not in message


def test_a_damaged_file_in_the_cache_is_an_error_even_if_it_parses():
    put(cache_folder(), {**CONTENT, "test": CONTENT["test"] + b"\n"})
    with pytest.raises(
        ErcBenchError, match=r"checksum of .*test\.csv fails.*Delete it and run `erc"
    ):
        Tiny().load()


# Downloads


def test_a_download_is_moved_into_place(server):
    corpus = Tiny(server.url).load()
    assert corpus.splits["test"].num_rows == 1
    cached = cache_folder() / "tiny"
    assert sorted(path.name for path in cached.iterdir()) == ["test.csv", "train.csv"]
    assert Tiny(server.url).prepare()["train"] == cached / "train.csv"
    assert len(server.requests) == 2


def test_a_busy_server_is_asked_again(server):
    server.busy = 1
    target = cache_folder() / "train.csv"
    download(f"{server.url}/train.csv", target, sha256(CONTENT["train"]))
    assert target.read_bytes() == CONTENT["train"]
    assert len(server.requests) == 2


def test_a_download_with_a_git_checksum(server, tmp_path):
    server.pages["/hello"] = b"hello\n"
    checksum = "git-blob:ce013625030ba8dba906f756967f9e9ca394464a"
    assert download(f"{server.url}/hello", tmp_path / "h", checksum).read_bytes() == b"hello\n"


def test_a_download_with_a_wrong_checksum_leaves_nothing(server):
    server.pages["/test.csv"] += b"tampered"
    with pytest.raises(
        ErcBenchError, match=r"test\.csv is not the file expected.*Nothing was kept"
    ):
        Tiny(server.url).load()
    assert [path.name for path in (cache_folder() / "tiny").iterdir()] == ["train.csv"]


def test_a_missing_page_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(ErcBenchError, match="404"):
        download(f"{server.url}/none", tmp_path / "none", sha256(b""))
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_network_and_no_file_is_one_clear_error(server):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ErcBenchError) as caught:
        Tiny(url).load()
    message = str(caught.value)
    for words in (
        f"{url}/train.csv",
        str(cache_folder() / "tiny" / "train.csv"),
        "Connection refused",
        "--dataset demo needs no files",
    ):
        assert words in message
    assert list((cache_folder() / "tiny").iterdir()) == []


def test_a_cache_that_can_not_be_written_is_an_error(server, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"can't be written.*XDG_CACHE_HOME"):
        download(f"{server.url}/train.csv", tmp_path / "file" / "x.csv", sha256(b""))


def test_a_licensed_corpus_is_not_downloaded():
    with pytest.raises(ErcBenchError, match=r"tiny/train\.csv is missing\. The corpus is licensed"):
        Tiny().prepare()


# Through the command line


def erc_bench(*args, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "erc_bench.cli", *args],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_missing_data_without_network(tmp_path):
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    result = erc_bench("data", "prepare", "meld", cwd=tmp_path, **closed)
    assert result.returncode == 2
    assert result.stdout == ""
    message = result.stderr.splitlines()[-1]
    for words in (
        "https://raw.githubusercontent.com/",
        "erc-bench/meld/train_sent_emo.csv",
        "demo",
    ):
        assert words in message
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["wrong checksum", "truncated"])
def test_a_damaged_file(tmp_path, damage):
    cached = damage == "wrong checksum"
    folder = cache_folder() if cached else tmp_path / "own"
    shutil.copytree(real_data("meld") / "meld", folder / "meld", copy_function=shutil.copyfile)
    path = folder / "meld" / "dev_sent_emo.csv"
    data = path.read_bytes()
    path.write_bytes(data + b"\n" if cached else data[:5000])
    options = [] if cached else ["--data-dir", str(folder)]
    result = erc_bench("data", "stats", "meld", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert f"{path}" in line
    assert "checksum" in line
    assert damage == "wrong checksum" or ("line " in line and "truncated" in line)


def test_importing_is_light():
    heavy = "{'torch', 'transformers', 'lightning', 'datasets', 'pandas', 'pooch', 'requests'}"
    modules = "erc_bench.corpus.source, erc_bench.datamodules.iemocap, erc_bench.datamodules.demo"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
