import gzip
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from conftest import refused

from data import files, pydocs, sources
from data.errors import DataError
from data.sources import open_source

TWO = "First line.\nSecond   line,\tfolded.\n\n\nThird line.\n"


def write(path: Path, content: str | bytes) -> str:
    content = content.encode() if isinstance(content, str) else content
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(content))
    return str(path)


def read(*names: str, **settings) -> list[tuple[bool, str]]:
    return list(open_source(names, **settings).paragraphs())


def fault(*names: str, **settings) -> str:
    with pytest.raises(DataError) as caught:
        read(*names, **settings)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# What is read


def test_files_of_no_known_kind_are_counted(tmp_path):
    for name in ("a.txt", "b.md", "c.md", "LICENSE", ".hidden"):
        write(tmp_path / name, "A sentence.\n")
    assert open_source([str(tmp_path)]).left_out == {".md": 2, "LICENSE": 1}
    assert not open_source([str(tmp_path / "*.txt"), str(tmp_path / "a.txt")]).left_out


def test_two_parquet_columns_of_one_name(tmp_path):
    table = pyarrow.table([pyarrow.array(["One."]), pyarrow.array(["Two."])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert "2 columns are called 'text'" in fault(str(tmp_path / "a.parquet"))


def test_the_position_in_parquet_is_that_of_its_rows(tmp_path):
    """The text is longer than the file, which is compressed."""
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"{row % 4} " * 1000 for row in range(256)]}), tmp_path / "a.parquet")
    file = files.LocalFile(tmp_path / "a.parquet", "text", "file")
    positions = [file.position for _ in file.parquet_rows()]
    assert positions[::64] == [0, file.size // 4, file.size // 2, file.size * 3 // 4]


def test_parquet_shards_without_rows_and_names_with_marks(tmp_path):
    for name, texts in (("a.parquet", []), ("part[1].parquet", ["One."]), ("x::y.parquet", ["Two.", None])):
        pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), tmp_path / name)
    assert read(str(tmp_path)) == [(True, "One."), (True, "Two.")]


def test_a_pattern_in_a_folder_whose_name_is_one(tmp_path, monkeypatch, pretrain):
    write(tmp_path / "[x]" / "a.txt", "A sentence.\n")
    monkeypatch.chdir(tmp_path / "[x]")
    refused(pretrain(["--model", "tiny", "--data", "*.txt", "--cpu", "--cache-dir", str(tmp_path / "cache")]),
            "fewer than one batch")                                            # it was found and read


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    "documents, starts", [("file", [1, 0, 0]), ("blank-line", [1, 0, 1]), ("line", [1, 1, 1])]
)
def test_text_documents(tmp_path, suffix, documents, starts):
    name = write(tmp_path / f"a.txt{suffix}", TWO)
    texts = ["First line.", "Second line, folded.", "Third line."]
    assert read(name, documents=documents) == list(zip(map(bool, starts), texts))


