"""Every kind of source lists its videos without opening them.

pytest tests/data/test_sources.py
"""

import errno
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from video_files import write_tar
from vjepa_hf.data.sources import load_images, load_videos
from vjepa_hf.data.videos import probe_video


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Tables are cached by `datasets`; a test leaves nothing behind."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def videos_of(source, **options) -> list:
    return [row["video"] for row in load_videos(source, **options)]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_lists_its_videos_in_order_and_nothing_else(tmp_path):
    folder = tmp_path / "set"
    touch(folder / "b.mp4", folder / "a b.MKV", folder / "deep" / "c.webm", folder / "notes.txt", folder / "._b.mp4")
    videos = load_videos(folder)
    assert videos["video"][:] == [str(folder / name) for name in ("a b.MKV", "b.mp4", "deep/c.webm")]
    assert videos.column_names == ["video"]


def test_class_folders_give_labels(tmp_path):
    touch(tmp_path / "set" / "run" / "1.mp4", tmp_path / "set" / "jump" / "2.mp4")
    assert load_videos(tmp_path / "set")["label"][:] == ["jump", "run"]


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(ValueError, match=r"caf\\udce9.mp4' is not UTF-8.*rename"):
        load_videos(tmp_path)


def test_a_folder_that_cannot_be_listed_is_skipped_with_a_warning(tmp_path, monkeypatch, caplog):
    touch(tmp_path / "set" / "a.mp4", tmp_path / "set" / "lost+found" / "b.mp4")
    scandir = os.scandir

    def list_folder(path):
        if path == str(tmp_path / "set" / "lost+found"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_folder)
    assert videos_of(tmp_path / "set") == [str(tmp_path / "set" / "a.mp4")]
    assert "lost+found, which cannot be listed: Permission denied" in caplog.text


def test_linked_class_folders_are_searched_too(tmp_path):
    touch(tmp_path / "elsewhere" / "1.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "run").symlink_to(tmp_path / "elsewhere")
    assert videos_of(tmp_path / "set") == [str(tmp_path / "set" / "run" / "1.mp4")]


def test_circular_links_repeat_no_video(tmp_path):
    touch(tmp_path / "set" / "run" / "1.mp4")
    (tmp_path / "set" / "run" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "same").symlink_to(tmp_path / "set" / "run")
    assert videos_of(tmp_path / "set") == [str(tmp_path / "set" / "run" / "1.mp4")]


def test_without_videos_each_folder_of_images_is_one(tmp_path):
    folder = tmp_path / "set"
    touch(*(folder / action / take / f"{n:03}.jpg" for action in ("run", "jump") for take in "ab" for n in range(2)))
    videos = load_videos(folder)
    assert videos["video"][:] == [str(folder / name) for name in ("jump/a", "jump/b", "run/a", "run/b")]
    assert videos["label"][:] == ["jump", "jump", "run", "run"]
    touch(folder / "a.mp4")
    assert videos_of(folder) == [str(folder / "a.mp4")]


def test_a_folder_of_frames_may_be_the_source_itself(tmp_path):
    touch(tmp_path / "set" / "1.png", tmp_path / "set" / "2.png")
    assert load_videos(tmp_path / "set")[:] == {"video": [str(tmp_path / "set")]}


def test_what_file_managers_leave_behind_is_ignored(tmp_path):
    folder = tmp_path / "set"
    touch(folder / "a.mp4")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    (folder / "desktop.ini").write_text("[.ShellClassInfo]")
    (folder / "Icon\r").write_bytes(b"")
    (folder / "icon.ico").write_bytes(b"\0\0\1\0\1\0")
    (folder / "state.json").write_text("{}")
    (folder / "dataset_infos.json").write_text("{}")
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"):
        touch(folder / name / "b.mp4", folder / name / "c.jpg")
    assert videos_of(folder) == [str(folder / "a.mp4")]


def test_a_saved_dataset_with_splits_is_an_error_that_says_what_to_give(tmp_path):
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"video": ["a.mp4"]})})
    splits.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="saved is a dataset with splits; give the folder of one of them"):
        load_videos(tmp_path / "saved")
    for source in (splits, datasets.IterableDatasetDict({"train": splits["train"].to_iterable_dataset()})):
        with pytest.raises(ValueError, match=r"the splits train; pass one of them: dataset\['train'\]"):
            load_videos(source)


