"""How `hfsched run` ends when a guest, a signal or the other end of a pipe ends it."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from memory.elf_writer import Load, build
from progress import Quiet

from hfsched.vcpu.kvm import device
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from conftest import Process, Start

with_images = pytest.mark.skipif(
    "hostile.bin" not in bundled_images(), reason="the bundled guests are not built: script/guests"
)


def errors(process: Process) -> list[str]:
    """Return the lines of stderr that name an error."""
    start = "hfsched: error: "
    return [line[len(start) :] for line in process.err.splitlines() if line.startswith(start)]


def small_pipe() -> tuple[int, int]:
    """Return the ends {read, write} of a pipe that holds one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def machine_code(*words: int) -> bytes:
    """Return an image of arm64 instructions."""
    return build(Load(0, struct.pack(f"<{len(words)}I", *words), 0x1000))


# The guest.


def test_a_guest_that_raises(run: Start) -> None:
    lines = Path("guests.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "raise ValueError" in text)
    guest = run("--guest", "guests.py:raises")
    assert guest.wait() == 1
    why = r"the guest function raised ValueError('broken\nin two')"
    assert errors(guest) == [f"vm guests aborted: {why} (guests.py:{line})"]
    traced = run("guests.py:raises", environment={"HFSCHED_TRACEBACK": "1"})
    traced.until(rf'guests\.py", line {line}, in raises\n', "err")


def test_a_guest_that_returns(run: Start) -> None:
    guest = run("--guest", "guests.py:returns")
    assert guest.wait() == 1
    assert errors(guest) == ["vm guests aborted: the guest function returned"]


def test_the_run_ends_when_every_guest_has(run: Start) -> None:
    guests = run(
        *("--guest", "a=guests.py:returns", "--guest", "b=guests.py:returns"), "--no-stdin"
    )
    assert guests.wait() == 1
    assert sorted(errors(guests)) == [
        f"vm {name} aborted: the guest function returned" for name in "ab"
    ]


def test_a_line_for_a_dead_guest_is_not_lost_in_silence(run: Start) -> None:
    two = run("--guest", "dead=guests.py:returns", "--guest", "e=guests.py:echo")
    two.until("dead aborted", "err")
    two.type("@dead hello\n")
    assert two.wait() == 1
    assert "standard input: 1 line undelivered: vm dead has aborted" in errors(two)


def test_a_guest_that_spins_is_named_at_the_end_of_input(run: Start) -> None:
    spin = run("--guest", "guests.py:spin", "--linger", "0.4")
    assert spin.wait() == 1
    (error,) = errors(spin)
    assert re.fullmatch(
        r"vm guests: vCPU 0 still running 0\.4 s after end of input; pc 0x[0-9a-f]+", error
    )


@pytest.mark.parametrize("line", ["", "hello\n"])
def test_an_image_that_spins(run: Start, line: str) -> None:
    pytest.importorskip("unicorn")
    Path("spin.elf").write_bytes(machine_code(0x1400_0000))  # b .
    spin = run("--guest", "spin.elf", "--linger", "0.4")
    spin.type(line)
    assert spin.wait() == (3 if line else 1)
    where = "still running 0.4 s after end of input; pc 0x7f000000"
    assert errors(spin)[0] == f"vm spin: vCPU 0 {where}"


@pytest.mark.parametrize(
    "word",
    [
        0x0000_0000,  # udf
        0xF940_0010,  # ldr x16, [x0]: x0 is the size, where nothing is
    ],
)
def test_an_image_that_faults_at_its_first_instruction(run: Start, word: int) -> None:
    pytest.importorskip("unicorn")
    Path("fault.elf").write_bytes(machine_code(word, 0x1400_0000))
    fault = run("--guest", "fault.elf", "--linger", "0.4")
    assert fault.wait() == 1
    assert len(errors(fault)) == 1
    assert errors(fault)[0].startswith("vm fault")


@pytest.mark.parametrize(
    ("word", "what"),
    [
        (0xD510_0240, "(MSR MDSCR_EL1, X0)"),
        (0xD508_7640, "(DC ISW, X0)"),
        (0xD538_1F00, "(MRS X0, S3_0_C1_C15_0)"),
    ],
)
def test_an_image_that_names_what_no_vm_has(run: Start, word: int, what: str) -> None:
    pytest.importorskip("unicorn")
    Path("port.elf").write_bytes(machine_code(word))
    port = run("--engine", "unicorn", "--guest", "port.elf")
    assert port.wait() == 1
    [error] = errors(port)
    assert error == (
        "vm port aborted: unhandled undefined instruction, pc 0x7f000000,"
        f" instruction {word:#010x} {what}; no vector at 0x200"
    )


@with_images
@pytest.mark.parametrize("command", ["die", "spin"])
def test_an_image_that_ends_or_spins_on_command(run: Start, command: str) -> None:
    pytest.importorskip("unicorn")
    hostile = run("--guest", "hostile.bin", "--linger", "0.4")
    hostile.type(command + "\n")
    hostile.until("^hostile: (dying|spinning)$")
    assert hostile.wait() == 1
    assert len(errors(hostile)) == 1
    assert errors(hostile)[0].startswith("vm hostile")


# Signals.


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("guest", ["echo", "spin", "loud", "deaf"])
def test_a_signal_ends_the_run_with_a_summary(
    run: Start, guest: str, number: int, status: int
) -> None:
    first = run("--guest", "e=guests.py:echo", "--guest", f"g=guests.py:{guest}", "--linger", "60")
    first.until(r"^\[e\] up$")
    first.interrupt(number)
    assert first.wait() == status
    assert "hfsched: summary after " in first.err
    assert errors(first) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_end_it_just_as_well(run: Start, number: int) -> None:
    echo = run("--guest", "guests.py:echo")
    echo.until("up")
    echo.interrupt(number)
    echo.interrupt(number)
    assert echo.wait() != 0


def test_a_terminal_that_is_closed_ends_the_run_and_leaves_nothing(
    run: Start, runtime_directory: Path
) -> None:
    echo = run("--guest", "guests.py:echo", "--name", "hung-up")
    echo.type("hello\n")
    echo.until("hello")
    sockets = runtime_directory / "hfsched" / "hung-up"
    quiet = Quiet()
    while not (sockets / "ports").exists():  # guests start before it is made
        assert quiet.left
        select.select([], [], [], 0.01)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGCONT):
        echo.interrupt(number)
    assert echo.wait() == 129
    assert "summary after" in echo.err
    assert not sockets.exists()


