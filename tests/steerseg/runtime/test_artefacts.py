"""Files that are there as a whole or not at all: on a full disk, under a size limit, killed while writing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from steerseg.errors import ArtefactError
from steerseg.runtime.artefacts import (
    building_folder,
    move_into_place,
    remove_partials,
    write_bytes,
    write_json,
    write_tensors,
    write_together,
)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "card.json", {"b": 1, "a": "ü"})
    assert (tmp_path / "a" / "card.json").read_text() == '{\n  "a": "ü",\n  "b": 1\n}\n'
    write_tensors(tmp_path / "w.safetensors", {"x": torch.arange(4.0)[::2].requires_grad_()}, {"step": "3"})
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.get_tensor("x").tolist() == [0.0, 2.0]
        assert file.metadata() == {"step": "3"}
    assert names(tmp_path) == ["a", "card.json", "w.safetensors"]


def test_other_people_may_read_it_as_any_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_bytes(tmp_path / "made", b"x")
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_is_a_clear_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_together({first: b"old", second: b"old"})
    calls = 0

    def full(handle: int, *_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the second file does not fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match=r"the disk is full; free some space") as caught:
        write_together({first: b"new", second: b"new"})
    assert str(tmp_path) in str(caught.value)
    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"old")
    assert names(tmp_path) == ["first", "second"]


def test_a_real_limit_of_the_system_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    done = run(
        """
        import resource, signal, sys
        from pathlib import Path
        from steerseg.runtime.artefacts import write_bytes
        from steerseg.errors import ArtefactError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_bytes(Path(sys.argv[1]), b"x" * 10_000)
        except ArtefactError as error:
            print(error)
        """,
        str(path),
    )
    assert "ulimit -f" in done.stdout, done.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_kill_leaves_one_content_or_the_other(tmp_path: Path) -> None:
    """Killed at each durable step of a write in turn."""
    path = tmp_path / "file"
    script = """
        import os, signal, sys
        from pathlib import Path
        from steerseg.runtime import artefacts
        left = int(sys.argv[2])
        def counted(call):
            def wrapped(*arguments):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)
            return wrapped
        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        artefacts.write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 1000)
    """
    write_bytes(path, b"old")
    for step in range(4):
        done = run(script, str(path), str(step))
        assert (done.returncode == 0) == (step == 3)
        assert path.read_bytes() in (b"old", b"2" * 1000, b"3" * 1000)
    assert path.read_bytes() == b"3" * 1000
    assert len(names(tmp_path)) > 1
    remove_partials(tmp_path)
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "versions" / "v1"
    with building_folder(folder) as building:
        write_bytes(building / "a", b"first")
        assert not folder.exists()
    assert (folder / "a").read_bytes() == b"first"
    with building_folder(folder) as building:  # the name stands for the content
        write_bytes(building / "a", b"second")
    assert (folder / "a").read_bytes() == b"first"
    with pytest.raises(KeyError), building_folder(tmp_path / "versions" / "v2") as building:
        raise KeyError
    assert names(tmp_path) == ["a", "v1", "versions"]


def test_a_finished_file_moves(tmp_path: Path) -> None:
    (tmp_path / "download").write_bytes(b"x")
    move_into_place(tmp_path / "download", tmp_path / "object")
    assert names(tmp_path) == ["object"]
    with pytest.raises(ArtefactError, match="No such file"):
        move_into_place(tmp_path / "download", tmp_path / "object")