def test_a_saved_dataset_loads(tmp_path):
    datasets.Dataset.from_dict({"path": ["a.mp4"], "label": [3]}).save_to_disk(tmp_path / "saved")
    assert load_videos(tmp_path / "saved")[:] == {"video": [str(tmp_path / "saved" / "a.mp4")], "label": [3]}


# --- lists -----------------------------------------------------------------------------------------------------------

NAMED = {
    "list.csv": "video,action\nclips/a b.mp4,run\n/abs/c.mp4,jump\nhttps://host/d.mp4,run\n",
    "list.tsv": "path\taction\nclips/a b.mp4\trun\n/abs/c.mp4\tjump\nhttps://host/d.mp4\trun\n",
    "list.jsonl": '{"file_name": "clips/a b.mp4", "action": "run"}\n{"file_name": "/abs/c.mp4", "action": "jump"}\n'
    '{"file_name": "https://host/d.mp4", "action": "run"}\n',
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("streaming", [False, True])
def test_lists_with_named_columns_agree(tmp_path, name, streaming):
    (tmp_path / name).write_text(NAMED[name])
    rows = list(load_videos(tmp_path / name, streaming=streaming))
    assert {(row["video"], row["action"]) for row in rows} == {
        (str(tmp_path / "clips/a b.mp4"), "run"),
        ("/abs/c.mp4", "jump"),
        ("https://host/d.mp4", "run"),
    }
    assert streaming or [row["action"] for row in rows] == ["run", "jump", "run"]


def test_a_list_of_only_paths_has_as_many_videos(tmp_path):
    (tmp_path / "list.csv").write_text("video\na.mp4\nb.mp4\n")
    (tmp_path / "list.txt").write_text("a.mp4\n\nb.mp4\n")
    expected = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert videos_of(tmp_path / "list.csv") == videos_of(tmp_path / "list.txt") == expected


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
@pytest.mark.parametrize("streaming", [False, True])
def test_lines_of_path_and_label_keep_spaces_in_paths(tmp_path, name, streaming):
    (tmp_path / name).write_text('/data/a video.mp4 3\nb.mp4 0\n"quoted one.mp4" 12\n')
    rows = {(row["video"], row["label"]) for row in load_videos(tmp_path / name, streaming=streaming)}
    assert rows == {
        ("/data/a video.mp4", 3),
        (str(tmp_path / "b.mp4"), 0),
        (str(tmp_path / "quoted one.mp4"), 12),
    }


def test_another_column_can_be_named(tmp_path):
    (tmp_path / "list.csv").write_text("video,small\na.mp4,b.mp4\n")
    assert videos_of(tmp_path / "list.csv", video_column="small") == [str(tmp_path / "b.mp4")]


def test_a_changed_list_is_read_again(tmp_path):
    (tmp_path / "list.csv").write_text("video\na.mp4\n")
    assert len(load_videos(tmp_path / "list.csv")) == 1
    (tmp_path / "list.csv").write_text("video\na.mp4\nb.mp4\n")
    assert len(load_videos(tmp_path / "list.csv")) == 2


@pytest.mark.parametrize(
    "name, divider", [("list.csv", ","), ("list.tsv", "\t"), ("list.csv", " "), ("list.txt", " ")]
)
def test_lists_without_a_header_lose_no_row(tmp_path, name, divider):
    rows = [("/d/a b.mp4", 3), ("/d/b,c.mp4", -1), ("/d/c.mp4", 0)]
    for text in ("\ufeff" * bom + "\n".join(f"{path}{divider}{label}" for path, label in rows) for bom in range(2)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert [(row["video"], row["label"]) for row in load_videos(tmp_path / name)] == rows
    (tmp_path / name).write_text("\ufeff/d/a.mp4\n/d/b.jpg\n", encoding="utf-8")
    assert load_videos(tmp_path / name)[:] == {"video": ["/d/a.mp4", "/d/b.jpg"]}


@pytest.mark.parametrize("name, divider", [("list.csv", ","), ("list.tsv", "\t")])
def test_a_header_may_end_in_a_number(tmp_path, name, divider):
    (tmp_path / name).write_text(f"video{divider}fold 2\n/d/a.mp4{divider}run\n")
    assert load_videos(tmp_path / name)[:] == {"video": ["/d/a.mp4"], "fold 2": ["run"]}


def test_a_list_whose_first_label_is_minus_one_has_labels(tmp_path):
    (tmp_path / "list.csv").write_text("/d/a.mp4 -1\n/d/b.mp4 2\n")
    assert load_videos(tmp_path / "list.csv")[:] == {"video": ["/d/a.mp4", "/d/b.mp4"], "label": [-1, 2]}


@pytest.mark.parametrize("line", ["/d/a.mp4,run", "/d/a.mp4,1,2"])
def test_other_columns_without_a_header_are_an_error(tmp_path, line):
    (tmp_path / "list.csv").write_text(f"{line}\n{line}\n")
    with pytest.raises(ValueError, match="list.csv has neither a header .* column names"):
        load_videos(tmp_path / "list.csv")


def test_lists_with_and_without_a_header_do_not_mix(tmp_path):
    (tmp_path / "a.csv").write_text("video,label\na.mp4,1\n")
    (tmp_path / "b.csv").write_text("b.mp4,1\n")
    with pytest.raises(ValueError, match="a.csv begins with a header and .*b.csv does not"):
        load_videos(tmp_path / "*.csv")


def test_a_text_column_with_the_name_of_a_video_is_not_a_video_column():
    rows = datasets.Dataset.from_dict({"/d/a.mp4": ["/d/b.mp4"]})
    with pytest.raises(ValueError, match="has no column video"):
        load_videos(rows)


@pytest.mark.parametrize("column", ["video", "path", "clip"])
def test_names_of_a_csv_are_text_and_an_empty_cell_is_none(tmp_path, column):
    (tmp_path / "list.csv").write_text(f"{column},label\n00012,1\nNA,\nnan,2\n,3\n")
    videos = load_videos(tmp_path / "list.csv", video_column="clip" if column == "clip" else None)
    assert videos["video"][:] == [str(tmp_path / name) for name in ("00012", "NA", "nan")] + [None]
    assert videos["label"][:] == [1, None, 2, 3]


def test_an_empty_path_of_another_table_is_none(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"video": "a.mp4"}\n{"video": null}\n')
    assert videos_of(tmp_path / "list.jsonl") == [str(tmp_path / "a.mp4"), None]


@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list.jsonl", "a.tar"])
def test_names_of_folders_are_not_patterns(tmp_path, name):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    if name == "a.tar":
        write_tar(folder / name, {"a.mp4": b"x"})
    else:
        (folder / name).write_text(NAMED.get(name, "a.mp4\n"))
    assert len(videos_of(folder / name)) >= 1


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "plain.csv", "list.jsonl", "list.txt", "list.parquet"])
def test_a_list_is_known_by_its_content_and_not_by_its_time(tmp_path, name):
    def write(path):
        if name.endswith(".parquet"):
            datasets.Dataset.from_dict({"video": [path]}).to_parquet(tmp_path / name)
        else:
            lines = {"list.txt": path, "plain.csv": path, "list.jsonl": f'{{"video": "{path}"}}'}
            (tmp_path / name).write_text(lines.get(name, f"video\n{path}") + "\n")
        os.utime(tmp_path / name, (0, 0))

    for path in ("/d/a.mp4", "/d/b.mp4", "/d/a.mp4"):
        write(path)
        assert videos_of(tmp_path / name) == [path]


