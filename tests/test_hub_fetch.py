"""Fetching from a hub on this machine, through the unmodified client."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hub_server import TOKEN, Hub, etag, point_at, served
from huggingface_hub import constants

from langmerge import hub_fetch
from langmerge.errors import LangmergeError
from langmerge.merging import hub as recipe_hub

NAME, GATED = "org/model", "org/gated"
SHARDS = {f"model-{n:05d}-of-00002.safetensors": os.urandom(60_000) for n in (1, 2)}
FIRST = min(SHARDS)
FILES = {
    "config.json": b"{}",
    "README.md": b"---\nlicense: llama2\n---\n",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "tokenizer.json": b'{"model": {}}',
    "modeling_mine.py": b"raise SystemExit('code was run')",
    "pytorch_model.bin": os.urandom(60_000),
    **SHARDS,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A hub, and an empty cache."""
    hub = Hub()
    first = hub.add("model", NAME, {**FILES, "config.json": b'{"old": 1}'})
    second = hub.add("model", NAME, FILES)
    hub.add("model", GATED, FILES)
    with served(hub) as address:
        point_at(monkeypatch, address, str(tmp_path / "hf"))
        # The client waits a second before it takes a connection up again, and writes 10 MB at once.
        monkeypatch.setattr(time, "sleep", lambda _: None)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        yield SimpleNamespace(hub=hub, first=first, second=second, address=address, top=tmp_path)


def left_over(place):
    """Files without their final name."""
    return [path for path in (place.top / "hf").rglob("*.incomplete") if path.is_file()]


def test_a_repository_is_fetched_whole_without_code_and_once(place):
    one = hub_fetch.resolve(NAME)
    assert one.commit == place.second
    assert one.files[FIRST].sha256 == etag(SHARDS[FIRST])
    folder = hub_fetch.fetch(one)
    wanted = set(FILES) - {"modeling_mine.py", "pytorch_model.bin"}
    assert {path.name for path in folder.iterdir()} == wanted == set(one.wanted())
    for name in wanted:
        assert (folder / name).read_bytes() == FILES[name]
    asked = sorted(place.hub.files_asked("GET"))
    assert not one.missing()
    assert hub_fetch.fetch(hub_fetch.resolve(NAME)) == folder
    assert sorted(place.hub.files_asked("GET")) == asked


