"""Every writer: whole or not at all, through links, into streams, never over what is no file, never a name to guess."""

import errno
import os
import stat
import threading

import pytest

from traces.errors import UserError
from traces.whole_file import (
    UnfinishedFile,
    check_inside,
    check_place,
    is_standard_output,
    is_stream,
    make_folder,
    whole_file,
    write_whole,
)

FULL = os.makedev(1, 7)
NULL = os.makedev(1, 3)


@pytest.fixture
def device(tmp_path):
    """Makes a character device in a folder of the test: the real ones are never touched."""

    def make(name: str, number: int):
        path = tmp_path / name
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, number)
        except PermissionError:
            pytest.skip("devices are made by root only")
        try:
            os.close(os.open(path, os.O_WRONLY))
        except PermissionError:
            pytest.skip("this file system opens no devices")
        return path

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "far").mkdir()
    for content in (b"old", b"new"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("far/real")  # dangling the first time
        write_whole(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "real").read_bytes() == content
    assert names(tmp_path / "far") == ["real"] and names(tmp_path) == ["far", "link"]


def test_a_device_takes_the_bytes_and_stays_a_device(device):
    path = device("null", NULL)
    write_whole(path, b"gone")
    assert stat.S_ISCHR(path.lstat().st_mode) and names(path.parent) == ["null"]


def test_a_full_device_is_named_and_stays(device):
    path = device("full", FULL)
    with pytest.raises(OSError) as raised:
        write_whole(path, b"x" * 100)
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(path)
    assert stat.S_ISCHR(path.lstat().st_mode) and names(path.parent) == ["full"]


def test_a_link_to_a_device_is_not_replaced_either(device):
    path = device("null", NULL)
    link = path.with_name("link")
    link.symlink_to("null")
    write_whole(link, b"gone")
    assert link.is_symlink() and stat.S_ISCHR(path.lstat().st_mode)


def test_a_pipe_takes_the_bytes(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write_whole(path, b"x" * 200_000)
    reader.join()
    assert read == [b"x" * 200_000] and stat.S_ISFIFO(path.lstat().st_mode)


@pytest.mark.parametrize("kind", ["folder", "circle", "pipe"])
def test_what_is_no_file_is_never_replaced(tmp_path, kind):
    path = tmp_path / "it"
    {"folder": path.mkdir, "circle": lambda: path.symlink_to("it"), "pipe": lambda: os.mkfifo(path)}[kind]()
    before = path.lstat()
    unfinished = UnfinishedFile(path)  # tables and timelines grow by pieces, and are no streams
    with pytest.raises(UserError, match="must be a file"):
        unfinished.open()
    unfinished.discard()
    assert path.lstat().st_ino == before.st_ino and names(tmp_path) == ["it"]
    if kind != "pipe":
        with pytest.raises(UserError, match="must be a file"):
            check_place(path)


def test_what_became_no_file_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(UserError, match="a pipe"), whole_file(path) as file:
        file.write(b"x")
        os.mkfifo(path)
    assert names(tmp_path) == ["a"]


def test_an_unfinished_file_that_was_exchanged_is_refused(tmp_path):
    (tmp_path / "other").write_bytes(b"theirs")
    with pytest.raises(UserError, match="exchanged"), whole_file(tmp_path / "a") as file:
        file.write(b"x")
        (beside,) = tmp_path.glob(".a.*.part")
        beside.unlink()
        beside.symlink_to("other")
    assert (tmp_path / "other").read_bytes() == b"theirs" and names(tmp_path) == ["other"]


def test_names_cannot_be_guessed_and_links_there_are_not_followed(tmp_path, monkeypatch):
    victim, seen = tmp_path / "victim", set()
    for _ in range(20):
        with whole_file(tmp_path / "a") as file:
            file.write(b"x")
            seen |= {path.name for path in tmp_path.glob(".*.part")}
    assert len(seen) == 20 and not any(str(os.getpid()) == name.split(".")[-2] for name in seen)
    victim.write_bytes(b"mine")
    monkeypatch.setattr("traces.whole_file.unfinished_name", lambda name: ".guessed.part")
    (tmp_path / ".guessed.part").symlink_to("victim")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", b"y")
    assert victim.read_bytes() == b"mine" and (tmp_path / ".guessed.part").is_symlink()


def test_what_nobody_else_could_read_stays_so(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_whole(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_failures_name_the_file_and_leave_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        write_whole(tmp_path / "new" / "a", b"x")
    assert raised.value.filename == str(tmp_path / "new" / "a") and names(tmp_path / "new") == []


def test_a_very_long_name_has_a_name_beside(tmp_path):
    name = "é" * 120
    write_whole(tmp_path / name, b"x")
    assert names(tmp_path) == [name]


def test_streams_are_told_from_places(tmp_path):
    assert all(map(is_stream, (tmp_path.__class__("-"), tmp_path.__class__("/dev/stdout"))))
    assert is_standard_output(tmp_path.__class__("-")) and not is_stream(tmp_path / "new")
    link = tmp_path / "out"
    link.symlink_to("/dev/stdout")
    assert is_stream(link) and is_standard_output(link)


def test_an_open_file_is_written_behind_what_it_holds(tmp_path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, b"before ")
        write_whole(tmp_path.__class__(f"/dev/fd/{descriptor}"), b"after")
        assert path.read_bytes() == b"before after" and os.fstat(descriptor).st_ino == path.stat().st_ino
    finally:
        os.close(descriptor)


def test_folders_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file: must be a folder"):
            make_folder(folder)
        with pytest.raises(UserError, match="no folder"):
            check_place(folder / "x")
        with pytest.raises(UserError):
            write_whole(folder / "x", b"")


def test_no_link_leads_out_of_the_folder_of_others(tmp_path):
    inside = tmp_path / "theirs"
    (inside / "sub").mkdir(parents=True)
    (inside / "report.html").symlink_to(tmp_path / "mine")
    (inside / "figures").symlink_to(tmp_path)
    (inside / "fine.html").symlink_to("sub/fine.html")
    check_inside(inside / "fine.html", inside)
    for name in ("report.html", "figures/a.pdf"):
        with pytest.raises(UserError, match="leads out of"):
            check_inside(inside / name, inside)