@pytest.mark.parametrize("name, divider", [("list.csv", ","), ("list.tsv", "\t")])
@pytest.mark.parametrize("position", [1, 2, 10_001, 10_002])
def test_a_row_with_more_cells_than_the_header_is_an_error_that_names_the_line(tmp_path, name, divider, position):
    rows = [divider.join(("a.mp4", "1"))] * 10_003
    rows[position - 1] = divider.join(("a.mp4", "1", "2", "3"))
    (tmp_path / name).write_text("\n".join([divider.join(("video", "x")), *rows]) + "\n")
    with pytest.raises(ValueError, match=f"{name}.* line {position + 1}\\b"):
        load_videos(tmp_path / name)


@pytest.mark.parametrize("type_", [list, tuple, lambda paths: datasets.Dataset.from_dict({"video": paths})["video"]])
def test_a_list_of_videos_is_a_source(type_, tmp_path):
    assert load_videos(type_(["a.mp4", "b.mp4"]))[:] == {"video": ["a.mp4", "b.mp4"]}
    assert len(list(load_videos(type_(["a.mp4", "b.mp4"]), streaming=True))) == 2


def test_a_list_of_videos_may_have_bytes_or_rows_and_nothing_else():
    assert load_videos([Path("a.mp4")])["video"][:] == ["a.mp4"]
    assert load_videos([b"1", b"2"])["video"][:] == [b"1", b"2"]
    assert load_videos([{"bytes": b"1", "path": "a.mp4"}])[0]["video"] == {"bytes": b"1", "path": "a.mp4"}
    mixed = load_videos(["a.mp4", b"1", {"path": "b.mp4"}])["video"][:]
    paths = [{"bytes": None, "path": name} for name in ("a.mp4", "b.mp4")]
    assert mixed == [paths[0], {"bytes": b"1", "path": None}, paths[1]]
    assert load_videos(np.array(["a.mp4"]))[0] == {"video": "a.mp4"}
    for wrong, message in (
        ([], "the list of videos is empty"),
        (
            datasets.Dataset.from_dict({"video": ["a.mp4"]}).to_pandas(),
            r"DataFrame is not a list of videos; .*Dataset.from_pandas",
        ),
        ({"video": ["a.mp4"]}, r"dict is not a list of videos; .*Dataset.from_dict"),
        ([1, 2], "the list of videos contains int; give paths, bytes or rows"),
        (["a.mp4", 1], "the list of videos contains int, str; give paths"),
        (["a.csv", "b.csv"], "a.csv in a list of videos is a list itself; load each and use mix_videos"),
    ):
        with pytest.raises(ValueError, match=message):
            load_videos(wrong)


