"""What is opened of files that people give: nothing that could be waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from train.runtime.files import NotAFile, private_folder, read_file


def test_a_file_is_read_through_a_link_unless_links_are_refused(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    assert read_file(file, links=False) == read_file(link) == b"12345"
    with pytest.raises(NotAFile, match=r"is a link: '.*/link'"):
        read_file(link, links=False)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(NotAFile, match="is not a regular file"):
        read_file(path)


def test_what_is_too_large_and_a_name_of_no_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, most=5) == b"12345"
    with pytest.raises(NotAFile, match="its 5 bytes are more than the 4"):
        read_file(file, most=4)
    with pytest.raises(NotAFile, match="null byte"):
        read_file("a\0b")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing")


@pytest.mark.parametrize("mode", [0o770, 0o757])
def test_a_private_folder_is_none_where_others_can_write(
    mode: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    above = tmp_path / "of"
    above.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(above / "mine"))
    above.chmod(mode)
    with pytest.raises(OSError, match=f"other users can write there: '{above}'"):
        private_folder()
    above.chmod(0o755)
    folder = private_folder()
    assert folder.parent == above / "mine" and folder.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(above, 1234, -1)
        with pytest.raises(OSError, match=f"other users can write there: '{above}'"):
            private_folder()
