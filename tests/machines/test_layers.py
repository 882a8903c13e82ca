"""Layers over each other: what hides what, and nothing that leads out of the root."""

import io
import tarfile

import pytest

from runnerd.machines import layers
from runnerd.machines.layers import Tree


def layer(*entries):
    """A layer of (name, content) pairs: bytes a file, None a folder, '->X' a link, '=X' a hard link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, bytes):
                info.size = len(content)
            elif content.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, content[2:]
            elif content.startswith("="):
                info.type, info.linkname = tarfile.LNKTYPE, content[1:]
            else:
                info.type = content.encode()
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    out.seek(0)
    return tarfile.open(fileobj=out)


def tree(*layers):
    made = Tree()
    for each in layers:
        made.apply(layer(*each))
    return made


def written(made, path):
    """What the tar has: name -> content of a file, target of a link, or None."""
    made.write(path)
    with tarfile.open(path) as archive:
        return {
            member.name: archive.extractfile(member).read()
            if member.isreg()
            else ("=" if member.islnk() else "->") + member.linkname
            if member.linkname
            else None
            for member in archive
        }


def test_an_upper_layer_replaces_and_hides(tmp_path):
    """A file replaces one, a whiteout removes one with all below it, wherever in its layer it stands."""
    made = tree(
        [("a", b"1"), ("d", None), ("d/x", b"x"), ("d/y/z", b"z"), ("gone", None), ("gone/all", b"")],
        [("a", b"2"), ("d/new", b"n"), ("d/.wh.x", b""), (".wh.gone", b""), ("gone", None)],
    )
    assert written(made, tmp_path / "t") == {
        "a": b"2", "d": None, "d/new": b"n", "d/y": None, "d/y/z": b"z", "gone": None,
    }  # fmt: skip


def test_an_opaque_folder_hides_what_is_below_it(tmp_path):
    """Everything of lower layers in it goes, and what its own layer puts there stays."""
    made = tree([("d/x", b"x"), ("d/s/t", b"t")], [("d/own", b"o"), ("d/.wh..wh..opq", b"")])
    assert written(made, tmp_path / "t") == {"d": None, "d/own": b"o"}


def test_links_stay_in_the_root(tmp_path):
    """A path through a link is where the link leads within the root, however far up it points."""
    made = tree(
        [("usr/bin", None), ("bin", "->usr/bin"), ("out", "->../../../../etc"), ("etc", None)],
        [("bin/sh", b"sh"), ("out/passwd", b"p"), ("bin", None)],
    )
    found = written(made, tmp_path / "t")
    assert found["usr/bin/sh"] == b"sh"
    assert found["etc/passwd"] == b"p"
    assert found["bin"] == "->usr/bin"
    assert all(not name.startswith(("/", "..")) for name in found)


def test_hard_links_are_one_file(tmp_path):
    """Both paths have it, and it stays when a later layer replaces the first."""
    made = tree([("a", b"1"), ("b", "=a")])
    assert written(made, tmp_path / "t") == {"a": b"1", "b": "=a"}
    made.apply(layer(("a", b"2")))
    assert written(made, tmp_path / "t") == {"a": b"2", "b": b"1"}


def test_devices_are_left_out(tmp_path):
    """Block and character devices and pipes are no part of an image."""
    made = tree([("dev/sda", "4"), ("dev/null", "3"), ("pipe", "6"), ("x", b"")])
    assert "x" in written(made, tmp_path / "t")
    assert not {"dev/sda", "dev/null", "pipe"} & set(written(made, tmp_path / "t"))


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([("../x", b"")], "leads out"),
        ([("a/../../x", b"")], "leads out"),
        ([("a", "=../../etc/shadow")], "leads out"),
        ([("a", "=/etc/shadow")], "no file of it"),
        ([("a", b""), ("a/b", b"")], "no folder"),
        ([("a", "->b"), ("b", "->a"), ("a/x", b"")], "links"),
        ([(".wh..", b"")], "no name"),
    ],
)
def test_what_has_no_place_in_a_layer_is_refused(entries, problem):
    """Paths upwards, links to what is not there, and rings of links are errors that name them."""
    with pytest.raises(ValueError, match=problem):
        tree(entries)


def raw(kind, size, *, sparse=None):
    """A layer of one entry whose header says what no writer of tars would."""
    info = tarfile.TarInfo("a")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"%011o\0" % size
    if sparse is not None:
        header[386:483] = bytes(97)
        header[483:495] = b"\x80" + sparse.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return tarfile.open(fileobj=io.BytesIO(bytes(header) + bytes(1024)))


def test_files_are_as_large_as_they_say():
    """A few bytes that stand for a file of a terabyte are refused before they are written out as one."""
    with pytest.raises(ValueError, match="larger than 32 GiB"):
        Tree().apply(raw(tarfile.GNUTYPE_SPARSE, 0, sparse=1 << 40))


def test_a_layer_without_an_end():
    """An entry that leads back to itself is refused, where a reader would come by it for ever."""
    first = layer(("x", b"")).fileobj.getvalue()[:512]
    again = raw(tarfile.REGTYPE, -512).fileobj.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first + again)) as made, pytest.raises(ValueError, match="below"):
        Tree().apply(made)


@pytest.mark.parametrize(
    "entries",
    [
        [("a/" * 3000 + "x", b"")],
        [("a", "->" + "b/" * 3000)],
        [("a", "->" + "b/" * 2000 + "c"), ("b/" * 2000 + "c", "->" + "d/" * 1000), ("a/x", b"")],
    ],
)
def test_paths_are_as_long_as_the_kernels(entries):
    """Neither a name nor what links make of it grows beyond that: each part of it is a folder of ours."""
    with pytest.raises(ValueError, match="of more than 4096 characters"):
        tree(entries)


def test_files_are_counted_while_they_come(monkeypatch):
    """Folders that a path only names count as well."""
    monkeypatch.setattr(layers, "MOST_ENTRIES", 100)
    with pytest.raises(ValueError, match="more than 100 files"):
        tree([("a/" * 101 + "x", b"")])
    with pytest.raises(ValueError, match="more than 100 entries"):
        tree([("a", b"")] * 101)


def test_the_same_layers_give_the_same_bytes(tmp_path):
    """The order within a layer changes nothing."""
    first, second = tree([("a", b"1"), ("b", b"2")]), tree([("b", b"2"), ("a", b"1")])
    first.write(tmp_path / "1")
    second.write(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_own_files_take_the_place_of_links():
    """A file or folder of ours is real, whatever was there; read and has see the tree as it is."""
    made = tree([("etc", "->/elsewhere"), ("elsewhere/passwd", b"x")])
    made.folder("etc")
    made.file("etc/passwd", b"root")
    assert made.is_folder("etc")
    assert made.read("etc/passwd") == b"root"
    assert made.has("elsewhere/passwd")
    assert made.read("absent") is None