# --- files of any name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b.mxf", "c.h264", "d.asf", "e.qt", "f.unknown", "0f3a9c"])
def test_a_video_is_a_video_whatever_its_name(tmp_path, toy_video_path, name):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / name).write_bytes(toy_video_path.read_bytes())
    (folder / "notes").write_text("a.mp4\n")
    (folder / "song.m4a").write_bytes(toy_video_path.read_bytes())
    for source in (folder / name, folder, folder / f"{name[:3]}*", [str(folder / name)]):
        assert videos_of(source) == [str(folder / name)]
    assert probe_video(videos_of(folder)[0]).num_frames > 1
    assert videos_of(folder / "notes") == [str(folder / "a.mp4")]


def test_names_in_errors_are_printable(tmp_path):
    for name in ("gone\x1b[31m\n.csv", "a\n*.tar"):
        with pytest.raises(ValueError, match="does not exist") as error:
            load_videos(tmp_path / name)
        assert str(error.value).isprintable()
    (tmp_path / "bad\n\x1b.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"bad\\n\\x1b.jsonl cannot be read") as error:
        load_videos(tmp_path / "bad\n\x1b.jsonl")
    assert str(error.value).isprintable()


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        clips = [f"{number}{clip}" for clip in "abcd"]
        samples = {f"{clip}.{kind}": f"{clip}-{kind}".encode() for clip in clips for kind in ("mp4", "txt")}
        write_tar(tmp_path / f"shard-{number}.tar", samples)
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
def test_tar_shards_give_bytes_with_their_names(shards, streaming):
    videos = load_videos(shards / "shard-*.tar", streaming=streaming)
    rows = list(videos)
    assert len(rows) == 12
    assert rows[0]["video"] == {"bytes": b"0a-mp4", "path": "0a.mp4"}
    assert isinstance(videos, datasets.IterableDataset) == streaming
    assert [row["video"] for row in load_videos(shards, streaming=streaming)] == [row["video"] for row in rows]


def test_classes_of_tar_shards_are_labels(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.mp4": b"x", "x.cls": b"7"})
    assert load_videos(tmp_path / "a.tar")[0]["label"] == 7
    assert next(iter(load_videos(tmp_path / "a.tar", streaming=True)))["label"] == 7


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_gives_bytes_or_paths(tmp_path, streaming):
    datasets.Dataset.from_dict({"video": [b"1", b"2"]}).to_parquet(tmp_path / "bytes.parquet")
    contents = videos_of(tmp_path / "bytes.parquet", streaming=streaming)
    assert contents == ([{"bytes": b"1", "path": None}, {"bytes": b"2", "path": None}] if streaming else [b"1", b"2"])
    datasets.Dataset.from_dict({"path": ["a.mp4"]}).to_parquet(tmp_path / "paths.parquet")
    assert videos_of(tmp_path / "paths.parquet", streaming=streaming) == [str(tmp_path / "a.mp4")]


def test_a_dataset_of_media_is_never_decoded_by_datasets():
    rows = datasets.Dataset.from_dict({"clip": [{"bytes": b"1", "path": "a.mp4"}], "label": [0]})
    videos = load_videos(rows.cast_column("clip", datasets.Video()))
    assert videos[0] == {"video": {"bytes": b"1", "path": "a.mp4"}, "label": 0}


@pytest.mark.parametrize("format_", ["numpy", "torch", "pandas", "arrow"])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_format_of_a_dataset_does_not_matter(format_, streaming):
    videos = datasets.Dataset.from_dict({"video": ["a.mp4", "b.mp4"], "label": [1, 0]})
    videos = videos.to_iterable_dataset() if streaming else videos
    loaded = list(load_videos(videos.with_format(format_)))
    assert loaded == [{"video": "a.mp4", "label": 1}, {"video": "b.mp4", "label": 0}]


def test_a_column_of_integers_and_text_keeps_both(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"video": "a.mp4", "label": 1}\n{"video": "b.mp4", "label": "run"}\n')
    assert load_videos(tmp_path / "list.jsonl")["label"][:] == [1, "run"]


def test_a_path_that_begins_with_a_tilde_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    touch(tmp_path / "videos" / "a.mp4", tmp_path / "images" / "1.png", tmp_path / "images" / "2.png")
    assert len(load_images("~/images")) == 2
    (tmp_path / "videos" / "list.csv").write_text("video\n~/videos/a.mp4\n")
    for source in ("~/videos", "~/videos/a.mp4", "~/videos/list.csv", "~/*/a.mp4"):
        assert videos_of(source) == [str(tmp_path / "videos" / "a.mp4")]


def test_a_stream_without_features_is_an_error_with_advice():
    videos = datasets.Dataset.from_dict({"video": ["a.mp4"]})
    stream = videos.to_iterable_dataset().map(lambda row: row)
    with pytest.raises(ValueError, match="give it features"):
        load_videos(stream)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_sources_without_videos_are_errors_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_videos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="does not exist"):
        load_videos(tmp_path / "*.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no video"):
        load_videos(tmp_path / "empty")
    (tmp_path / "list.csv").write_text("clip,label\na.mp4,1\n")
    with pytest.raises(ValueError, match="has no column video or path or file_name; its columns are clip, label"):
        load_videos(tmp_path / "list.csv")
    touch(tmp_path / "a.mp4", tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="several kinds"):
        load_videos(tmp_path / "[ab].*")
    with pytest.raises(ValueError, match="an unknown kind"):
        load_videos(tmp_path / "b.jpg")


WITHOUT_ROWS = {
    "empty.csv": b"",
    "empty.tsv": b"",
    "header.csv": b"video,label\n",
    "header.tsv": b"video\tlabel\n",
    "empty.txt": b"",
    "blank.txt": b"\n\n",
    "unknown": b"",
    "empty.jsonl": b"",
    "empty.json": b"[]",
    "empty.parquet": b"",
    "empty.tar": b"",
    "members.tar": b"\0" * 10240,
}


@pytest.mark.parametrize("name", WITHOUT_ROWS)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_list_without_rows_is_an_error_that_names_it_and_says_so(tmp_path, name, streaming):
    (tmp_path / name).write_bytes(WITHOUT_ROWS[name])
    with pytest.raises(ValueError, match=f"{name} (cannot be read: it is empty|contains no video)"):
        load_videos(tmp_path / name, streaming=streaming)


def test_a_table_without_rows_is_an_error_that_names_it_and_says_so(tmp_path):
    table = datasets.Dataset.from_dict({"video": ["a.mp4"]}).select([])
    pq.write_table(table.data.table, tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="none.parquet (cannot be read: it is empty|contains no video)"):
        load_videos(tmp_path / "none.parquet")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="the dataset contains no video"):
            load_videos(table, streaming=streaming)


