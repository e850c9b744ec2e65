"""The corpus's reader: what it reads of odd cells, and that bad ones are refused in one sentence."""

import csv
from pathlib import Path

import pytest

from sim.validation.published.corpus.parts import SHIPPED, find_part, rates_of, read_parts, shipped_parts
from sim.validation.published.corpus.sizes import bits_of, find_model, read_models, shipped_models
from sim.validation.published.corpus.tables import COLUMNS, MACHINE_COLUMNS, StatedMachine, number_of, read_corpus
from tests.support.corpus_rows import machine_cells, measurement_cells, write_corpus
from traces.errors import UserError


def test_the_shipped_corpus_is_read_whole() -> None:
    corpus = read_corpus(SHIPPED)
    assert (len(corpus.rows), len(corpus.machines)) == (428, 103)
    assert all(row.source for row in corpus.rows)
    assert sum(row.decode_tok_s is not None for row in corpus.rows) == 395


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("", None), ("not stated", None), ("12", 12.0), ("11-12", 11.5), ("53.41 53.89", 53.65), ("~1.0", 1.0),
        ("102 (llmfit measured)", 102.0), ("1,024", 1024.0), (".5", 0.5), ("about equal to PCIe (ratio 0.94)", None),
        ("up to 0.85", None), ("112,333", 112333.0),
    ],
)  # fmt: skip
def test_numbers_of_cells(cell: str, number: float | None) -> None:
    assert number_of(cell) == (None if number is None else pytest.approx(number))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("decode_tok_s", "0", "decode_tok_s='0': must be above 0"),
        ("decode_tok_s", "-3", "decode_tok_s='-3': must be tokens per second above 0"),
        ("decode_tok_s", "nan", "decode_tok_s='nan': must be tokens per second"),
        ("decode_tok_s", "1e999", "decode_tok_s='1e999': must be tokens per second"),
        ("decode_tok_s", "99999999999", "must be above 0 and at most 1e+07"),
        ("prefill_tok_s", "inf", "prefill_tok_s='inf': must be tokens per second"),
        ("hit_rate", "56", "hit_rate='56': must be a share from 0 to 1, a percentage, or empty"),
        ("miss_rate", "-0.1", "miss_rate='-0.1': must be a share from 0 to 1"),
        ("confidence", "certain", "confidence='certain': must be one of high, medium, low"),
        ("machine_id", "elsewhere", "machine_id='elsewhere': must be a machine_id of machines.csv"),
        ("model", "", "model='': must not be empty"),
        ("source", "", "source='': must not be empty"),
        ("flags", "a\x00b", "flags='a\\x00b': must be text without control characters"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, column: str, value: str, said: str) -> None:
    write_corpus(tmp_path, [measurement_cells(**{column: value})], [machine_cells()])
    with pytest.raises(UserError) as error:
        read_corpus(tmp_path)
    assert said in str(error.value)
    assert "corpus.csv line 2" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the column row_id 0 times"),
        (",".join(COLUMNS), "has no rows after its column names"),
        (",".join((*COLUMNS, "row_id")) + "\n" + "," * len(COLUMNS), "has the column row_id 2 times"),
        (",".join(COLUMNS) + "\na,b\n", "line 2: 2 cells: must be 24, one per column"),
        (",".join(COLUMNS) + '\n"a', "not a csv file"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    write_corpus(tmp_path, [measurement_cells()], [machine_cells()])
    (tmp_path / "corpus.csv").write_text(text)
    with pytest.raises(UserError, match=r"corpus\.csv") as error:
        read_corpus(tmp_path)
    assert said in str(error.value)


def test_rows_twice_files_missing_and_other_bytes_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, [measurement_cells(), measurement_cells()], [machine_cells()])
    with pytest.raises(UserError, match=r"corpus.csv line 3: row_id='r1': must be there, and another one in every row"):
        read_corpus(tmp_path)
    (tmp_path / "corpus.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8 text: byte 0"):
        read_corpus(tmp_path)
    (tmp_path / "corpus.csv").unlink()
    with pytest.raises(UserError, match=r"is missing: a corpus has corpus\.csv and machines\.csv"):
        read_corpus(tmp_path)


def test_a_byte_order_mark_other_columns_and_empty_lines_do_no_harm(tmp_path: Path) -> None:
    write_corpus(tmp_path, [measurement_cells(hit_rate="56 %")], [machine_cells()])
    lines = (tmp_path / "corpus.csv").read_text().splitlines()
    (tmp_path / "corpus.csv").write_text("\ufeff" + lines[0] + ",mine\r\n\r\n" + lines[1] + ",7\r\n")
    (row,) = read_corpus(tmp_path).rows
    assert row.hit_rate == pytest.approx(0.56)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_those_of_a_table_do(tmp_path: Path, end: str) -> None:
    write_corpus(tmp_path, [measurement_cells(remarks="one\u2028two\x85three")], [machine_cells()])
    text = (tmp_path / "corpus.csv").read_bytes().decode().replace("\r\n", end)
    (tmp_path / "corpus.csv").write_bytes(text.encode())
    (row,) = read_corpus(tmp_path).rows
    assert row.remarks == "one\u2028two\x85three"


