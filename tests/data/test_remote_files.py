"""Packed files at a URL: the batches of the file on a disk, whatever the server, the network, other processes and kills do meanwhile."""

import errno
import fcntl
import gc
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.parse
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
from tests.engines.local.faults import wait_until
from tests.store.s3_server import s3
from tests.support import fill_disk
from tests.support.network_proxy import ChaosProxy
from tests.support.object_server import ObjectServer

from hooke import HookeError, MissingExtra, UsageError
from hooke.data import PackedFile, Shuffled, Stratified, TokenBuckets, pack
from hooke.data.cache_folder import CacheFolder
from hooke.data.remote_files import RemoteObject

__all__ = ["s3"]

pytestmark = pytest.mark.needs("processes")
MEMORY = 800_000
"""Of a window: less than a file has, so that blocks are drawn whole."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Packed files of each kind, of a MB or two."""
    folder = tmp_path_factory.mktemp("files")
    chance = np.random.default_rng(0)
    sizes = chance.integers(0, 600, 5000).tolist()
    texts = [chance.bytes(size // 2).hex() for size in sizes]
    table = {"x": chance.random((5000, 20)), "text": texts, "label": chance.integers(0, 3, 5000)}
    made = {
        "array": pack(chance.random((4000, 50)), folder / "array.packed"),
        "columns": pack(table, folder / "columns.packed"),
        "texts": pack(texts, folder / "texts.packed"),
        "large": pack((chance.bytes(size * 200) for size in sizes[:40]), folder / "large.packed"),
    }
    return made, texts, table["label"]


def put(path, url, **how):
    fs, at = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    fs.pipe_file(at, Path(path).read_bytes())
    return url


@pytest.fixture(scope="module")
def uploaded(s3, files):
    return {kind: put(path, f"{s3}/data/{kind}.packed") for kind, path in files[0].items()}


def shuffled(place, batch=16, memory=MEMORY, **how):
    options = {name: how.pop(name) for name in ("cache", "cache_bytes", "warm") if name in how}
    return Shuffled(PackedFile(place, memory=memory, **options), seed=3, batch=batch, memory=memory, **how)


def same(one, other):
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def check_alike(here, there, epochs=(0, 1), **how):
    count = 0
    for epoch in epochs:
        for one, other in zip(here.batches(epoch, **how), there.batches(epoch, **how), strict=True):
            assert same(one, other)
            count += 1
    assert count


def taken(cache):
    """Of all parts at one moment: while they are counted, none comes or goes."""
    room = os.open(Path(cache) / "hooke-room", os.O_RDWR)
    fcntl.flock(room, fcntl.LOCK_EX)
    try:
        return sum(path.stat().st_size for path in parts_in(cache))
    finally:
        os.close(room)


def parts_in(cache):
    return sorted(Path(cache).glob("*/units/*/*"))


# --- The same batches.


@pytest.mark.long
@pytest.mark.parametrize("kind", ["array", "columns", "texts", "large"])
def test_batches_are_those_of_the_file_with_and_without_copies(kind, files, uploaded, tmp_path):
    here, there = shuffled(files[0][kind], warm=False), shuffled(uploaded[kind], cache=tmp_path)
    assert there.state_dict() == here.state_dict()
    check_alike(here, there)
    before = parts_in(tmp_path)
    assert before
    check_alike(here, shuffled(uploaded[kind], cache=tmp_path), epochs=(5,))
    assert parts_in(tmp_path) == before


@pytest.mark.long
@pytest.mark.parametrize("kind", ["array", "columns", "texts"])
def test_a_limit_below_the_file_is_kept_and_changes_no_batch(kind, files, tmp_path):
    """At each moment that a thread sees; with ranks that share lanes and those that do not, and from the middle on."""
    here = shuffled(files[0][kind], warm=False)
    limit = max(400_000, files[0][kind].stat().st_size // 3)
    with served(files[0]) as server:
        there = shuffled(server.s3(kind), cache=tmp_path, cache_bytes=limit)
        most = 0
        for how in ({"rank": 1, "ranks": 2}, {"rank": 2, "ranks": 5, "start": 100, "every": 3}):
            for one, other in zip(here.batches(1, **how), there.batches(1, **how), strict=True):
                assert same(one, other)
                most = max(most, taken(tmp_path))
    assert limit / 2 < most <= limit


def served(made, **how):
    """The object server with these files."""
    folder = next(iter(made.values())).parent
    server = ObjectServer(folder.parent, **how)
    server.s3 = lambda kind: f"s3://{folder.name}/{made[kind].name}"
    os.environ.update(server.environment)
    s3fs.S3FileSystem.clear_instance_cache()
    return server


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, os.environ.get(name, "testing"))
    yield
    s3fs.S3FileSystem.clear_instance_cache()  # it would talk to the server of another test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of connections that a server cut off
        gc.collect()


@pytest.mark.long
def test_each_byte_is_fetched_once_where_the_file_fits(files, tmp_path):
    with served(files[0]) as server:
        there = shuffled(server.s3("texts"), cache=tmp_path)
        server.served()
        check_alike(shuffled(files[0]["texts"], warm=False), there, epochs=range(4))
        ranges = server.served()
    assert sum(high - low for low, high in ranges) <= files[0]["texts"].stat().st_size
    assert len(set(ranges)) == len(ranges)


def least_recently_used(windows, room):
    """How many fetches a cache takes that forgets what was used longest ago."""
    held, fetches = {}, 0
    for unit in itertools.chain.from_iterable(windows):
        fetches += unit not in held
        held.pop(unit, None)
        held[unit] = None
        if len(held) > room:
            held.pop(next(iter(held)))
    return fetches


def used_last(windows, room):
    """As many as a cache that knows the future needs, where a window is used at once."""
    held, fetches = set(), 0
    for number, window in enumerate(windows):
        fetches += len(window - held)

        def next_use(unit, number=number):
            return next((at for at in range(number + 1, len(windows)) if unit in windows[at]), 1 << 30)

        held = set(sorted(held | window, key=next_use)[:room])
    return fetches


@pytest.mark.long
def test_what_is_used_last_gives_way(tmp_path):
    (tmp_path / "bucket").mkdir()
    path = pack(np.random.default_rng(0).random((20_000, 50)), tmp_path / "bucket" / "x.packed")
    with served({"x": path}) as server:
        there = shuffled(server.s3("x"), cache=tmp_path / "cache", cache_bytes=path.stat().st_size // 2)
        block = there.layout.block
        server.served()
        for epoch in range(3):
            for _ in there.batches(epoch):
                pass
        fetched = sum(high - low > 1000 for low, high in server.served())
    windows = [
        set((rows // block).tolist())
        for epoch in range(3)
        for rows in there._plan.windows(epoch, 0, 1, 0).blocks
    ]
    room = 20_000 // block // 2
    fewest, usual = used_last(windows, room), least_recently_used(windows, room)
    assert fewest < 0.8 * usual
    assert fetched < (fewest + usual) / 2, (fetched, fewest, usual)


@pytest.mark.long
@pytest.mark.parametrize("balance", ["stratified", "buckets"])
def test_balanced_batches_are_read_at_a_url_too(balance, files, uploaded, tmp_path):
    made, texts, labels = files
    way = (
        Stratified(labels)
        if balance == "stratified"
        else TokenBuckets(np.array([len(text) + 1 for text in texts]), tokens=5000)
    )
    here = shuffled(made["columns"], warm=False, balance=way)
    check_alike(here, shuffled(uploaded["columns"], cache=tmp_path, balance=way), epochs=(0,))


def test_any_url_of_fsspec(files, tmp_path):
    made = files[0]
    here = shuffled(made["texts"], warm=False)
    check_alike(here, shuffled(put(made["texts"], "memory://data/t.packed"), cache=tmp_path / "m"))
    check_alike(here, shuffled(f"file://{made['texts']}", cache=tmp_path / "f"))
    with served(made) as server:
        url = f"{server.url}/{made['texts'].parent.name}/texts.packed"
        check_alike(here, shuffled(url, cache=tmp_path / "h"))


def test_shuffled_takes_a_url_and_copies_go_to_the_users_cache(files, uploaded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there = Shuffled(uploaded["texts"], seed=3, batch=16, memory=MEMORY)
    check_alike(shuffled(files[0]["texts"], warm=False), there, epochs=(0,))
    assert taken(tmp_path / "hooke" / "data") > 0
    assert (tmp_path / "hooke" / "data").stat().st_mode & 0o777 == 0o700


def test_single_rows_are_read_in_any_order(files, uploaded, tmp_path):
    far, near = PackedFile(uploaded["columns"], cache=tmp_path), PackedFile(files[0]["columns"])
    for rows in ([4999, 0, 17], [], [3] * 5):
        assert same(far.take(rows), near.take(rows))
    with pytest.raises(IndexError):
        far.take([5000])


# --- Faults.


@pytest.mark.long
def test_cut_connections_are_tried_again(files, tmp_path):
    with served(files[0]) as server:
        there = shuffled(server.s3("texts"), cache=tmp_path, cache_bytes=700_000)
        server.set(cut=12)
        check_alike(shuffled(files[0]["texts"], warm=False), there, epochs=(0,))


@pytest.mark.long
def test_a_network_that_resets_connections(s3, files, uploaded, tmp_path, monkeypatch):
    """In a process of its own: the library that speaks HTTP never closes its side of such a connection."""
    endpoint = urllib.parse.urlparse(os.environ["AWS_ENDPOINT_URL"])
    with ChaosProxy((endpoint.hostname, endpoint.port)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*proxy.address))
        process = reader(uploaded["columns"], tmp_path, 1_200_000, epochs=1)
        for number in range(61):
            assert process.stdout.readline() == "a batch\n"
            if number in (3, 30, 60):
                proxy.reset()
        assert digest_of(process) == expected(files[0]["columns"], epochs=1)


def test_a_server_that_is_gone_is_an_error_that_names_it(files, tmp_path):
    with served(files[0]) as server:
        url = f"{server.url}/{files[0]['texts'].parent.name}/texts.packed"
        there = shuffled(url, cache=tmp_path)
    with pytest.raises(HookeError, match="cannot be read") as found:
        next(there.batches(0))
    assert url in str(found.value)
    assert "block" in found.value.where
    assert "5 times" in found.value.why
    assert "reaches the server" in found.value.fix


def damaged(path):
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 4] ^= 1
    return bytes(data)


def test_a_damaged_copy_is_fetched_again(files, uploaded, tmp_path):
    here = shuffled(files[0]["texts"], warm=False)
    check_alike(here, shuffled(uploaded["texts"], cache=tmp_path), epochs=(0,))
    for number, copy in enumerate(parts_in(tmp_path)):
        data = copy.read_bytes()
        copy.write_bytes(bytes(len(data)) if number % 2 else data[: len(data) // 2])
    check_alike(here, shuffled(uploaded["texts"], cache=tmp_path), epochs=(0,))


def test_a_block_that_is_damaged_at_the_server_is_refused(s3, files, tmp_path):
    url = f"{s3}/data/damaged.packed"
    put(files[0]["array"], url)
    fs, at = fsspec.core.url_to_fs(url)
    fs.pipe_file(at, damaged(files[0]["array"]))
    there = shuffled(url, cache=tmp_path)
    with pytest.raises(HookeError, match="is damaged") as found:
        for _ in there.batches(0):
            pass
    assert url in str(found.value)
    assert "block" in found.value.where
    assert "digest" in found.value.why


@pytest.mark.long
@pytest.mark.parametrize("change", ["same size", "shorter", "gone"])
def test_an_object_that_changed_is_refused(change, files, tmp_path):
    (tmp_path / "bucket").mkdir()
    path = tmp_path / "bucket" / "x.packed"
    path.write_bytes(files[0]["array"].read_bytes())
    with served({"x": path}) as server:
        there = shuffled(server.s3("x"), cache=tmp_path / "cache", cache_bytes=400_000)
        pickled = pickle.dumps(there)
        batches = there.batches(0)
        next(batches)
        if change == "gone":
            path.unlink()
        elif change == "shorter":
            pack(np.zeros((1000, 50)), path)
        else:
            pack(np.zeros((4000, 50)), path)
        with pytest.raises(UsageError, match="there is no" if change == "gone" else "another object"):
            for _ in batches:
                pass
        with pytest.raises(UsageError, match="there is no" if change == "gone" else "another file"):
            pickle.loads(pickled)


@pytest.mark.long
def test_what_cannot_be_opened_says_why(s3, files, uploaded, tmp_path):
    with pytest.raises(UsageError, match=r"there is no s3://hooke/nothing\.packed"):
        PackedFile(f"{s3}/nothing.packed", cache=tmp_path)
    with pytest.raises(UsageError, match="there is no s3://no-such-bucket"):
        PackedFile("s3://no-such-bucket/x.packed", cache=tmp_path)
    put(os.devnull, f"{s3}/text.packed")
    with pytest.raises(HookeError, match="is damaged"):
        PackedFile(f"{s3}/text.packed", cache=tmp_path)
    with pytest.raises(UsageError, match="protocol that fsspec knows"):
        PackedFile("nonsense://x/y.packed", cache=tmp_path)
    with pytest.raises(UsageError, match="cannot be mapped"):
        PackedFile(uploaded["texts"], cache=tmp_path, warm=True)
    with pytest.raises(UsageError, match="cache_bytes is .* too little") as found:
        PackedFile(uploaded["large"], cache=tmp_path, cache_bytes=1000)
    assert "pass at least" in found.value.fix
    with pytest.raises(UsageError, match="copies are made of what is at a URL"):
        PackedFile(files[0]["texts"], cache=tmp_path)
    with pytest.raises(UsageError, match="upload"):
        pack(["a"], f"{s3}/new.packed")


@pytest.mark.long
def test_an_object_that_may_not_be_read(files, tmp_path):
    with served(files[0]) as server:
        there = shuffled(server.s3("texts"), cache=tmp_path)
        server.set(refuse=True)
        with pytest.raises(UsageError, match="may not be read") as found:
            next(there.batches(0))
        assert "credentials" in found.value.fix
        with pytest.raises(UsageError, match="may not be read"):
            PackedFile(server.s3("texts"), cache=tmp_path)


def test_a_folder_that_cannot_be_written(uploaded, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HookeError, match="cannot be written"):
        PackedFile(uploaded["texts"], cache=tmp_path / "file").take([0])


@pytest.mark.long
def test_a_library_that_is_missing_is_named(tmp_path):
    code = "import sys; sys.modules['s3fs'] = None\nfrom hooke.data import PackedFile\nPackedFile('s3://a/b', cache=sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert MissingExtra.__name__ in done.stderr
    assert 'pip install "hooke-ml[remote]"' in done.stderr


# --- Several processes.

READER = """
    import hashlib, json, sys
    from hooke.data import PackedFile, Shuffled
    url, cache, limit, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None, int(sys.argv[4])
    data = Shuffled(PackedFile(url, memory=800_000, cache=cache, cache_bytes=limit), seed=3, batch=16, memory=800_000)
    digest = hashlib.sha256()
    for epoch in range(epochs):
        for batch in data.batches(epoch):
            digest.update(repr(batch).encode())
            print("a batch", flush=True)
    print(digest.hexdigest())
"""


def reader(url, cache, limit=0, epochs=2):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(READER), url, str(cache), str(limit), str(epochs)],
        stdout=subprocess.PIPE,
        text=True,
    )


def digest_of(process):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.split()[-1]


def expected(path, epochs=2):
    import hashlib

    digest = hashlib.sha256()
    here = shuffled(path, warm=False)
    for epoch in range(epochs):
        for batch in here.batches(epoch):
            digest.update(repr(batch).encode())
    return digest.hexdigest()


@pytest.mark.long
@pytest.mark.parametrize("limit", [0, 800_000])
def test_processes_share_a_folder(limit, files, tmp_path):
    with served(files[0], delay_s=0.01) as server:
        url = server.s3("texts")
        processes = [reader(url, tmp_path, limit) for _ in range(3)]
        digests = {digest_of(process) for process in processes}
        fetched = sum(high - low for low, high in server.served())
    assert digests == {expected(files[0]["texts"])}
    assert taken(tmp_path) <= (limit or 1 << 40)
    if not limit:  # each opens it, and reads its end; the rest is fetched by one of them
        assert fetched <= files[0]["texts"].stat().st_size + 3 * 300_000
        folder = folder_of(tmp_path, "other", limit=1 << 40)
        assert folder.taken() == taken(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("after", [0, 40])
def test_a_kill_in_the_middle_leaves_nothing_wrong(after, files, tmp_path):
    with served(files[0], delay_s=0.01) as server:
        url = server.s3("texts")
        process = reader(url, tmp_path, 800_000)
        for _ in range(after):
            process.stdout.readline()
        if not after:
            until = time.monotonic() + 60
            while not list(tmp_path.glob("*/tmp/*")) + parts_in(tmp_path) and time.monotonic() < until:
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert digest_of(reader(url, tmp_path, 800_000)) == expected(files[0]["texts"])
    folder = folder_of(tmp_path, "other", limit=1 << 40)
    assert folder.taken() == taken(tmp_path) <= 800_000
    assert not list(tmp_path.glob("*/tmp/*"))


def read_all(pickled, out):
    data = pickle.loads(pickled)
    out.put([repr(batch) for batch in data.batches(0, rank=1, ranks=2)])


@pytest.mark.long
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_ranks_open_it_by_its_url_and_forked_ones_too(method, files, tmp_path):
    with served(files[0]) as server:
        there = shuffled(server.s3("texts"), cache=tmp_path, cache_bytes=900_000)
        mine = [repr(batch) for batch in there.batches(0, rank=1, ranks=2)]
        context = multiprocessing.get_context(method)
        out = context.Queue()
        if method == "fork":

            def inherited():
                out.put([repr(batch) for batch in there.batches(0, rank=1, ranks=2)])

            process = context.Process(target=inherited)
        else:
            process = context.Process(target=read_all, args=(pickle.dumps(there), out))
        process.start()
        theirs = out.get(timeout=100)
        process.join(60)
        assert process.exitcode == 0
    here = shuffled(files[0]["texts"], warm=False)
    assert mine == theirs == [repr(batch) for batch in here.batches(0, rank=1, ranks=2)]


# --- The folder.


def name_of(file):
    """The name of its folder: as of a digest."""
    return f"{file.encode().hex():0>32}-{0:08}"


def folder_of(tmp_path, file, units=10, size=100, limit=1000):
    return CacheFolder(tmp_path, name_of(file), np.full(units, size), limit)


def filled(folder, units):
    for unit in units:
        assert folder.reserve(100, lambda: None)
        folder.store(unit, bytes(100))
    return folder


def test_files_that_no_process_uses_give_way_first(tmp_path):
    filled(folder_of(tmp_path, "old"), range(6))
    used = filled(folder_of(tmp_path, "used"), range(3))
    new = folder_of(tmp_path, "new")
    assert new.reserve(200, lambda: None)
    assert not (tmp_path / name_of("old")).exists()
    assert sorted(used.held()) == [0, 1, 2]
    assert new.taken() == 500


def test_a_file_in_use_gives_to_one_that_has_less_than_its_share(tmp_path):
    full, new = filled(folder_of(tmp_path, "full"), range(10)), folder_of(tmp_path, "new")
    for unit in range(5):
        assert new.reserve(100, lambda: None)
        new.store(unit, bytes(100))
    assert not new.reserve(100, lambda: None)
    assert len(full.held()) == len(new.held()) == 5


@pytest.mark.long
def test_a_claim_is_of_one_process_and_ends_with_it(tmp_path):
    folder = folder_of(tmp_path, "a")
    code = (
        "import sys, time, numpy as np, pathlib\nfrom hooke.data.cache_folder import CacheFolder\n"
        "f = CacheFolder(pathlib.Path(sys.argv[1]), sys.argv[2], np.full(10, 100), 1000)\n"
        "f.next_uses[3] = 7; f.now = 2\nprint(f.claim(3), flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, folder.folder.name], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "True"
        assert not folder.claim(3)
        assert folder.claim(4)
        folder.next_uses[:] = 0
        assert folder.used_by_others()[3] == 5
        other.kill()
    assert folder.claim(3)
    assert folder.used_by_others() is None


@pytest.mark.long
def test_what_somebody_else_has_in_the_folder_stays(files, tmp_path):
    """A user may name a folder that has other things in it."""
    kept = [tmp_path / "notes" / part / "thesis.txt" for part in ("tmp", "uses", "units", ".")]
    kept += [tmp_path / "room", tmp_path / "live"]
    for each in kept:
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text("years of work")
    with served(files[0]) as server:
        there = shuffled(server.s3("texts"), cache=tmp_path, cache_bytes=800_000)
        check_alike(shuffled(files[0]["texts"], warm=False), there)
    assert {each.read_text() for each in kept} == {"years of work"}


def test_what_an_ended_process_had_reserved_and_begun_is_given_back(tmp_path):
    folder = filled(folder_of(tmp_path, "a"), range(2))
    code = (
        "import os, sys, numpy as np, pathlib\nfrom hooke.data.cache_folder import CacheFolder\n"
        "f = CacheFolder(pathlib.Path(sys.argv[1]), sys.argv[2], np.full(10, 100), 1000)\n"
        "assert f.reserve(300, lambda: None)\n"
        "(f.folder / 'tmp' / (f._mine + '-0')).touch()\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path, folder.folder.name], check=True)
    assert folder.taken() == 500
    assert folder.used_by_others() is None
    assert folder.taken() == 200
    assert not list(tmp_path.glob("*/tmp/*"))


@pytest.mark.long
def test_processes_that_come_and_go_trip_nobody(tmp_path):
    folder = folder_of(tmp_path, "a")
    ends = time.monotonic() + 3
    code = (
        "import sys, time, numpy as np, pathlib\nfrom hooke.data.cache_folder import CacheFolder\n"
        "end = time.monotonic() + 3\nwhile time.monotonic() < end:\n"
        "    f = CacheFolder(pathlib.Path(sys.argv[1]), sys.argv[2], np.full(10, 100), 1000)\n"
        "    f.used_by_others()\n    f.close()"
    )
    words = [sys.executable, "-c", code, tmp_path, folder.folder.name]
    others = [subprocess.Popen(words) for _ in range(2)]
    while time.monotonic() < ends:
        folder.used_by_others()
    assert [each.wait(60) for each in others] == [0, 0]


def test_a_full_disk_is_an_error_and_ends_no_process(small_disk):
    fill_disk(small_disk / "ballast", leave=4096)
    with pytest.raises(HookeError, match="No space left"):
        folder_of(small_disk / "copies", "a", units=100_000)


@pytest.mark.long
@pytest.mark.parametrize("rows", [1, 10, 200])
def test_a_small_file_is_read_at_once(rows, s3, tmp_path):
    """All of it is there soon: there is nothing to fetch ahead for."""
    path = pack([b"row %d" % number for number in range(rows)], tmp_path / "few.packed")
    url = put(path, f"{s3}/data/few-{rows}.packed")
    there = Shuffled(PackedFile(url, cache=tmp_path / "copies"), seed=1, batch=1)
    here = Shuffled(PackedFile(path), seed=1, batch=1)
    check_alike(here, there)
    assert there._source.take.__self__._remote._fetcher._order.uses.known <= 10


@pytest.mark.long
def test_a_reader_is_told_what_goes_wrong_while_room_is_made(files, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with served(files[0]) as server:
        there = shuffled(server.s3("texts"), cache=tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(CacheFolder, "reserve", broken)
            with pytest.raises(OSError, match="No locks"):
                next(there.batches(0))
        check_alike(shuffled(files[0]["texts"], warm=False), there, epochs=(0,))


@pytest.mark.long
def test_the_same_program_goes_on_after_an_outage(files, tmp_path):
    """And no thread that fetches ends by what was asked for before it."""
    ended = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", ended.append)
        with served(files[0]) as server:
            there = shuffled(server.s3("texts"), cache=tmp_path, cache_bytes=800_000)
            get, down = RemoteObject.get, threading.Event()

            def sometimes(self, *args):
                if down.is_set():
                    raise HookeError("the server is away")
                return get(self, *args)

            patch.setattr(RemoteObject, "get", sometimes)
            for _ in range(6):
                down.set()
                with pytest.raises(HookeError, match="away"):
                    for _ in there.batches(0):
                        pass
                down.clear()
                batches = there.batches(0, start=3)
                for _ in range(20):
                    next(batches)
            check_alike(shuffled(files[0]["texts"], warm=False), there, epochs=(0,), start=0)
    assert not ended


@pytest.mark.long
def test_files_that_were_read_are_closed(files, uploaded, tmp_path):
    """When the threads that fetched have ended, and without the garbage collector."""
    gc.disable()
    try:
        for number in range(6):
            there = shuffled(uploaded["texts"], cache=tmp_path)
            for _ in zip(there.batches(0), range(5), strict=False):
                pass
            del there
            if number == 1:
                wait_until(lambda: not any("hooke-data" in each.name for each in threading.enumerate()))
                before = len(os.listdir("/proc/self/fd"))
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 3)
    finally:
        gc.enable()


@pytest.mark.long
def test_a_program_that_ends_while_it_fetches_ends_well(files, tmp_path):
    code = (
        "import sys\nfrom hooke.data import PackedFile, Shuffled\n"
        "data = Shuffled(PackedFile(sys.argv[1], cache=sys.argv[2], cache_bytes=800_000), seed=1, batch=2, memory=400_000)\n"
        "print(len(next(data.batches(0))))"
    )
    with served(files[0], delay_s=0.01) as server:
        words = [sys.executable, "-c", code, server.s3("texts"), tmp_path]
        for _ in range(5):
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
            assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cache_bytes": "10GB"}, "cache_bytes is '10GB'"),
        ({"cache_bytes": float("nan")}, "cache_bytes is nan"),
        ({"cache_bytes": True}, "cache_bytes is True"),
        ({"cache_bytes": 0}, "cache_bytes is 0"),
        ({"cache": ""}, "cache is ''"),
        ({"cache": 5}, "cache is 5"),
    ],
    ids=str,
)
def test_odd_places_and_limits_are_refused(how, message, uploaded):
    with pytest.raises(UsageError, match=re.escape(message)):
        PackedFile(uploaded["texts"], **how)


@pytest.mark.long
def test_a_user_without_a_folder_is_told_to_pass_one(uploaded, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match="no folder for copies"):
        PackedFile(uploaded["texts"])


def test_threads_that_read_a_file_first_share_what_fetches_it(tmp_path):
    from hooke.data.remote_files import RemoteFile

    class Interrupted(RemoteFile):
        @property
        def _fetcher(self):
            found = vars(self).get("fetcher")
            if found is None and self.other.ident is None:
                self.other.start()
                self.other.join(0.1)  # it waits for the first, or makes one of its own meanwhile
            return found

        @_fetcher.setter
        def _fetcher(self, fetcher):
            vars(self)["fetcher"] = fetcher

    (tmp_path / "a").write_bytes(bytes(1000))
    file, made = Interrupted(f"file://{tmp_path / 'a'}", tmp_path / "copies", 1 << 20), []
    file.cut("0" * 32, [np.array([0, 500, 1000])])
    file.other = threading.Thread(target=lambda: made.append(file._fetching))
    made.append(file._fetching)
    file.other.join()
    assert made[0] is made[1]