@pytest.mark.parametrize("documents", ["file", "blank-line", "line"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_byte_order_mark_and_other_line_ends(tmp_path, end, documents):
    plain = write(tmp_path / "a.txt", TWO)
    other = write(tmp_path / "b.txt", b"\xef\xbb\xbf" + TWO.replace("\n", end).encode())
    assert read(plain, documents=documents) == read(other, documents=documents)


@pytest.mark.parametrize(
    "suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".csv.gz", ".csv.zst", ".parquet"]
)
def test_rows_are_documents(tmp_path, suffix):
    rows = [{"id": 1, "body": "One, \"quoted\".\nTwo."}, {"id": 2, "body": " "}, {"id": 3, "body": "Drei é."}]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix.startswith(".csv"):
        write(path, 'id,body\n1,"One, ""quoted"".\nTwo."\n2, \n3,Drei é.\n')
    else:
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    expected = [(True, 'One, "quoted".'), (False, "Two."), (True, "Drei é.")]
    assert read(str(path), text_field="body") == expected


def test_null_rows_hold_no_text(tmp_path):
    rows = [{"text": None}, {"text": "Some."}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    name = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read(str(tmp_path / "a.parquet")) == read(name) == [(True, "Some.")]


def test_several_names_are_concatenated_in_their_order(tmp_path):
    b, a = write(tmp_path / "b.txt", "B"), write(tmp_path / "a.txt", "A")
    assert read(b, a, b) == [(True, "B"), (True, "A")]


def test_folder_and_glob_are_sorted_and_known_suffixes_alone(tmp_path):
    folder = tmp_path / "a [folder]"
    for name in ("z.txt", "deep/er/m.txt.gz", "b.jsonl", ".hidden/h.txt", "._z.txt", "README.md"):
        write(folder / name, '{"text": "b"}' if name == "b.jsonl" else name)
    assert [text for _, text in read(str(folder))] == ["b", "deep/er/m.txt.gz", "z.txt"]
    (tmp_path / "plain").symlink_to(folder)
    assert [text for _, text in read(str(tmp_path / "plain" / "*"))] == ["b", "deep/er/m.txt.gz", "z.txt"]
    assert [text for _, text in read(str(tmp_path / "plain" / "*.*"))] == ["b", "z.txt"]
    assert [text for _, text in read(str(tmp_path / "plain" / "**" / "*.gz"))] == ["deep/er/m.txt.gz"]


def test_text_that_cannot_be_reached_is_not_passed_over(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "A")
    link = tmp_path / "b.txt"
    link.symlink_to("annex/b.txt")
    for name in (tmp_path, tmp_path / "*", link):
        assert fault(str(name)) == f"{link}: a link to annex/b.txt, which is not there; mend or delete it"
    link.unlink()
    link.symlink_to(".")                                          # a circle, in which nothing is missing
    assert read(str(tmp_path)) == [(True, "A")]
    write(tmp_path / "deep" / "c.txt", "C")
    monkeypatch.setattr(sources.os, "access", lambda folder, mode: folder != tmp_path / "deep")
    assert fault(str(tmp_path)) == f"{tmp_path / 'deep'}: this folder may not be read"


@pytest.mark.parametrize("documents", ["file", "blank-line", "line"])
def test_blocks_do_not_show(tmp_path, monkeypatch, documents):
    text = "".join(f"Zeile ü {i} " * (i % 5) + "\n" for i in range(200))
    name = write(tmp_path / "a.txt", text)
    whole = read(name, documents=documents)
    monkeypatch.setattr(files, "BLOCK_BYTES", 90)
    assert read(name, documents=documents) == whole


@pytest.mark.parametrize("unit", ["ein wörd ", "ü"])
def test_a_line_without_end_is_cut(tmp_path, unit):
    text = unit * (700_000 // len(unit))
    for documents in ("file", "line"):
        found = read(write(tmp_path / "a.txt", text), documents=documents)
        assert [starts for starts, _ in found] == [True] + [False] * (len(found) - 1)
        assert max(len(paragraph) for _, paragraph in found) <= 100_000
        joint = " " if " " in unit else ""
        assert joint.join(paragraph for _, paragraph in found) == text.strip()


def test_memory_stays_flat(tmp_path):
    path = tmp_path / "long.txt"
    with open(path, "w") as file:
        for _ in range(100):
            file.write("many words without a line end " * 10_000)
    code = f"""
        import resource
        from data.sources import open_source
        source = open_source([{str(path)!r}])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in source.paragraphs(): pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    grown = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(grown.stdout) * unit < 10_000_000 < path.stat().st_size


def test_half_a_character_in_jsonl(tmp_path):
    message = fault(write(tmp_path / "a.jsonl", '{"text": "fine \\ud83d\\ude00"}\n{"text": "half \\ud83d"}\n'))
    assert "line 2" in message and "surrogate" in message


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst", ".jsonl"])
def test_bytes_read_reach_the_total(tmp_path, suffix):
    line = json.dumps({"text": "Some words in a line."}) + "\n"
    names = [write(tmp_path / f"{letter}{suffix}", line * 15_000) for letter in "ab"]
    source = open_source(names)
    assert source.total_bytes == sum(Path(name).stat().st_size for name in names)
    for _ in range(2):
        progress = [source.bytes_read for _ in source.paragraphs()]
        assert progress == sorted(progress) and 0 <= progress[0] < progress[-1]
        assert source.bytes_read == source.total_bytes


def test_small_stops_after_two_megabytes(tmp_path):
    names = [write(tmp_path / f"{letter}.txt", "Nine char\n" * 150_000) for letter in "abc"]
    source = open_source(names, small=True)
    read_bytes = 10 * sum(1 for _ in source.paragraphs())
    assert 2_000_000 <= read_bytes <= 2_000_000 + files.BLOCK_BYTES + 10
    assert sum(starts for starts, _ in source.paragraphs()) == 2


def test_fingerprint_changes_with_all_that_decides_the_text(tmp_path):
    name = write(tmp_path / "a.txt", TWO)
    rows = write(tmp_path / "a.jsonl", '{"text": "a"}')
    prints = [
        open_source([name]),
        open_source([rows]),
        open_source([name, rows]),
        open_source([rows, name]),
        open_source([name], documents="line"),
        open_source([rows], text_field="body"),
        open_source([name], small=True),
    ]
    write(tmp_path / "a.txt", TWO + "more")
    prints.append(open_source([name]))
    keys = [json.dumps(source.fingerprint(), sort_keys=True) for source in prints]
    assert len(set(keys)) == len(keys)
    assert open_source([name]).fingerprint() == prints[-1].fingerprint()
    assert str(tmp_path / "a.txt") in keys[0]


def test_pydocs(monkeypatch):
    monkeypatch.setattr(pydocs, "paragraphs", lambda: iter([(True, "One."), (False, "Two.")]))
    source = open_source(["pydocs"])
    assert list(source.paragraphs()) == [(True, "One."), (False, "Two.")]
    assert source.name == "pydocs" and source.total_bytes is None and source.bytes_read == 8
    assert source.fingerprint()["parts"] == [pydocs.fingerprint()]
    assert json.loads(json.dumps(source.fingerprint())) == source.fingerprint()


# The hub, by a stub: nothing here was checked against the hub itself


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def load_dataset(path, name=None, *, split):
        calls.append((path, name, split))
        return datasets.Dataset.from_dict(
            {"text": ["One.\nTwo.", None, "Three."], "body": ["1", "2", "3"], "number": [1, 2, 3]}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_wikipedia(hub):
    source = open_source(["wikipedia"], text_field="body")
    assert hub == [("wikimedia/wikipedia", "20231101.en", "train")]
    assert list(source.paragraphs()) == [(True, "One."), (False, "Two."), (True, "Three.")]
    assert source.total_bytes is None and source.bytes_read == len("One.\nTwo.Three.")
    part = source.fingerprint()["parts"][0]
    assert part.pop("dataset")
    assert part == {"hub": "wikimedia/wikipedia", "configuration": "20231101.en", "split": "train",
                    "text_field": "text"}
    open_source(["wikipedia"], small=True)
    assert hub[1:] == [("wikimedia/wikipedia", "20231101.en", split) for split in ("train[:1%]", "train[:10%]", "train")]


def test_hub_datasets_by_name(hub, monkeypatch):
    assert read("hf:someone/plain-text") == [(True, "One."), (False, "Two."), (True, "Three.")]
    monkeypatch.setattr(sources, "SMALL_BYTES", 3)
    assert [text for _, text in read("hf:someone/books:de", text_field="body", small=True)] == ["1", "2", "3"]
    assert hub == [("someone/plain-text", None, "train"), ("someone/books", "de", "train[:1%]")]


def test_hub_names_nothing():
    assert "hf:NAME" in fault("hf:") and "hf:NAME" in fault("hf::x")


def test_hub_dataset_without_the_column(hub):
    message = fault("hf:someone/books", text_field="txt")
    assert "hf:someone/books" in message and "text, body, number" in message and "--text-field" in message
    assert "int" in fault("hf:someone/books", text_field="number")


@pytest.mark.parametrize("error", [ConnectionError("Couldn't reach 'a/b'\nat all"), ValueError("no such")])
def test_hub_that_fails(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = fault("hf:a/b:c")
    assert "hf:a/b:c" in message and str(error).splitlines()[0] in message and "--data FOLDER" in message


def test_a_folder_in_the_layout_of_a_hub_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for part in range(2):
        rows = [{"id": str(row), "text": f"Part {part}, row {row}.\nMore."} for row in range(100)]
        path = tmp_path / "set" / "20231101.en" / f"train-{part:05}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: 20231101.en\n  data_files:\n"
        "  - split: train\n    path: 20231101.en/train-*\n---\n"
    )
    monkeypatch.setattr(sources, "WIKIPEDIA", (str(tmp_path / "set"), "20231101.en"))
    found = read("wikipedia")
    assert len(found) == 400 and found[:2] == [(True, "Part 0, row 0."), (False, "More.")]
    monkeypatch.setattr(sources, "SMALL_BYTES", 20)
    assert read("wikipedia", small=True) == found[:4]
    assert open_source(["wikipedia"]).fingerprint() == open_source(["wikipedia"]).fingerprint()


# Bad input


@pytest.mark.parametrize("name", ["books/novel.txt", "bokos", "bokos/novel.txt", "books/nvel.*"])
def test_missing_names_the_nearest(tmp_path, name):
    write(tmp_path / "books" / "novel.txt", "text")
    write(tmp_path / "other" / "a.txt", "text")
    (tmp_path / "books" / "novel.txt").rename(tmp_path / "books" / "novels.txt")
    message = fault(str(tmp_path / name))
    near = "books/novels.txt" if name.startswith("books/") else "books"
    assert str(tmp_path / name) in message and f"nearest: {tmp_path / near})" in message


def test_missing_without_anything_near():
    assert "hf:NAME" in fault("/nowhere/at/all") and "nearest" not in fault("/nowhere/at/all")


def test_folder_without_a_known_suffix(tmp_path):
    write(tmp_path / "a.md", "text")
    assert ".jsonl" in fault(str(tmp_path)) and str(tmp_path) in fault(str(tmp_path))


@pytest.mark.parametrize("name", ["a.docx", "a.parquet.gz", "a"])
def test_unknown_suffix(tmp_path, name):
    message = fault(write(tmp_path / name, "text"))
    assert "suffix" in message and ".jsonl" in message and name in message


def test_empty(tmp_path):
    name = write(tmp_path / "a.txt", "")
    assert "empty" in fault(name) and "empty" in fault(str(tmp_path))
    assert "no text" in fault(write(tmp_path / "b.txt", " \n\n\t\n"))
    assert "no text" in fault(write(tmp_path / "b.jsonl", '{"text": ""}\n'))


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl", ".csv"])
def test_binary_and_broken_utf8(tmp_path, suffix):
    good = "text\n" if suffix == ".csv" else '{"text": "gut ü"}\n'
    offset = len((good * 20_000 + "ab").encode())
    for bad, word in ((b"\0", "binary"), (b"\xff", "0xff"), (b"\xe4h", "not UTF-8")):
        name = write(tmp_path / f"a{suffix}", (good * 20_000).encode() + b"ab" + bad + b"c\n")
        message = fault(name)
        assert word in message and f"{name}: line 20001, byte {offset}:" in message


@pytest.mark.parametrize("line, words", [
    ('{"body": "a", "id": 2}', "no field 'text', there are: body, id"),
    ('{"text": "a"', "not JSON"),
    ('["text"]', "expected an object"),
    ('{"text": 3}', "not a string"),
])
def test_faulty_json_line(tmp_path, line, words):
    name = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n\n{line}\n')
    assert f"{name}: line 3: " in fault(name) and words in fault(name)


def test_table_without_the_column(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["a"]}), tmp_path / "a.parquet")
    for name in (str(tmp_path / "a.parquet"), write(tmp_path / "a.csv", "id,body\n1,a\n")):
        message = fault(name)
        assert name in message and "id, body" in message and "--text-field" in message
    assert "int" in fault(str(tmp_path / "a.parquet"), text_field="id")
    assert "parted by commas" in fault(write(tmp_path / "b.csv", "id;text\n1;a\n"))


def test_blanks_beside_the_commas_of_a_header_do_not_count(tmp_path):
    assert read(write(tmp_path / "a.csv", "id, text \n1, One.\n")) == [(True, "One.")]


def test_faulty_tables(tmp_path):
    name = write(tmp_path / "a.csv", "id,text\n1,a\n2,b,c\n")
    assert f"{name}: line 3: 3 columns" in fault(name)
    assert "not CSV" in fault(write(tmp_path / "b.csv", 'text\n"a\n'))
    assert r"line 1: not CSV, whose" in fault(write(tmp_path / "c.csv", "text\rone\r"))
    name = write(tmp_path / "a.parquet", "no parquet")
    assert name in fault(name) and "not a readable Parquet file" in fault(name)


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.zst", ".jsonl.gz", ".csv.zst"])
@pytest.mark.parametrize("damage", ["cut", "changed", "foreign"])
def test_damaged_compressed_file(tmp_path, suffix, damage):
    row = '{"text": "row %d"}\n' if "json" in suffix else "row %d\n"
    header = "text\n" if "csv" in suffix else ""
    name = write(tmp_path / f"a{suffix}", header + "".join(row % i**3 for i in range(5_000)))
    assert len(read(name)) == 5_000
    packed = Path(name).read_bytes()
    middle = len(packed) // 2
    Path(name).write_bytes({
        "cut": packed[:middle],
        "changed": packed[:middle] + b"damage" + packed[middle + 6 :],
        "foreign": b"not packed at all\n",
    }[damage])
    # a changed .gz may decompress to other text before its checksum comes
    assert f"{name}: {'' if damage == 'changed' else 'damaged or not what its suffix says'}" in fault(name)


@pytest.mark.parametrize("documents", ["paragraph", ""])
def test_unknown_documents(tmp_path, documents):
    message = fault(write(tmp_path / "a.txt", "text"), documents=documents)
    assert "--documents" in message and "blank-line" in message


def test_files_named_twice_are_read_once_and_suffixes_may_be_in_capitals(tmp_path):
    write(tmp_path / "a.txt", "One.\n")
    write(tmp_path / "B.TXT", "Two.\n")
    (tmp_path / "C.TXT.GZ").write_bytes(gzip.compress(b"Three.\n"))
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "c.txt").symlink_to(tmp_path / "a.txt")
    assert read(str(tmp_path), str(tmp_path / "a.txt"), str(tmp_path / "*.txt")) == [
        (True, "Two."), (True, "Three."), (True, "One.")]
