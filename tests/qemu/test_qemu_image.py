"""What the machine of qemu/ is made from: archives, packages, a cache. Nothing here boots."""

import io
import os
import stat
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from progress import QUIET

from qemu import MachineError, cpio, debian, wheels
from qemu.cache import Cache, default_directory, key_of
from qemu.image import KERNELS, Image

# The archive


@given(st.dictionaries(st.text("abcdef", min_size=1), st.binary(max_size=70)))
def test_an_archive_is_read_as_it_was_written(files: dict[str, bytes]) -> None:
    out = io.BytesIO()
    archive = cpio.Writer(out)
    for name, data in files.items():
        archive.file(f"some/where/{name}", data)
    archive.link("etc/link", "../target")
    archive.device("dev/console", 5, 1)
    archive.finish()

    found = {entry.path: entry for entry in cpio.read(out.getvalue())}

    assert {name: found[f"some/where/{name}"].data for name in files} == files
    assert found["etc/link"].data == b"../target"
    assert stat.S_ISLNK(found["etc/link"].mode)
    assert stat.S_ISCHR(found["dev/console"].mode)
    assert found["dev/console"].device == (5, 1)
    assert {name for name, entry in found.items() if stat.S_ISDIR(entry.mode)} == (
        {"etc", "dev", "some", "some/where"} if files else {"etc", "dev"}
    )


def test_archives_can_follow_each_other() -> None:
    both = io.BytesIO()
    for name in ("first", "second"):
        archive = cpio.Writer(both)
        archive.file(name, b"text")
        archive.finish()
        assert both.tell() % 512 == 0

    assert [entry.path for entry in cpio.read(both.getvalue())] == ["first", "second"]


def test_an_archive_says_where_it_is_broken() -> None:
    out = io.BytesIO()
    archive = cpio.Writer(out)
    archive.file("name", bytes(100))
    with pytest.raises(MachineError, match="ends inside name"):
        list(cpio.read(out.getvalue()[:-50]))
    with pytest.raises(MachineError, match="at byte 0"):
        list(cpio.read(b"gzip, say"))


def test_a_tree_is_archived_with_its_links_and_modes(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_bytes(b"#!")
    (tmp_path / "bin" / "tool").chmod(0o755)
    (tmp_path / "same").symlink_to("bin/tool")
    out = io.BytesIO()
    archive = cpio.Writer(out)
    archive.tree(tmp_path)
    archive.finish()

    assert [(entry.path, oct(entry.mode)) for entry in cpio.read(out.getvalue())] == [
        ("bin", "0o40755"), ("bin/tool", "0o100755"), ("same", "0o120777"),
    ]  # fmt: skip


# apt


def apt_directory(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        place = tmp_path if name == "sources_list" else tmp_path / "sources.list.d"
        (place / name.replace("_", ".")).write_text(text)
    return tmp_path


def test_the_mirror_is_that_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HFSCHED_DEBIAN_MIRROR", raising=False)
    apt = apt_directory(
        tmp_path,
        other_list="deb http://other.test/apt tools-bookworm main\n",
        debian_sources=(
            "# a comment\nTypes: deb deb-src\nURIs: http://old.test/debian\nSuites: bookworm\n"
            "Components: main\nEnabled: no\n\n"
            "Types: deb\n# another\nURIs: http://mirror.test/debian\n"
            "Suites: bookworm bookworm-updates\nComponents:\n main\n contrib\n"
            "Signed-By: /a/key.gpg\n"
        ),
    )
    assert debian.find_mirror(apt) == debian.Mirror("http://mirror.test/debian", "/a/key.gpg")


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("deb http://m.test/debian trixie main\n", debian.Mirror("http://m.test/debian")),
        (
            (
                "# deb http://n.test/ bookworm main\ndeb-src http://o.test/ bookworm main\n"
                "deb http://s.test/ sid main\n"
                "deb [arch=amd64 signed-by=/k.asc] http://m.test/debian bookworm contrib main # x\n"
            ),
            debian.Mirror("http://m.test/debian", "/k.asc"),
        ),
    ],
)
def test_one_line_entries_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mirror: debian.Mirror
) -> None:
    monkeypatch.delenv("HFSCHED_DEBIAN_MIRROR", raising=False)
    assert debian.find_mirror(apt_directory(tmp_path, sources_list=text)) == mirror


