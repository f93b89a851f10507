"""The device tree that is made for a VM: by parsers that are not ours, and by guests that boot with it."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from memory.fdt_writer import Node, cells, read
from talks import every_engine, talk

from hfsched.errors import ConfigError
from hfsched.hypervisor.vm import Vm
from hfsched.vmm.devicetree import DeviceNode, device_tree
from hfsched.vmm.manifest import VmSpec, load, parse

BASE, SIZE = 0x7F00_0000, 16 << 20
VIRTIO = DeviceNode.virtio_mmio(0x0A00_0000, 0x1000, 40)


def nodes(blob: bytes) -> dict[str, Node]:
    return {node.name: node for node in read(blob)[0].children}


def test_all_that_a_vm_has_is_in_it() -> None:
    tree = nodes(device_tree(BASE, SIZE, 3, bootargs="quiet", devices=[VIRTIO]))
    assert list(tree) == [
        "chosen",
        "memory@7f000000",
        "cpus",
        "psci",
        "apb-pclk",
        "pl011@9000000",
        "hf-interrupts",
        "virtio_mmio@a000000",
    ]
    assert tree["chosen"].properties == {
        "bootargs": b"quiet\0",
        "stdout-path": b"/pl011@9000000\0",
    }
    assert tree["memory@7f000000"].properties["reg"] == cells(0, BASE, 0, SIZE)
    cpus = {node.name: node.properties for node in tree["cpus"].children}
    assert list(cpus) == ["cpu@0", "cpu@1", "cpu@2"]
    assert cpus["cpu@2"]["reg"] == cells(2)
    assert cpus["cpu@2"]["enable-method"] == b"psci\0"
    assert tree["psci"].properties["method"] == b"hvc\0"
    assert tree["pl011@9000000"].properties["reg"] == cells(0, 0x0900_0000, 0, 0x1000)
    assert tree["virtio_mmio@a000000"].properties == {
        "compatible": b"virtio,mmio\0",
        "reg": cells(0, 0x0A00_0000, 0, 0x1000),
        "interrupts": cells(40),
        "dma-coherent": b"",
    }


def test_without_interrupts_there_is_no_controller_and_x86_64_has_no_psci() -> None:
    root = read(device_tree(0x1_0000_0000, SIZE, 1))[0]
    assert "interrupt-parent" not in root.properties
    assert "hf-interrupts" not in [node.name for node in root.children]
    tree = nodes(device_tree(BASE, SIZE, 1, machine="x86_64"))
    assert "psci" not in tree
    assert "enable-method" not in tree["cpus"].children[0].properties


BLOBS = {
    "plain": device_tree(BASE, SIZE, 1, devices=[DeviceNode.generation_id()]),
    "many": device_tree(0x12_3450_0000, 1 << 36, 32, bootargs="a b", devices=[VIRTIO]),
    "x86_64": device_tree(BASE, SIZE, 2, machine="x86_64"),
}
every_blob = pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS)


@every_blob
def test_dtc_reads_it_without_a_warning_and_writes_the_same(blob: bytes) -> None:
    if shutil.which("dtc") is None:
        pytest.skip("dtc is not installed: Debian's device-tree-compiler")
    done = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dtb"], input=blob, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert read(done.stdout) == read(blob)


@every_blob
def test_the_package_fdt_reads_the_same(blob: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package: Any = pytest.importorskip("fdt", reason="the package fdt is not installed")
    parsed = package.parse_dtb(blob)
    assert read(bytes(parsed.to_dtb())) == read(blob)
    assert parsed.get_property("stdout-path", "/chosen").value == "/pl011@9000000"


# In a machine.


@every_engine
def test_a_guest_boots_with_it(target: Any) -> None:
    with talk(target, "trusty", fdt="auto") as host:
        assert host.ask("echo hello").removeprefix("echo ") == "hello"
        vm = host.vm(0)
        assert isinstance(vm, Vm)
        (region,) = vm.memory.regions
        blob = vm.memory.read(region.end - 4096, 4096)
        assert nodes(blob)[f"memory@{region.ipa:x}"].properties["reg"][4:8] == cells(region.ipa)


def test_auto_in_a_manifest_is_no_file_unless_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "auto").write_bytes(b"")
    manifest = tmp_path / "m.toml"
    for fdt, found in (("auto", "auto"), ("./auto", str(tmp_path / "auto"))):
        manifest.write_text(f'[[vm]]\nimage = "echo.bin"\nfdt = "{fdt}"\n')
        assert load(manifest).vm[0].fdt == found


def spec(text: str) -> VmSpec:
    return parse("m.toml", f'[[vm]]\nname = "a"\nimage = "echo.bin"\n{text}\n'.encode()).vm[0]


def test_bootargs_go_with_auto_alone() -> None:
    assert spec('fdt = "auto"\nbootargs = "quiet"').bootargs == "quiet"
    for text in ('bootargs = "quiet"', 'bootargs = ""\nfdt = "board.dtb"'):
        with pytest.raises(ConfigError) as caught:
            spec(text)
        assert str(caught.value) == 'manifest m.toml: vm a: bootargs needs fdt = "auto"'
    with pytest.raises(ConfigError, match=r"vm a: bootargs .* has a NUL character"):
        spec('fdt = "auto"\nbootargs = "a\\u0000b"')
