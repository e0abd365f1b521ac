"""What the benchmarks' pages have in common (benchmarks/report.py)."""

import importlib.util

from house import REPO

spec = importlib.util.spec_from_file_location("report", REPO / "benchmarks" / "report.py")
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)

DOC = """What it does.

    python benchmarks/speed.py

Ours beside
theirs.

More that the page leaves out.
"""


def test_a_page_names_command_method_machine_and_commit():
    page = "\n".join(report.opening("Speed", "somewhere/speed.py", DOC, "PyAV 17"))
    assert page.startswith("# Speed\n\n`python benchmarks/speed.py`: Ours beside theirs.\n\ntorch ")
    assert "leaves out" not in page
    assert f"vjepa_hf {report.COMMIT}" in page and ", PyAV 17, " in page and "thread(s)" in page


def test_a_table_has_a_cell_for_each_heading():
    assert report.table(["a", "b"], [(1, "x")]) == ["| a | b |", "| --- | --- |", "| 1 | x |"]


def test_a_published_page_is_printed_and_written_and_ends_in_one_line_break(tmp_path, capsys):
    report.publish(["# A", "", "b", ""], tmp_path / "new" / "a.md")
    assert (tmp_path / "new" / "a.md").read_text() == "# A\n\nb\n" == capsys.readouterr().out[:-1]


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path):
    assert report.commit_of(tmp_path) == "(no commit)"