def test_a_revision_is_pinned_to_its_commit(place):
    old = hub_fetch.resolve(NAME, place.first)
    assert old.commit == place.first
    assert (hub_fetch.fetch(old) / "config.json").read_bytes() == b'{"old": 1}'
    assert (hub_fetch.fetch(hub_fetch.resolve(NAME)) / "config.json").read_bytes() == b"{}"


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(place):
    place.hub.cut[FIRST] = [20_000, 45_000]
    folder = hub_fetch.fetch(hub_fetch.resolve(NAME))
    assert (folder / FIRST).read_bytes() == SHARDS[FIRST]
    ranges = [its for _, path, its in place.hub.requests if path.endswith(FIRST) and its]
    starts = [int(its.removeprefix("bytes=").split("-")[0]) for its in ranges]
    assert starts == [4096 * (20_000 // 4096), 4096 * (45_000 // 4096)]
    assert not left_over(place)


def test_what_was_finished_before_the_network_went_is_not_fetched_again(place):
    # So many cuts at one place that the client gives up.
    place.hub.cut[FIRST] = [1] * 40
    one = hub_fetch.resolve(NAME)
    with pytest.raises(LangmergeError, match=r"org/model.*run the same command again"):
        hub_fetch.fetch(one)
    assert not left_over(place)
    assert hub_fetch.cached(one, FIRST) is None
    place.hub.cut.clear()
    there = set(one.wanted()) - set(one.missing())
    before = len(place.hub.requests)
    folder = hub_fetch.fetch(one)
    again = {
        path.rsplit("/", 1)[1] for method, path, _ in place.hub.requests[before:] if method == "GET"
    }
    assert not again & there
    assert (folder / FIRST).read_bytes() == SHARDS[FIRST]


def test_a_file_that_is_not_what_the_hub_states_is_removed_and_fetched_anew(place):
    place.hub.damaged.add(FIRST)
    one = hub_fetch.resolve(NAME)
    with pytest.raises(LangmergeError, match=rf"{FIRST} is not what the hub states"):
        hub_fetch.fetch(one)
    assert list(one.missing()) == [FIRST]
    place.hub.damaged.clear()
    assert (hub_fetch.fetch(one) / FIRST).read_bytes() == SHARDS[FIRST]


def test_a_small_file_is_compared_too(place):
    place.hub.damaged.add("tokenizer.json")
    with pytest.raises(LangmergeError, match=r"tokenizer\.json is not what"):
        hub_fetch.fetch(hub_fetch.resolve(NAME))


def test_a_gated_repository_needs_a_token_with_access(place, monkeypatch):
    place.hub.gate(GATED, TOKEN)
    one = hub_fetch.resolve(GATED)
    assert one.gated
    with pytest.raises(LangmergeError, match=rf"no token.*{GATED}, log in with `hf auth login`"):
        hub_fetch.check_access([one])
    with pytest.raises(LangmergeError, match="gated, and no token"):
        hub_fetch.fetch(one)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(LangmergeError, match="your token has no access"):
        hub_fetch.check_access([one])
    with pytest.raises(LangmergeError, match="your token has no access"):
        hub_fetch.fetch(one)
    assert not [path for path in (place.top / "hf").rglob("*.safetensors")]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub_fetch.check_access([one])
    assert hub_fetch.fetch(one).is_dir()


@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("org/nothing", None, "is not on the hub, or is private"),
        (NAME, "v9", "has no revision 'v9'"),
        ("org/model/more", None, "org/model/more"),
    ],
)
def test_what_the_hub_does_not_have_is_named(place, name, revision, says):
    with pytest.raises(LangmergeError, match=says):
        hub_fetch.resolve(name, revision)


def test_without_a_network_the_message_says_so(place, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LangmergeError, match="when the network is back"):
        hub_fetch.resolve(NAME)


def test_offline_what_was_fetched_is_there_and_the_rest_is_named(place, monkeypatch):
    one = hub_fetch.resolve(NAME)
    folder = hub_fetch.fetch(one)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(place.hub.requests)
    assert set(hub_fetch.from_cache(NAME, one.commit).wanted()) == set(one.wanted())
    assert recipe_hub.folder_of(f"{NAME}@{one.commit}") == folder
    with pytest.raises(LangmergeError, match="HF_HUB_OFFLINE forbids"):
        hub_fetch.from_cache(NAME, place.first)
    (folder / FIRST).unlink()
    with pytest.raises(LangmergeError, match="HF_HUB_OFFLINE forbids"):
        hub_fetch.from_cache(NAME, one.commit)
    with pytest.raises(LangmergeError, match="HF_HUB_OFFLINE"):
        hub_fetch.resolve(NAME)
    assert len(place.hub.requests) == asked


def test_recipes_take_their_models_from_the_same_hub(place):
    assert recipe_hub.bytes_to_fetch(NAME) == sum(
        len(data)
        for name, data in FILES.items()
        if name not in ("modeling_mine.py", "pytorch_model.bin")
    )
    assert not recipe_hub.is_here(NAME)
    folder = recipe_hub.folder_of(f"{NAME}@{place.first}")
    assert (folder / FIRST).read_bytes() == SHARDS[FIRST]
    assert recipe_hub.is_here(f"{NAME}@{place.first}")


def test_the_client_finds_the_hub_by_its_environment_alone(place):
    """In a process of its own, where nothing is patched."""
    code = f"from langmerge import hub_fetch\nprint(hub_fetch.fetch(hub_fetch.resolve({NAME!r})))"
    environment = {
        **os.environ,
        "HF_ENDPOINT": place.address,
        "HF_HOME": str(place.top / "other"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"models--org--model/snapshots/{place.second}")