UNREADABLE = {
    "uneven.csv": "video,label\na.mp4,1\nb.mp4,1,2,3\n",
    "bad.jsonl": '{"video": "a.mp4"}\n{"video": \n',
    "deep.jsonl": '{"video": ' + "[" * 3000 + "]" * 3000 + "}\n",
    "bad.json": "{",
    "bad.tar": "no tar" * 1000,
    "bad.parquet": "no parquet" * 1000,
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_cannot_be_read_are_named(tmp_path, name, streaming):
    (tmp_path / name).write_text(UNREADABLE[name])
    with pytest.raises(ValueError, match=f"{name} cannot be read: ."):
        load_videos(tmp_path / name, streaming=streaming)


def test_a_list_missing_from_the_web_is_an_error(monkeypatch):
    def missing(*args, **options):
        raise FileNotFoundError("no such page")

    monkeypatch.setattr(datasets, "load_dataset_builder", missing)
    with pytest.raises(ValueError, match="https://host/list.csv cannot be read: no such page"):
        load_videos("https://host/list.csv")


@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]], [{"name": "a"}, {"name": "b"}]])
def test_columns_without_videos_are_errors(values):
    with pytest.raises(ValueError, match="no videos in the column clip"):
        load_videos(datasets.Dataset.from_dict({"clip": values}), video_column="clip")


def test_a_line_unlike_the_first_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4\n")
    with pytest.raises(ValueError, match="line 2"):
        load_videos(tmp_path / "list.txt")


def test_images_of_folders_are_videos_of_one_frame_labelled_by_their_folder(tmp_path):
    for name in ("train/cat/b.jpg", "train/cat/a.PNG", "train/dog/deep/c.jpeg", "train/dog/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images = load_images(tmp_path / "train")
    assert [path.rsplit("/", 1)[-1] for path in images["video"]] == ["a.PNG", "b.jpg", "c.jpeg"]
    assert images["label"] == ["cat", "cat", "deep"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty contains no image; suffixes searched: .bmp"):
        load_images(tmp_path / "empty")
    (tmp_path / "list.csv").write_text("video,label\nx.jpg,cat\n")
    assert load_images(tmp_path / "list.csv")["label"] == ["cat"]
