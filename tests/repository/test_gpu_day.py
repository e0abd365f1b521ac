"""The GPU day runs every part within its time, reports the parts that fail, and is rehearsed on a CPU.

pytest tests/repository/test_gpu_day.py
"""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from house import REPO
from programs import cpu_environment

SCRIPT = REPO / "benchmarks" / "gpu_day.sh"
PAGES = ["step.md", "inference.md", "real_clips.md", "loader.md", "real_clips_videomae.md"]
PARTS = ["tests.txt", *PAGES]


def gpu_day(tmp_path: Path, *words: object, python: object = sys.executable) -> subprocess.CompletedProcess:
    environment = cpu_environment(tmp_path / "hf_home") | {"PYTHON": str(python)}
    return subprocess.run([SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True)


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A folder with nothing to measure."""
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "commit").write_text("abc1234\n")
    return tmp_path / "day"


@pytest.fixture
def interpreter(tmp_path) -> Path:
    """In place of Python: one program fails, one hangs, and all write down how they were called."""
    path = tmp_path / "python"
    path.write_text(
        "#!/usr/bin/env bash\n"
        f'printf "%s\\n" "$*" >>{tmp_path}/calls\n'
        "echo 'progress'; echo '# A page'; echo 'partial'; echo '# A page'; echo \"$VJEPA_COMMIT\"\n"
        "case $* in *step.py*) echo 'no reference' >&2; exit 3 ;; *inference.py*) sleep 60 ;; esac\n"
    )
    path.chmod(0o755)
    return path


def test_a_part_that_fails_or_hangs_is_reported_and_does_not_stop_the_others(tmp_path, prepared, interpreter):
    result = gpu_day(tmp_path, "rehearse", prepared, 5, python=interpreter)
    assert result.returncode == 1
    summary = (prepared / "results" / "summary.txt").read_text()
    assert summary == result.stdout
    ends = dict(line.split(": ", 1) for line in summary.splitlines())
    assert list(ends) == PARTS
    assert ends["step.md"].startswith("FAILED with status 3, see step.log")
    assert ends["inference.md"].startswith("STOPPED at its limit of 5 s")
    assert all(ends[name].startswith("succeeded") for name in PARTS if name not in ("step.md", "inference.md"))
    assert (prepared / "results" / "step.log").read_text() == "no reference\n"
    # The last page is the result, also of a part that was stopped.
    assert {(prepared / "results" / name).read_text() for name in PARTS} == {"# A page\nabc1234\n"}


def test_all_parts_together_take_less_than_ten_minutes(tmp_path, prepared, interpreter):
    (deadline,) = re.findall(r"^    deadline=(\d+)$", SCRIPT.read_text(), re.MULTILINE)
    (kill_after,) = re.findall(r"--kill-after (\d+)", SCRIPT.read_text())
    assert int(deadline) + int(kill_after) < 600
    # That of a rehearsal is three times the limit of a part, so that the last parts have no time if all hang.
    interpreter.write_text("#!/usr/bin/env bash\nsleep 60\n")
    result = gpu_day(tmp_path, "rehearse", prepared, 2, python=interpreter)
    assert result.returncode == 1
    assert re.findall(r"^(\S+): STOPPED", result.stdout, re.MULTILINE) == PARTS
    assert sum(int(seconds) for seconds in re.findall(r", (\d+) s$", result.stdout, re.MULTILINE)) <= 12
    assert result.stdout.count("limit of 0 s, 0 s") >= 2


def test_every_option_of_the_gpu_day_is_rehearsed(tmp_path, prepared, interpreter):
    def options(command: str) -> list[set[str]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        interpreter.write_text(interpreter.read_text().replace("sleep 60", ":"))
        gpu_day(tmp_path, command, prepared, python=interpreter)
        calls = (tmp_path / "calls").read_text().splitlines()
        return [set(re.findall(r"-\S*[a-z]\S*", call)) for call in calls if not call.startswith("-c")]

    measured, rehearsed = options("run"), options("rehearse")
    assert len(measured) == len(rehearsed) == len(PARTS)
    assert [ours - tried for ours, tried in zip(measured, rehearsed, strict=True)] == [set()] * len(PARTS)


def test_without_a_gpu_nothing_is_measured(tmp_path, prepared):
    result = gpu_day(tmp_path, "run", prepared)
    assert result.returncode == 1 and "PyTorch finds no GPU" in result.stderr
    assert not (prepared / "results").exists()


def test_a_wrong_command_line_prints_the_right_ones(tmp_path):
    result = gpu_day(tmp_path, "run")
    assert result.returncode == 2 and result.stderr.count("benchmarks/gpu_day.sh") == 3


@pytest.fixture
def clips(toy_videos, tmp_path) -> Path:
    """Toy videos in the place of the clips of the study, with its sets, labels and groups."""
    video = next((toy_videos / "train").glob("*.mp4"))
    rows = [("ut_interaction", f"act{act}", f"seq{number:02}") for number in range(1, 21) for act in range(2)]
    rows += [("surv_fight", ("fight", "noFight")[scene % 2], f"scene{scene}") for scene in range(20)]
    folder = tmp_path / "actions"
    folder.mkdir()
    with open(folder.with_suffix(".csv"), "w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["path", "set", "label", "group"])
        for number, row in enumerate(rows):
            shutil.copy(video, folder / f"{number}.mp4")
            table.writerow([f"actions/{number}.mp4", *row])
    return folder


@pytest.mark.slow
def test_the_rehearsal_packs_the_clips_and_every_part_writes_its_result(tmp_path, clips):
    prepared = gpu_day(tmp_path, "prepare", clips, tmp_path / "day")
    assert prepared.returncode == 0 and " MiB in " in prepared.stdout, prepared.stderr
    result = gpu_day(tmp_path, "rehearse", tmp_path / "day", 1200)
    results = tmp_path / "day" / "results"
    logs = "\n".join(path.read_text()[-2000:] for path in results.glob("*.log"))
    assert result.returncode == 0, result.stdout + result.stderr + logs
    assert result.stdout.count(": succeeded") == len(PARTS)
    assert re.search(r"\d passed", (results / "tests.txt").read_text())
    for name in PAGES:
        page = (results / name).read_text()
        assert page.startswith("# ") and "\n| --- |" in page and page.count("\n# ") == 0
    assert "VideoMAE" not in (results / "real_clips.md").read_text().split("## ")[1]
    assert "VideoMAE" in (results / "real_clips_videomae.md").read_text().split("## ")[1]
