"""Machines as strangers write them: what each spelling is read as."""

import pytest

from sim.forecast.read_machine import read_machine
from sim.forecast.shipped import shares_of, shipped_parameters
from sim.validation.published.corpus.parts import SPECIFIED, STATED, Rates


def rates(words: str) -> Rates:
    return read_machine(words, shares_of(shipped_parameters())).rates


@pytest.mark.parametrize(
    ("words", "gpu", "cpu", "gib"),
    [
        ("rtx4070, ryzen 7 7700", "GeForce RTX 4070", "Ryzen 7 7700", 12),
        ("RTX-4070, Ryzen-7-7700", "GeForce RTX 4070", "Ryzen 7 7700", 12),
        ("rtx_4070 + ryzen_7_7700", "GeForce RTX 4070", "Ryzen 7 7700", 12),
        ("NVIDIA GeForce RTX 4070 / AMD Ryzen 7 7700 / 64GB DDR5", "GeForce RTX 4070", "Ryzen 7 7700", 12),
        ("RTX 4070 and Ryzen 7 7700 with 64GB DDR5-5600", "GeForce RTX 4070", "Ryzen 7 7700", 12),
        ("NVIDIA RTX4070Ti Super; i7 14700K", "GeForce RTX 4070 Ti Super", "Core i7-14700", 16),
        ("4070 ti super, 14700k", "GeForce RTX 4070 Ti Super", "Core i7-14700", 16),
        ("rtx 3060 12 gb + i5 12400f + 32gb ddr4 3200", "GeForce RTX 3060", "Core i5-12400", 12),
        ("RX7900XTX, 7800X3D", "Radeon RX 7900 XTX", "Ryzen 7 7800X3D", 24),
        ("GTX1060 6GB, i5-8400", "GeForce GTX 1060 6 GB", "Core i7-8000 series", 6),
        ("1080ti, i7-7700k", "GeForce GTX 1080 Ti", "Core i7-7000 series", 11),
        ("RTX 5060 Ti 8GB, Ryzen 7 9700X", "GeForce RTX 5060 Ti", "Ryzen 7 9700X", 8),
        ("rtx 4090 mobile 16gb, 13980hx", "GeForce RTX 4090 Laptop", "Core i7-13000 series", 16),
        ("h100, xeon platinum 8480+", "H100", "Xeon Platinum 8480", 80),
        ("epyc7742, rtx3090", "GeForce RTX 3090", "EPYC 7742", 24),
        ("i7-8700, 32GB, no gpu", None, "Core i7-8700", None),
    ],
)
def test_gpus_and_cpus(words: str, gpu: str | None, cpu: str, gib: int | None) -> None:
    found = rates(words)
    assert (found.gpu.part if found.gpu else None, found.cpu.part if found.cpu else None) == (gpu, cpu)
    assert found.vram_bytes == (None if gib is None else gib * 2**30)


@pytest.mark.parametrize(
    ("words", "part", "gb"),
    [
        ("m4 max 64gb", "Apple M4 Max", 64), ("MacBook Pro M3 Max, 128 GB", "Apple M3 Max", 128),
        ("Mac Studio M2 Ultra 192 GB", "Apple M2 Ultra", 192), ("DGX Spark", "NVIDIA GB10 (DGX Spark)", 128),
        ("ryzen ai max+ 395 128 gb", "Ryzen AI Max+ 395 (Strix Halo)", 128), ("Steam Deck 16GB", "Steam Deck", 16),
        ("snapdragon 8 elite 16GB", "Snapdragon 8 Elite", 16), ("Raspberry Pi 5, 8 GB RAM", "Raspberry Pi 5", 8),
    ],
)  # fmt: skip
def test_chips_with_one_memory(words: str, part: str, gb: float) -> None:
    found = rates(words)
    assert found.gpu is not None
    assert found.unified
    assert (found.gpu.part, found.ram_bytes) == (part, gb * 1e9)


@pytest.mark.parametrize(
    ("words", "gb_s", "known"),
    [
        ("NVMe 3500 MB/s", 3.5, STATED), ("3.5 GB/s NVMe", 3.5, STATED), ("nvme ssd 7,000 MB/s", 7, STATED),
        ("SSD 7000MB/s", 7, STATED), ("SSD (7 GB/s read)", 7, STATED), ("SATA SSD 550 MB/s", 0.55, STATED),
        ("ufs 4.0 4.2 GB/s", 4.2, STATED), ("PCIe 4.0 x4 SSD", 6.5, SPECIFIED), ("PCIe 4.0 NVMe", 6.5, SPECIFIED),
        ("gen4 nvme", 6.5, SPECIFIED), ("Gen 5 SSD", 13, SPECIFIED), ("SATA SSD", 0.53, SPECIFIED),
        ("Samsung 990 PRO 2TB", 7.45, SPECIFIED), ("samsung 990pro", 7.45, SPECIFIED), ("WD SN850X", 7.3, SPECIFIED),
        ("1 TB NVMe", None, None), ("2TB SSD", None, None), ("HDD", None, None),
    ],
)  # fmt: skip
def test_drives(words: str, gb_s: float | None, known: str | None) -> None:
    found = rates(f"RTX 4070, Ryzen 7 7700, 64 GB RAM, {words}")
    assert found.storage_bytes_per_s == (None if gb_s is None else pytest.approx(gb_s * 1e9))
    assert found.storage_known == known
    assert found.link_known == SPECIFIED  # not taken for the GPU's slot


@pytest.mark.parametrize(
    ("words", "gb", "gb_s"),
    [
        ("DDR5 6000 dual channel", None, 96), ("ddr5-6000 dual-channel", None, 96), ("PC5-48000", None, 96),
        ("64gb ddr5-6000", 64, 96), ("2x32 GB DDR5-6000", 64, 96), ("2 x 32GB DDR5-6000 CL30", 64, 96),
        ("32GB x2 DDR5-6000", 64, 96), ("DDR5@6000", None, 96), ("quad-channel DDR4-3200, 128 GB", 128, 102.4),
        ("8-channel DDR4 3200", None, 204.8), ("12ch DDR5-4800 384GB", 384, 460.8), ("RAM: 64GB DDR5-5600", 64, 89.6),
        ("64g ram", 64, 83.2), ("64 gig ram", 64, 83.2), ("1 TB RAM", 1000, 83.2),
        ("80GB/s memory bandwidth", None, 80),
    ],
)  # fmt: skip
def test_ram(words: str, gb: float | None, gb_s: float) -> None:
    found = rates(f"RTX 4070, Ryzen 7 7700, {words}")
    assert found.ram_bytes == (None if gb is None else gb * 1e9)
    assert found.ram_bytes_per_s == pytest.approx(gb_s * 1e9)


@pytest.mark.parametrize(
    ("words", "gb_s"),
    [("pcie 4.0 x16", 31.5), ("PCIe4 x8", 15.75), ("PCIe Gen3 x16", 15.76), ("PCIe 12 GB/s", 12)],
)
def test_links(words: str, gb_s: float) -> None:
    assert rates(f"RTX 4070, Ryzen 7 7700, {words}").link_bytes_per_s == pytest.approx(gb_s * 1e9, rel=1e-3)