def test_every_part_is_found_by_its_own_name_and_has_a_source() -> None:
    parts = shipped_parts()
    for part in parts:
        name = part.part.replace("GeForce ", "").split(" (")[0]
        found = find_part(name, (part.kind,), parts)
        assert found is not None, part.part
        assert found.bandwidth_gb_s == part.bandwidth_gb_s, (part.part, found.part)
        assert part.source
        assert 0 < part.uncertainty <= 0.3
        assert part.kind == "cpu" or part.bandwidth_gb_s > 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("RTX 4070 Ti Super", "GeForce RTX 4070 Ti Super"), ("NVIDIA GeForce RTX 4070 Ti", "GeForce RTX 4070 Ti"),
        ("RTX 4070", "GeForce RTX 4070"), ("rtx 3060 12gb", "GeForce RTX 3060"), ("RX 7900 XTX", "Radeon RX 7900 XTX"),
        ("Apple M4 Max (40 cores)", "Apple M4 Max"), ("Apple M4 Mac mini", "Apple M4"), ("a card", None),
        ("RTX 3080 Ti Laptop GPU", "GeForce RTX 3080 Ti Laptop"), ("GeForce RTX 3080 12GB", "GeForce RTX 3080 12 GB"),
        ("RTX 3080", "GeForce RTX 3080"), ("GTX 1070 Ti", "GeForce GTX 1070 Ti"), ("Titan RTX", "Titan RTX"),
        ("NVIDIA H100 PCIe 80GB", "H100 PCIe"), ("H100 SXM5", "H100"), ("RTX A4500", "RTX A4500"),
        ("Arc B570", "Arc B570"),
        ("RX 6600 XT", "Radeon RX 6600 XT"), ("RX 6600", "Radeon RX 6600"), ("Radeon VII", "Radeon VII"),
        ("MI250X", "Instinct MI250X"), ("MI210", "Instinct MI210"), ("RTX 5060 Laptop", "GeForce RTX 5060 Laptop"),
        ("Mac Studio M3 Ultra 512GB", "Apple M3 Ultra"), ("Ryzen AI Max 390", "Ryzen AI Max 390"),
        ("Ryzen AI Max+ 395", "Ryzen AI Max+ 395 (Strix Halo)"), ("Core Ultra 7 258V", "Core Ultra 7 258V"),
        ("Snapdragon 8 Elite", "Snapdragon 8 Elite"), ("Galaxy S23, Snapdragon 8 Gen 2", "Snapdragon 8 Gen 2"),
        ("Jetson AGX Orin 64GB", "Jetson AGX Orin"), ("Raspberry Pi 5 8GB", "Raspberry Pi 5"), ("RTX 9999", None),
    ],
)  # fmt: skip
def test_the_longest_name_wins(text: str, part: str | None) -> None:
    found = find_part(text, ("gpu", "unified"), shipped_parts())
    assert (found.part if found else None) == part


@pytest.mark.parametrize(
    ("text", "part", "channels", "mt_s"),
    [
        ("EPYC 7742", "EPYC 7742", 8, 3200), ("AMD EPYC 7513", "EPYC 7003 series", 8, 3200),
        ("EPYC 9754", "EPYC 9004 series", 12, 4800), ("EPYC 9575F", "EPYC 9005 series", 12, 6000),
        ("Ryzen 7 5800X3D", "Ryzen 7 5800X", 2, 3200), ("Ryzen 7 5700G", "Ryzen 5000 series", 2, 3200),
        ("Ryzen 9 7945HX", "Ryzen 7000 series", 2, 5200), ("Threadripper 9970X", "Threadripper 9970X", 4, 6400),
        ("Threadripper 7970X", "Threadripper 7970X", 4, 5200),
        ("Threadripper PRO 5955WX", "Threadripper PRO 5965WX", 8, 3200),
        ("i5-13400F", "Core i7-13000 series", 2, 5600), ("i9-7900X", "Core i9-7900X", 4, 2666),
        ("i9-9980XE", "Core i9-7900X", 4, 2666), ("Core i9-10980XE", "Core i9-10980XE", 4, 2933),
        ("Ryzen 9 7900X", "Ryzen 9 7900X", 2, 5200), ("i7-6700K", "Core i7-6000 series", 2, 2133),
        ("Xeon Gold 6338", "Xeon Scalable, 3rd generation", 8, 3200), ("Xeon Gold 6230", "Xeon Gold 6230", 6, 2933),
        ("Xeon E5-2699 v3", "Xeon E5-2600 v3 series", 4, 2133),
        ("Xeon Platinum 8568Y+", "Xeon Scalable, 5th generation", 8, 5600),
        ("Core Ultra 5 245K", "Core Ultra 200 series", 2, 6400), ("Ampere Altra Q80-30", "Ampere Altra", 8, 3200),
        ("Ryzen 9 9950X3D2", "Ryzen 9 9950X", 2, 5600),
    ],
)  # fmt: skip
def test_a_series_of_cpus_counts_where_the_cpu_itself_is_not_listed(
    text: str, part: str, channels: int, mt_s: int
) -> None:
    found = find_part(text, ("cpu",), shipped_parts())
    assert found is not None
    assert (found.part, found.channels, found.memory_mt_s) == (part, channels, mt_s)


