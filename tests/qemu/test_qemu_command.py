"""How QEMU is called and its ports are read. Nothing here boots."""

import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from progress import QUIET

from qemu.__main__ import main
from qemu.command import Settings, arguments, environment_script, run_script
from qemu.machine import Marked
from qemu.ports import FilePorts, SocketPorts

# The command line


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_qemu_is_told_of_a_machine_at_el2() -> None:
    ports = {"console": "A", "hf.in": "B", "hf.out": "C", "hf.err": "D"}
    command = arguments(Settings(cpu="max", smp=3, memory=700), "K", "I", ports)
    assert option(command, "-machine") == "virt,virtualization=on,gic-version=3"
    assert option(command, "-cpu") == "max,pauth=off"
    assert option(command, "-accel") == "tcg,thread=multi"
    assert (option(command, "-smp"), option(command, "-m")) == ("3", "700")
    assert (option(command, "-kernel"), option(command, "-initrd")) == ("K", "I")
    assert "nokaslr mitigations=off" in option(command, "-append")
    assert "-no-reboot" in command
    assert "virtserialport,chardev=port3,name=hf.err,nr=3" in command
    assert "-nographic" not in command
    assert "-icount" not in command


def test_qemu_is_told_to_repeat_itself() -> None:
    command = arguments(
        Settings(icount=3), "K", "I", {"console": "A", "hf.out": "C", "hf.err": "D"}
    )
    assert option(command, "-icount") == "shift=3,sleep=off"
    assert option(command, "-accel") == "tcg,thread=single"
    assert option(command, "-seed") == "1"
    assert option(command, "-rtc").endswith("clock=vm")
    assert "dtb-randomness=off" in option(command, "-machine")
    assert "virtio-serial-pci,ioeventfd=off" in command
    assert not any("hf.in" in word for word in command)


def test_a_shell_has_the_terminal() -> None:
    command = arguments(Settings(), "K", "I")
    assert option(command, "-serial") == "mon:stdio"
    assert "-nographic" in command


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=4)
)
def test_words_arrive_as_they_are(words: list[str]) -> None:
    script = run_script(["printf", "%s\\0", *words]).replace(b"cd /project", b"")
    said = subprocess.run(["sh"], input=script, capture_output=True, check=True).stdout
    assert said == b"".join(word.encode() + b"\0" for word in words)


def test_hashes_are_not_random_in_a_repeatable_run() -> None:
    assert b"PYTHONHASHSEED=0" in environment_script(Settings(icount=0), {})
    plain = environment_script(Settings(), {"TERM": "a b"})
    assert b"PYTHONHASHSEED" not in plain
    assert b"export TERM='a b'\n" in plain


@pytest.mark.parametrize(
    "words", [[], ["--shell", "--", "true"], ["--icount", "11", "--", "true"],
              ["--memory", "64", "--", "true"], ["--add", "/a=b", "--", "true"],
              ["--add", "x/../../a=b", "--", "true"], ["--kernel", "5.10", "--", "true"]],
)  # fmt: skip
def test_bad_command_lines_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "script/qemu" in capsys.readouterr().err


# The ports


@given(st.binary(max_size=40), st.binary(max_size=10), st.lists(st.integers(0, 60)))
def test_a_stream_ends_at_its_mark_wherever_it_is_cut(
    text: bytes, after: bytes, cuts: list[int]
) -> None:
    mark = b"<mark>"
    text = text.replace(mark, b"")
    whole = text + mark + after
    said: list[bytes] = []
    stream = Marked(mark, said.append)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    for start, end in pairwise(places):
        stream.feed(whole[start:end])
    assert b"".join(said) == text
    assert stream.tail == after


def test_a_stream_holds_back_only_what_may_be_the_mark() -> None:
    said: list[bytes] = []
    stream = Marked(b"<mark>", said.append)
    stream.feed(b"a line\n")
    assert said == [b"a line\n"]
    stream.feed(b"one <ma")
    assert said[1:] == [b"one "]
    stream.feed(b"n")
    assert said[2:] == [b"<man"]
    assert stream.tail is None


def test_files_tell_what_is_added_and_when_the_machine_ends() -> None:
    with ExitStack() as stack:
        ports = FilePorts(stack, ["hf.out", "hf.err"])
        path = ports.devices()["hf.out"].removeprefix("file,path=")
        process = subprocess.Popen(
            [sys.executable, "-c", f"open({path!r}, 'w').write('said')"],
            pass_fds=ports.descriptors(),
        )
        ports.started(process)
        assert ports.wait(QUIET) == [("hf.out", b"said")]
        process.wait(QUIET)
        assert ports.wait(None) == [("hf.out", b""), ("hf.err", b"")]


def test_sockets_carry_input_and_its_end(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"typed")
    with ExitStack() as stack, (tmp_path / "input").open("rb") as stdin:
        ports = SocketPorts(stack, ["hf.out"], stdin.fileno())
        numbers = {name: text.removeprefix("socket,fd=") for name, text in ports.devices().items()}
        program = (
            "import socket\n"
            f"given = socket.socket(fileno={numbers['hf.in']}).makefile('rb').read()\n"
            f"socket.socket(fileno={numbers['hf.out']}).sendall(given.upper())\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program], pass_fds=ports.descriptors())
        ports.started(process)
        said = b""
        while (came := ports.wait(QUIET)) != [("hf.out", b"")]:
            said += b"".join(data for _, data in came)
        assert said == b"TYPED"
        assert process.wait(QUIET) == 0
