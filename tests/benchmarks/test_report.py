"""The page of results: what it shows, that it needs nothing else, and what it says of spoilt files."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from benchmarks.report import others, stages, training, utilisation, words
from benchmarks.report.__main__ import Options, main, sections, write
from benchmarks.report.drawing import COLOURS, styles
from benchmarks.report.gather import Found, gather
from benchmarks.report.page import Section, Table, render
from benchmarks.suite.record import Percentiles, Record, ResultsError, append
from tests.benchmarks import made_up

KERNELS = Path(__file__).parents[2] / "benchmarks" / "results" / "kernels.json"
VOID_TAGS = {"meta", "br", "path", "use", "rect", "link"}


def written(folder: Path, records: list[Record]) -> Path:
    """Results as the suites leave them: a file a suite."""
    folder.mkdir(exist_ok=True)
    for record in records:
        with (folder / f"{record.suite}.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")
    return folder


def page_of(records: list[Record]) -> str:
    return render(sections(Found(tuple(records), (), ("a.jsonl",), ())), files=["a.jsonl"], notes=[], version="0")


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = written(tmp_path_factory.mktemp("results"), made_up.everything())
    (folder / "kernels.json").write_text(KERNELS.read_text())
    write(Options((folder,), folder / "report.html"))
    return (folder / "report.html").read_text()


class Outline(HTMLParser):
    """Checks that elements close in order; keeps ids and the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.targets |= {found["href"]} if found.get("href") else set()  # type: ignore[arg-type]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID_TAGS:
            assert self.open.pop() == tag


# The page.


def test_one_page_has_a_section_for_everything_that_was_measured(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Training", "Compute utilisation", "Collectives", "Scaling", "Bytes by stage", "Fidelity", "Kernels",
    ]  # fmt: skip
    assert page.count("<svg") == 5
    assert page.count("made up by a test") == 5  # the command under each suite of records
    assert json.loads(KERNELS.read_text())["command"] in page


def test_the_page_needs_no_network_no_script_and_no_other_file(page: str) -> None:
    assert not re.search(r"<script|<img|<link|@import|\bon\w+=|src=", page)
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_page_is_well_formed_and_its_ids_are_its_own(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids)) > 100
    assert outline.targets <= {f"#{name}" for name in outline.ids}


def test_pictures_follow_the_scheme_of_the_page(page: str) -> None:
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.S))
    assert not [colour for colour in COLOURS if colour in pictures]
    assert "var(--c0)" in pictures
    assert "prefers-color-scheme: dark" in page


def test_what_a_record_says_is_text_and_never_markup(page: str) -> None:
    assert "does not have &lt;b&gt;here&lt;/b&gt;" in page
    assert "<b>here</b>" not in page
    assert "<i>" not in page_of([made_up.record("scaling", "<i>", label="<i>", status="failed", reason="<i>")])


def test_no_section_without_records() -> None:
    assert [section.anchor for section in sections(Found(tuple(made_up.scaling()), (), (), ()))] == ["scaling", "stages"]


def test_records_without_numbers_make_a_page_of_reasons() -> None:
    suites = ("training", "utilisation", "collectives", "scaling", "lab")
    page = page_of([made_up.record(suite, "a", label="a", status="failed", reason=f"{suite} died") for suite in suites])
    assert all(f"failed: {suite} died" in page for suite in suites)
    assert "<svg" not in page


# Training.


def test_training_tells_medians_ranges_bytes_and_how_many_times_fewer() -> None:
    first = tables(training.section(made_up.training(mbits=(10,))))[0]
    rows = {row.cells[0]: dict(zip(first.headings, row.cells, strict=True)) for row in first.rows}
    ours = rows["DiLoCo, defaults"]
    assert (ours["loss"], ours["range"], ours["MB sent"], ours["MB received"]) == ("2.045", "2.039 .. 2.051", "1.46", "1.45")
    assert (ours["payload MB"], ours["x fewer than DDP"], ours["replicas equal"], ours["seeds"]) == ("1.40", "1\u202f099", "yes", "3")
    assert rows["DDP fp32"]["x fewer than DDP"] == ""


def test_training_keeps_absent_and_failed_rows_with_their_reason() -> None:
    rows = {row.cells[0]: row for row in tables(training.section(made_up.training(mbits=(10,))))[0].rows}
    assert rows["torchft DiLoCo"].status == "absent"
    assert rows["torchft DiLoCo"].note.startswith("absent: torchft 0.2.0 needs a lighthouse that its wheel for this Python")
    assert rows["DDP PowerSGD rank 1"].note == "failed: worker 1 died (seed 2)"
    assert rows["DDP PowerSGD rank 1"].cells[-1] == "2 of 3"


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert training.front([(3, 1.0), (1, 3.0), (2, 3.5), (2, 2.0), (4, 1.5)]) == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_curve_is_of_the_steps_that_all_seeds_have() -> None:
    runs = [one for one in made_up.training(mbits=(10,)) if one.label == "DDP fp32"]
    shorter = [msgspec.structs.replace(runs[0], curve=runs[0].curve[:5]), *runs[1:]]
    assert [point.step for point in training.common(shorter)] == [50, 100, 150, 200]
    assert training.common([]) == []


def test_methods_of_a_family_share_a_colour_and_no_marker() -> None:
    looks = styles([("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a1")])
    assert looks["a1"].colour == looks["a2"].colour != looks["b1"].colour
    assert looks["a1"].marker != looks["a2"].marker


# Utilisation and bytes.