def test_without_a_mirror_of_debian_one_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HFSCHED_DEBIAN_MIRROR", raising=False)
    apt = apt_directory(tmp_path, sources_list="deb http://u.test/ubuntu noble main\n")
    with pytest.raises(MachineError, match="HFSCHED_DEBIAN_MIRROR"):
        debian.find_mirror(apt)
    monkeypatch.setenv("HFSCHED_DEBIAN_MIRROR", "http://named.test/debian")
    assert debian.find_mirror(apt).address == "http://named.test/debian"


def test_apt_keeps_to_its_own_state_and_to_arm64(tmp_path: Path) -> None:
    text = debian.configuration(tmp_path)
    assert 'APT::Architectures { "arm64"; };' in text
    assert f'Dir::State::status "{tmp_path}/status";' in text
    assert 'Dir::Etc::sourceparts "/dev/null";' in text
    listed = debian.sources(debian.Mirror("http://m.test/debian"))
    assert "Suites: bookworm bookworm-backports\n" in listed
    assert "Architectures: arm64\n" in listed
    assert "Signed-By" not in listed


def test_packages_of_another_architecture_have_a_state_of_their_own(tmp_path: Path) -> None:
    assert 'APT::Architectures { "amd64"; };' in debian.configuration(tmp_path, "amd64")
    listed = debian.sources(debian.Mirror("http://m.test/debian"), "amd64", ("bookworm", "trixie"))
    assert "Suites: bookworm trixie\n" in listed
    assert "Architectures: amd64\n" in listed


def test_the_newest_kernel_is_that_with_the_highest_numbers() -> None:
    found = ["linux-image-6.12.9+deb12-cloud-arm64", "linux-image-6.12.74+deb12-cloud-arm64"]
    found += ["linux-image-6.12.74+deb12.1-cloud-arm64"]
    assert debian.newest(found) == "linux-image-6.12.74+deb12.1-cloud-arm64"


# PyPI


def test_the_machine_gets_what_the_project_needs_but_no_linters_nor_emulator() -> None:
    wanted = wheels.requirements(Path(__file__).parents[2] / "pyproject.toml")
    found = {text.partition(">")[0].partition("=")[0] for text in wanted}
    assert {"cffi", "msgspec", "pyelftools", "pytest", "hypothesis", "greenlet"} <= found
    assert not {"mypy", "ruff", "unicorn"} & found


def test_a_wheel_is_unpacked_without_what_a_machine_has_no_use_for(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        for name in ("m/a.py", "m/lib.a", "w.data/purelib/p.py", "w.data/scripts/s"):
            archive.writestr(name, name)
    wheels.unpack(tmp_path / "w.whl", tmp_path / "site")
    found = sorted(path for path in (tmp_path / "site").rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "site").as_posix() for path in found] == ["m/a.py", "p.py"]


