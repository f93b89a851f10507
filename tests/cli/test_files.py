"""Files that a command writes: whole, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hfsched.cli import files
from hfsched.cli.files import write_whole
from hfsched.errors import UserError


def refusal(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        write_whole("--svg", str(path), "new")
    return str(caught.value)


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_file_is_replaced_in_one_piece(tmp_path: Path) -> None:
    file = tmp_path / "drawn.svg"
    file.write_text("before")
    with file.open() as reader:
        write_whole("--svg", str(file), "a\udc80b")
        assert reader.read() == "before", "the former file was written to"
    assert file.read_text() == "a\\udc80b"
    assert names(tmp_path) == {"drawn.svg"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_by_its_target_which_stays_as_it_is(
    tmp_path: Path, *, there: bool
) -> None:
    target = tmp_path / "precious"
    if there:
        target.write_text("before")
    link = tmp_path / "x.svg"
    link.symlink_to(target)
    expected = f"--svg {link}: a link to {target}: name a file, or '-' for standard output"
    assert refusal(link) == expected
    assert link.is_symlink()
    assert target.exists() is there
    assert not there or target.read_text() == "before"


def test_a_links_target_is_shown_escaped(tmp_path: Path) -> None:
    link = tmp_path / "x.svg"
    link.symlink_to("a\nb\x1b[2J")
    assert "a link to a\\nb\\x1b[2J: " in refusal(link)


def test_a_link_that_comes_after_the_check_is_replaced_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "precious"
    target.write_text("before")
    file = tmp_path / "x.svg"
    replace = os.replace

    def late(source: str, name: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        file.symlink_to(target)
        replace(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", late)
    write_whole("--svg", str(file), "new")
    assert target.read_text() == "before"
    assert stat.S_ISREG(file.lstat().st_mode)
    assert file.read_text() == "new"


def test_a_folder_that_is_exchanged_meanwhile_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    check = files._check

    def late(shown: str, name: str, folder: int) -> None:
        check(shown, name, folder)
        (tmp_path / "mine").rename(tmp_path / "moved")
        (tmp_path / "mine").symlink_to("theirs")

    monkeypatch.setattr(files, "_check", late)
    write_whole("--svg", str(tmp_path / "mine" / "x.svg"), "new")
    assert names(tmp_path / "theirs") == set()
    assert names(tmp_path / "moved") == {"x.svg"}


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/full")):
        assert refusal(path) == (
            f"--svg {path}: not a regular file: name one, or '-' for standard output"
        )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("absent/x", "absent/x: No such file or directory"),
        (".", ".: Is a directory"),
        ("..", "..: Is a directory"),
        ("a/", "a/: Is a directory"),
        ("", ": Is a directory"),
        ("a\0b", "'a\\x00b': not a valid file name"),
    ],
)
def test_a_name_of_no_file_is_refused(
    path: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(path) == f"--svg {why}"
    assert names(tmp_path) == set()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert refusal(tmp_path / "x") == f"--svg {tmp_path}/x: No space left on device"
    assert names(tmp_path) == set()


def test_a_dash_is_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_whole("--svg", "-", "ä")
    assert capfdbinary.readouterr().out == "ä".encode()
    assert names(tmp_path) == set()