def test_nohup(run: Start) -> None:
    echo = run(
        *("--guest", "guests.py:echo"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    echo.until("up")
    echo.interrupt(signal.SIGHUP)
    echo.type("hello\n")
    echo.until("guests: hello")
    assert echo.wait() == 0


GATED = """
open("loading", "w").close()  # waits for a reader
open("never").read()
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143),
    ],
)
def test_a_signal_while_the_machine_is_built(run: Start, number: int, status: int) -> None:
    os.mkfifo("loading")
    os.mkfifo("never")
    Path("slow.py").write_text(GATED)
    slow = run("--guest", "slow.py")
    slow.from_fifo("loading")
    slow.interrupt(number)
    assert slow.wait() == status


def test_a_ctrl_c_while_the_program_is_loaded(run: Start) -> None:
    Path("early").mkdir()
    Path("early/argparse.py").write_text(
        "raise KeyboardInterrupt\n"
    )  # the first Ctrl-C that anybody sees
    early = run("--guest", "guests.py:echo", paths=["early"])
    assert early.wait() in (130, -signal.SIGINT)


# Standard output.


def test_a_closed_standard_output_ends_the_run(run: Start) -> None:
    loud = run("--guest", "guests.py:loud")
    assert loud.first_line_then_close() == "[guests] xxxx"
    assert loud.wait() == 1
    assert "standard output was closed before the end" in errors(loud)


def test_an_answer_when_standard_output_is_closed(run: Start) -> None:
    echo = run("--guest", "guests.py:echo")
    assert echo.first_line_then_close() == "[guests] up"
    echo.type("hello\n")
    assert echo.wait() == 1
    assert "standard output was closed before the end" in errors(echo)


def test_a_full_device_as_standard_output(run: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        echo = run("--guest", "guests.py:echo", stdout=full)
        echo.type("hello\n")
        assert echo.wait() == 1
    assert len(errors(echo)) >= 1
    assert errors(echo)[0].startswith("standard output")


def test_a_full_device_is_called_full(run: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        echo = run("--guest", "guests.py:echo", stdout=full)
        assert echo.wait() == 1
    assert "No space left on device" in echo.err


def test_a_blocked_stdout_stops_no_vcpu_and_no_ctrl_c(run: Start) -> None:
    os.mkfifo("heard")
    os.mkfifo("seen")
    reader, writer = small_pipe()
    two = run("--guest", "guests.py:loud", "--guest", "w=guests.py:witness", stdout=writer)
    os.close(writer)
    assert (
        two.from_fifo("heard") == b"all of it\n"
    )  # far more log than the pipe and all queues hold
    two.type("@w still there?\n")
    assert two.from_fifo("seen") == b"still there?\n"
    two.interrupt()
    assert two.wait() == 130
    assert "  w: messages 1 from the host, " in two.err
    os.close(reader)


def test_an_answer_that_finds_stdout_blocked_does_not_keep_ctrl_c_from_working(run: Start) -> None:
    os.mkfifo("heard")
    reader, writer = small_pipe()
    two = run("--guest", "guests.py:loud", "--guest", "e=guests.py:echo", stdout=writer)
    os.close(writer)
    assert two.from_fifo("heard") == b"all of it\n"
    two.type("@e hello\n" * 100)
    two.interrupt()
    assert two.wait() == 130
    assert "hfsched: summary after " in two.err
    os.close(reader)


def test_lost_lines_of_the_log_are_counted_once_they_are_read_again(run: Start) -> None:
    os.mkfifo("heard")
    reader, writer = small_pipe()
    loud = run("--guest", "guests.py:loud", stdout=writer)
    os.close(writer)
    assert loud.from_fifo("heard") == b"all of it\n"
    loud.watch(reader)
    lost = loud.until(r"^hfsched: (\d+) lines of guests' logs lost: not read in time$")
    assert int(lost[1]) > 1
    loud.interrupt()
    assert loud.wait() == 130


def test_a_stdout_that_does_not_block_is_waited_for(run: Start) -> None:
    reader, writer = small_pipe()
    os.set_blocking(writer, False)
    echo = run("--guest", "guests.py:echo", stdout=writer)
    os.close(writer)
    echo.type(b"x" * 3000 + b"\n" + b"y" * 3000 + b"\n")
    echo.end_input()
    echo.until(" from the host", "err")  # the summary: by now the pipe was found full
    echo.watch(reader)
    assert echo.wait() == 0
    assert echo.out.endswith("y\n")


def test_a_stdin_that_does_not_block_is_waited_for(run: Start) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    echo = run("--guest", "guests.py:echo", stdin=reader)
    os.close(reader)
    echo.until("up")
    os.write(writer, b"hello\n")
    os.close(writer)
    assert echo.wait() == 0
    assert echo.out.endswith("guests: hello\n")


# Descriptors that are not there.


def closing(*descriptors: int) -> dict[str, object]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return {"preexec_fn": close}


def test_a_closed_stdin_is_an_empty_one(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", **closing(0))
    assert echo.wait() == 0
    assert echo.out == "[guests] up\n"


def test_a_closed_stdout_is_an_error(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", **closing(1))
    echo.type("hello\n")
    assert echo.wait() == 1
    assert "standard output" in errors(echo)[0]


def test_a_closed_stderr_changes_nothing_else(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", **closing(2))
    echo.type("hello\n")
    assert echo.wait() == 0
    assert echo.out == "[guests] up\nguests: hello\n"


def test_a_full_stderr_changes_nothing_else(run: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        echo = run("--guest", "guests.py:echo", stderr=full)
        echo.type("hello\n")
        assert echo.wait() == 0
    assert echo.out == "[guests] up\nguests: hello\n"


# Instructions that never complete.

NO_KVM = device.problem() if device.MACHINE == "x86_64" else "this is no x86-64 machine"


def test_a_vcpu_whose_instruction_never_completes_is_named_and_the_rest_ends(run: Start) -> None:
    os.mkfifo("gate")  # nobody opens it
    machine = run("e=guests.py:echo", "s=guests.py:stuck", "--linger", "0.5")
    machine.type("hello\n@s go\n")
    machine.until(r"^\[s\] stuck$")
    machine.type("again\n")
    assert machine.wait() == 1
    assert [line for line in machine.out.splitlines() if line.startswith("e: ")] == [
        "e: hello",
        "e: again",
    ]
    assert "vm s: vCPU 0 did not stop: an instruction of its guest does not complete" in errors(
        machine
    )


@pytest.mark.skipif(NO_KVM is not None, reason=f"engine kvm: {NO_KVM}")
@pytest.mark.parametrize(
    "instruction", [b"\x0f\x01\xc1", b"\x0f\x01\xd9"], ids=["VMCALL", "VMMCALL"]
)
@with_images
def test_a_guest_of_kvm_that_calls_kvm_is_named_and_the_rest_ends(
    run: Start, instruction: bytes
) -> None:
    """A KVM that emulates these executes them again without end, inside the kernel."""
    Path("calls.bin").write_bytes(instruction + b"\xeb\xfe")  # and a loop
    Path("machine.toml").write_text(
        'engine = "kvm"\n[[vm]]\nimage = "echo.bin"\n[[vm]]\nimage = "calls.bin"\nformat = "raw"\n'
    )
    machine = run("machine.toml")
    machine.until(
        r"^hfsched: vm calls: vCPU 0 has run for 1 s without a hypercall or WFI; pc 0x", "err"
    )
    machine.type("hello\n")
    assert machine.wait() == 1
    assert "echo: hello\n" in machine.out
    (error,) = errors(machine)
    assert error.startswith("vm calls: vCPU 0 still running 2 s after end of input; pc 0x")