def test_a_wheel_cannot_write_elsewhere(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("../out.py", "")
    with pytest.raises(MachineError, match="outside"):
        wheels.unpack(tmp_path / "w.whl", tmp_path / "site")


# The cache


def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HFSCHED_QEMU_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "hfsched" / "qemu"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_directory() == Path.home() / ".cache" / "hfsched" / "qemu"
    monkeypatch.setenv("HFSCHED_QEMU_CACHE", str(tmp_path / "own"))
    assert default_directory() == tmp_path / "own"


def test_a_key_tells_parts_apart() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("ab", b"c") == key_of(b"ab", "c")
    assert len(key_of("")) == 16


def test_an_entry_is_made_once_and_never_half(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fails(directory: Path) -> None:
        (directory / "part").write_text("half")
        raise MachineError("no network")

    with pytest.raises(MachineError, match="no network"):
        cache.entry("thing", "1", fails)
    assert not list(tmp_path.glob("*thing-*"))

    cache.entry("thing", "1", lambda directory: directory.joinpath("part").write_text("whole"))
    assert (cache.entry("thing", "1", fails) / "part").read_text() == "whole"


def test_two_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    made = []
    inside, go = threading.Event(), threading.Event()

    def make(directory: Path) -> None:
        made.append(directory)
        inside.set()
        assert go.wait(QUIET)

    waiting = threading.Event()
    first = threading.Thread(target=Cache(tmp_path).entry, args=("thing", "1", make))
    first.start()
    assert inside.wait(QUIET)
    late = Cache(tmp_path, report=lambda line: waiting.set() if "waiting" in line else None)
    second = threading.Thread(target=late.entry, args=("thing", "1", make))
    second.start()
    assert waiting.wait(QUIET)
    go.set()
    first.join(QUIET)
    second.join(QUIET)
    assert len(made) == 1


def test_old_entries_are_forgotten(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for key in "abc":
        path = cache.entry("thing", key, lambda _directory: None, keep=2)
        os.utime(path, (ord(key), ord(key)))
    assert sorted(path.name for path in tmp_path.glob("thing-*")) == ["thing-b", "thing-c"]


# The project's archive


def small_project(top: Path) -> Path:
    for name, data in {
        "pyproject.toml": b'[project]\nname = "hfsched"\nversion = "1"\n'
        b'[project.scripts]\nhfsched = "hfsched.m:main"\n'
        b'[project.entry-points.pytest11]\nhfsched = "hfsched.p"\n',
        "qemu/init.sh": b"#!/bin/busybox sh\n",
        "hfsched/m.py": b"main = 1\n",
        "hfsched/host.so": b"\x7fELF" + bytes(14) + b"\x3e\0",
        "guests/build/aarch64/echo.bin": b"image",
        "guests/build/aarch64/obj/echo/main.o": b"object",
        "tests/__pycache__/x.pyc": b"",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def test_the_project_is_archived_as_it_would_be_installed(tmp_path: Path) -> None:
    module = tmp_path / "module"
    module.write_bytes(b"\x7fELF" + bytes(14) + b"\xb7\0")
    image = Image(Cache(tmp_path / "cache"), small_project(tmp_path / "top"))
    path = image.project({"hfsched/own.so": module})
    found = {entry.path: entry for entry in cpio.read(path.read_bytes())}

    assert found["init"].mode & 0o111
    assert found["project/hfsched/m.py"].data == b"main = 1\n"
    assert found["project/guests/build/aarch64/echo.bin"].data == b"image"
    assert "project/hfsched/own.so" in found
    assert not [name for name in found if name.endswith((".o", "host.so", "x.pyc"))]
    site = "usr/local/lib/python3.11/dist-packages"
    assert found[f"{site}/hfsched.pth"].data == b"/project\n"
    points = found[f"{site}/hfsched-1.dist-info/entry_points.txt"].data
    assert b"[pytest11]\nhfsched = hfsched.p\n" in points
    assert b"from hfsched.m import main" in found["usr/local/bin/hfsched"].data


def test_another_project_is_another_archive(tmp_path: Path) -> None:
    top = small_project(tmp_path / "top")
    image = Image(Cache(tmp_path / "cache"), top)
    first = image.project()
    assert image.project() == first
    (top / "hfsched" / "m.py").write_bytes(b"main = 2\n")
    assert image.project() != first
    with pytest.raises(MachineError, match="cannot read"):
        image.project({"x": tmp_path / "absent"})


def test_every_kernel_on_offer_is_a_pattern_of_names() -> None:
    assert set(KERNELS) == {"6.1", "6.12"}
    assert KERNELS["6.12"].partition("\\")[0] == "linux-image-6"
