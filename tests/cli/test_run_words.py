"""`hfsched run WORD...`: a word is a guest, or a machine's manifest, by what it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from memory.elf_writer import Load, build, linux_header

from hfsched.cli.words import sort_words
from hfsched.errors import ConfigError, MisuseError
from hfsched.vmm.guests import RAW_HINT

if TYPE_CHECKING:
    from conftest import Start

MANIFEST = '[[vm]]\nname = "m"\nimage = "guests.py:echo"\n'


def test_a_file_is_a_guest_as_it_is_with_the_option(run: Start) -> None:
    echo = run("guests.py:echo")
    echo.type("hello\n")
    assert echo.wait() == 0
    assert echo.out == "[guests] up\nguests: hello\n"


def test_several_words_are_several_guests_wherever_they_stand(run: Start) -> None:
    three = run(
        "a=guests.py:echo", "--guest", "b=guests.py:echo", "--no-sockets", "c=guests.py:echo"
    )
    three.type("first\n@b second\n@c third\n")
    assert three.wait() == 0
    assert {"a: first", "b: second", "c: third"} <= set(three.out.splitlines())


def test_a_manifest_is_one_by_its_text_too(run: Start) -> None:
    Path("machine").write_text(MANIFEST)
    machine = run("--json", "machine", "--quiet")
    assert machine.wait() == 0
    assert '"vm": "m"' in machine.out


def sorted_words(*words: str, engine: str = "auto") -> tuple[str | None, list[str]]:
    return sort_words([(False, word) for word in words], engine)


@pytest.mark.parametrize(
    "word",
    [
        "trusty.bin",
        "aarch64/echo.bin",
        "a=echo.bin",
        "absent",
        "x.py:fn",
        "module:fn",
        "a=x.toml",
        "",
    ],
)
def test_what_is_no_file_is_a_guest(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sorted_words(word) == (None, [word])


def test_files_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "guest.elf": build(Load(0, b"\0\0\0\x14", 0x1000)),
        "flat": linux_header(),
        "a=b": linux_header(),
        "guest.py": b"def guest(cpu): ...",
    }
    for name, data in files.items():
        Path(name).write_bytes(data)
        assert sorted_words(name) == (None, [name])
    for name, text in (
        ("m.toml", "\0"),
        ("M.TOML", ""),
        ("one", MANIFEST),
        ("two", '# x\nname = "a"\n'),
        ("three", "[vm]\n"),
        ("four", "vm = []"),
    ):
        Path(name).write_text(text)
        assert sorted_words(name) == (name, [])
    assert sorted_words("absent.toml") == ("absent.toml", [])
    Path("image.toml").write_bytes(linux_header())
    for name in ("m.toml", "M.TOML", "image.toml", "absent.toml"):
        assert sort_words([(True, name)], "auto") == (None, [name])
        assert sort_words([(False, name)], "auto", raw=True) == (None, [name])
    assert sorted_words("image.toml") == (None, ["image.toml"])
    assert sort_words([(True, "one")], "auto", raw=True) == (None, ["one"])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"int main(void);\n", "text"),
        ("é".encode() * 5000, "text"),
        (b"\x1f\x8bxx", "gzip data: gunzip it first"),
        (b"\xff\xff\xff", f"nothing known, first bytes ff ff ff; {RAW_HINT}"),
    ],
)
def test_a_file_that_is_neither(data: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        sorted_words(str(path))
    assert str(caught.value) == f"{path}: neither a guest image nor a machine's manifest: {what}"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name a guest, such as trusty.bin, or a machine's manifest"),
        ([(False, "a.toml"), (False, "b.toml")], "a.toml, b.toml: one manifest a machine"),
        (
            [(True, "x.bin"), (False, "a.toml")],
            (
                "a.toml, x.bin: either a manifest or guests: write the guest into the manifest,"
                " as another [[vm]]"
            ),
        ),
    ],
)
def test_words_that_do_not_go_together(words: list[tuple[bool, str]], why: str) -> None:
    with pytest.raises(MisuseError) as caught:
        sort_words(words, "auto")
    assert str(caught.value) == why


def test_a_guest_that_is_nearly_a_bundled_one(run: Start) -> None:
    pytest.importorskip("unicorn")
    for word, meant in (("trusty", "trusty.bin"), ("ehco.bin", "echo.bin")):
        refused = run(word)
        assert refused.wait() == 1
        assert refused.err.endswith(f": did you mean {meant!r}?\n") or "not built" in refused.err