def test_the_surface_has_a_map_a_codec_and_overlap_and_numbers_in_its_cells() -> None:
    records = made_up.utilisation()
    differ, alike = words.varying(records)
    assert differ == ["codec", "overlap"]
    assert "rtt 80 ms" in alike
    panels = utilisation.panels(records, differ)
    assert list(panels) == ["none, overlap 0", "none, overlap 1", "blockmax4-int4, overlap 0", "blockmax4-int4, overlap 1"]
    heat = utilisation.heat("", panels["none, overlap 0"])
    assert [name for name, _ in heat.rows] == ["5", "20", "100/20", "100"]
    assert list(heat.columns) == ["1", "10", "50"]
    cells = dict(heat.rows)["20"]
    assert [(cell.text, cell.below) for cell in cells[:2]] == [("1 %", "2.4 %"), ("13 %", "0.8 %")]
    assert (cells[2].text, cells[2].colour) == ("void", "")


def test_points_that_do_not_count_are_listed_with_their_reason() -> None:
    bad, every = tables(utilisation.section(made_up.utilisation()))
    assert [(row.cells, row.note) for row in bad.rows] == [
        (["20 Mbit/s, H 50, none, overlap 0"], "void: 20 Mbit/s asked, 17.9 measured: 10.5 % off; free the machine and run it again")
    ]
    assert len(every.rows) == 48
    assert {row.cells[-1] for row in every.rows} == {"yes", "NO", ""}


def test_bytes_by_stage_are_of_methods_that_count_them() -> None:
    found = stages.told([*made_up.training(mbits=(10,)), *made_up.collectives()])
    assert [name for name in found if "DDP" in name] == []
    assert list(found["training: DiLoCo, defaults"]) == ["payload", "ledger", "interface", "wire"]
    assert len([name for name in found if name.startswith("collectives")]) == 2  # the largest size


def test_a_suite_without_a_section_of_its_own_shows_numbers_times_and_checks() -> None:
    took = Percentiles(0.1, 0.15, 0.2, 12)
    record = made_up.record("chaos", "50 events", seconds={"recovery": took}, numbers={"hangs": 0.0}, checks={"no hangs": True})
    (table,) = tables(others.section("chaos", [record]))
    assert [*table.headings[2:]] == ["hangs", "recovery ms", "no hangs"]
    assert [*table.rows[0].cells[2:]] == ["0.00", "100 / 150 / 200", "yes"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (0.0, "0.00"), (0.01234, "0.0123"), (1.4, "1.40"), (40, "40.0"), (160.4, "160"), (1605, "1\u202f605"), (1.2e-7, "0")],
)
def test_numbers_keep_their_digits(value: float | None, said: str) -> None:
    assert words.significant(value) == said


# Files.


def test_of_two_records_of_a_run_the_one_read_last_counts(tmp_path: Path) -> None:
    append(tmp_path / "a.jsonl", made_up.record("scaling", "a", label="old"))
    append(tmp_path / "b.jsonl", made_up.record("scaling", "a", label="new"))
    assert [record.label for record in gather([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]).records] == ["new"]


def test_a_spoilt_line_is_one_sentence_with_file_line_cause_and_remedy(tmp_path: Path) -> None:
    path = written(tmp_path, made_up.scaling()) / "scaling.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace('"members":4', '"members":"four"') + lines[2])
    with pytest.raises(SystemExit, match=rf"^error: {re.escape(str(path))}, line 2 is no record: .*members.*; mend or delete that line$"):
        main([str(tmp_path), "-o", str(tmp_path / "report.html")])
    assert not (tmp_path / "report.html").exists()


def test_a_record_that_was_edited_to_nonsense_is_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, made_up.scaling()) / "scaling.jsonl"
    path.write_text(re.sub(r'"p95":[\d.]+', '"p95":-1e9', path.read_text()))
    with pytest.raises(SystemExit, match=r"^error: a record of scaling cannot be shown \(.*\): it was edited; delete its line and measure"):
        main([str(path), "-o", str(tmp_path / "report.html")])


def test_a_line_that_a_crash_cut_off_is_said_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, made_up.scaling()) / "scaling.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    main([str(path), "-o", str(tmp_path / "report.html")])
    said = f"The last line of {path} is cut off"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "report.html").read_text()


def test_a_folder_may_hold_other_lines_of_json_and_says_what_it_left_out(tmp_path: Path) -> None:
    written(tmp_path, made_up.scaling())
    (tmp_path / "table.jsonl").write_text('{"key": "alone"}\n')
    [note] = gather([tmp_path]).notes
    assert note.endswith("left out, they hold no records: table.jsonl.")


@pytest.mark.parametrize(("text", "said"), [("{", "line 1 is no JSON"), ('{"rows": []}', "lacks cpu, torch, commit"), ("[]", "lacks rows")])
def test_a_spoilt_table_of_kernels_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text(text)
    with pytest.raises(ResultsError, match=rf"kernels\.json.*{said}.*; measure it again with"):
        gather([tmp_path])


def test_a_kernels_table_that_lacks_a_field_names_it(tmp_path: Path) -> None:
    table = json.loads(KERNELS.read_text())
    del table["rows"][0]["met"]
    with pytest.raises(ResultsError, match="lacks or spoils 'met'"):
        sections(Found((), (table,), (), ()))


def test_nothing_to_show_says_how_to_measure(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(ResultsError, match="thinwire bench all --quick"):
            gather([path])


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, made_up.scaling())
    with pytest.raises(ResultsError, match=r"cannot write .*; free some space or give another -o"):
        write(Options((path,), path))