def stated(**cells: str) -> StatedMachine:
    return StatedMachine(**(dict.fromkeys(MACHINE_COLUMNS, "") | cells))


def test_rates_are_stated_or_follow_from_parts_or_are_not_known() -> None:
    two_channels = rates_of(stated(gpu="RTX 5080 16GB + 9950X DDR5-4800 2ch"))
    assert two_channels.ram_bytes_per_s == pytest.approx(2 * 8 * 4800e6)
    assert two_channels.ram_known == "stated"
    by_cpu = rates_of(stated(gpu="GTX 1060", cpu="Core i3-8100"))
    assert (by_cpu.ram_known, by_cpu.cores) == ("specified", 4)
    assert by_cpu.ram_bytes_per_s == pytest.approx(2 * 8 * 2400e6)
    sockets = rates_of(stated(cpu="2 x Xeon Gold 6454S", ram_type="DDR5-4800", ram_channels="8 per socket"))
    assert sockets.ram_bytes_per_s == pytest.approx(2 * 8 * 8 * 4800e6)
    assert sockets.cores == 64
    unknown = rates_of(stated(gpu="RTX 4070", ram_gb="31"))
    assert (unknown.ram_bytes_per_s, unknown.link_known) == (None, "specified")
    assert rates_of(stated(gpu="RTX 3060 12GB (360 GB/s)")).gpu_bytes_per_s == 360e9
    assert rates_of(stated(link="PCIe 5.0 x8, ~32 GB/s (stated)")).link_bytes_per_s == 32e9
    assert rates_of(stated(storage_gb_s="1.96 buffered, 2.74 O_DIRECT")).storage_bytes_per_s == 2.74e9
    unified = rates_of(stated(gpu="Apple M1 Max MacBook Pro"))
    assert unified.unified
    assert unified.ram_bytes_per_s == unified.gpu_bytes_per_s == 400e9


@pytest.mark.parametrize(
    ("quantisation", "bits"),
    [
        ("Q4_K_M", (4.87, 4.87)), ("IQ3_KS 3.65 bpw", (3.65, 3.65)), ("MXFP4_MOE", (4.25, 8.5)), ("BF16", (16, 16)),
        ("NVFP4", (4.5, 16)), ("", None), ("not stated", None),
    ],
)  # fmt: skip
def test_bits_by_name(quantisation: str, bits: tuple[float, float] | None) -> None:
    known = find_model("Qwen3-30B-A3B")
    assert known is not None
    assert bits_of(quantisation, known) == bits


def test_bits_by_the_size_of_the_file_unless_it_is_of_something_else() -> None:
    known = find_model("Qwen3.5-35B-A3B")
    assert known is not None
    assert bits_of("Q4_K_M (20.49 GiB)", known) == pytest.approx((5.078, 5.078), rel=1e-3)
    assert bits_of("Q4_K_M (480 GB)", known) == (4.87, 4.87)


def test_models_have_the_weights_that_their_makers_state() -> None:
    for known in shipped_models():
        model = known.dimensions
        if known.parameters_b is None:
            continue
        experts = 3 * model.hidden_size * model.expert_ffn * model.num_experts * model.num_layers
        assert 0.8 < experts / 1e9 / known.parameters_b < 1.0, known.name
        assert find_model(known.name) is known, known.name
    for name, model in (
        ("qwen3:30b-a3b", "Qwen3-30B-A3B"), ("Qwen 3 30B A3B Instruct 2507", "Qwen3-30B-A3B"),
        ("GPT-OSS:20B", "gpt-oss-20b"), ("unsloth/Qwen3-Coder-Next", "Qwen3-Next-80B-A3B"),
        ("glm 4.5 air", "GLM-4.5-Air"), ("GLM-4.6", "GLM-4.5"),
        ("DeepSeek R1 671B", "DeepSeek-V3"), ("Gemma 4 26B A4B", "gemma-4-26B-A4B"),
    ):  # fmt: skip
        known_as = find_model(name)
        assert known_as is not None, name
        assert known_as.name == model
    assert find_model("DeepSeek-R1-Distill-Qwen-32B") is None
    assert find_model("DeepSeek-V2-Lite / Qwen3.6-35B-A3B") is None
    assert find_model("a model that nobody knows") is None


@pytest.mark.parametrize(("file", "read"), [("parts.csv", read_parts), ("models.csv", read_models)])
def test_bad_parts_and_models_are_named(tmp_path: Path, file: str, read: object) -> None:
    with (SHIPPED / file).open() as lines:
        rows = list(csv.reader(lines))
    place = rows[0].index("match")
    rows[1][place] = "("
    with (tmp_path / file).open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    with pytest.raises(UserError, match=rf"{file} .*match='\(': must be a pattern"):
        read(tmp_path / file)  # type: ignore[operator]
