# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and directories, reached without following a link that others may have made (private to this collection).

A path is opened one directory at a time. Root follows a link only in a directory that belongs to root and that nobody
else can write to. Without root every link is followed, as it leads to nothing that its maker could not reach anyway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

# With O_PATH a directory need not be readable, only to be entered.
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40
"""As many as Linux itself follows in one path."""
LARGEST_TEXT = 64 * 2**20
"""Bytes of a file that is read as a whole."""
_LAST_BYTES = 16384
_TEMPORARY = ".{0}.flotilla-{1}"
"""The name under which a file is written, by which process."""
_MOST_ROUNDS = 100
"""How often a directory is emptied before whoever goes on writing to it is blamed."""
_IRREGULAR = "{0} is refused: it is not a regular file. Remove it, or move it away."


@contextlib.contextmanager
def opened(path: str) -> t.Iterator[int]:
    """Opens a directory to look for names in, and yields its descriptor.

    :param path: An absolute path.
    :raises FileNotFoundError: it is not there.
    :raises DaskError: the path leads over a link that others may have made, or over something else than a directory.
    """
    descriptor = _walk(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_parent(path: str) -> t.Iterator[tuple[int, str]]:
    """Opens the directory that ``path`` is in, and yields its descriptor and the last name of the path."""
    path = os.path.abspath(path)
    with opened(os.path.dirname(path)) as parent:
        yield parent, os.path.basename(path)


def read_text(path: str) -> str | None:
    """Returns the text of a file, or None where there is none.

    :raises DaskError: it is not a regular file, too large or not text, or is reached over a link that others may have
        made.
    """
    found = read_owned_text(path)
    return found[0] if found else None


def read_owned_text(path: str) -> tuple[str, os.stat_result] | None:
    """Returns the text of a file, and the file's status; None where there is none.

    :raises DaskError: as ``read_text``.
    """
    found = _open_to_read(path)
    if found is None:
        return None
    descriptor, status_of_file = found
    with open(descriptor, "rb") as file:
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise DaskError("{0} is refused: it is larger than {1} MiB. Remove it.".format(path, LARGEST_TEXT // 2**20))
    try:
        return text.decode(), status_of_file
    except UnicodeDecodeError as error:
        raise DaskError("{0} is refused: it is not text in UTF-8 ({1}). Remove it.".format(path, error)) from error


def last_lines(path: str, number: int) -> str:
    """Returns the last lines of a file, as far as they are in its last 16 KiB; nothing where there is no file.

    :raises DaskError: as ``read_text``.
    """
    found = _open_to_read(path)
    if found is None:
        return ""
    with open(found[0], "rb") as file:
        file.seek(max(0, found[1].st_size - _LAST_BYTES))
        return b"\n".join(file.read(_LAST_BYTES).splitlines()[-number:]).decode(errors="replace")


def _open_to_read(path: str) -> tuple[int, os.stat_result] | None:
    """Returns the descriptor and the status of a regular file, None where there is none."""
    for _link in range(_MOST_LINKS):
        try:
            with opened_parent(path) as (parent, name):
                descriptor = _open_file(parent, name)
                if descriptor is None:
                    path = os.path.join(os.path.dirname(path), _link_target(parent, name, path))
                    continue
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ENXIO:  # a socket
                raise
            raise DaskError(_IRREGULAR.format(path)) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise DaskError(_IRREGULAR.format(path))
        return descriptor, found
    raise DaskError("{0} is refused: it is a link that leads to itself. Remove it.".format(path))


def write_text(path: str, text: str, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Writes a file under a temporary name, then renames it: readers see the old or the new one, never half.

    :param owner: Numbers of user and group; None for this process's. Nobody else can read the file before it has them.
    :raises DaskError: its directory is reached over a link that others may have made.
    """
    with opened_parent(path) as (parent, name):
        temporary = _TEMPORARY.format(name, os.getpid())
        for left in stale_parts(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.basename(left), dir_fd=parent)
        descriptor = os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if owner is not None:
                    os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(temporary, dir_fd=parent)
            raise


def stale_parts(path: str) -> list[str]:
    """Returns the temporary files that writers of a file have left who were killed."""
    directory, start = os.path.dirname(path), _TEMPORARY.format(os.path.basename(path), "")
    found = [name for name in names_in(directory) if name.startswith(start)]
    writers = {name: name[len(start) :] for name in found}
    dead = [name for name, pid in writers.items() if pid == str(os.getpid()) or not os.path.exists("/proc/" + pid)]
    return [os.path.join(directory, name) for name in dead]


def status(path: str) -> os.stat_result | None:
    """Returns what there is at ``path``, of a link the link itself, or None where there is nothing."""
    try:
        with opened_parent(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def directory_status(path: str) -> os.stat_result | None:
    """Returns owner and mode of a directory, or None where there is nothing.

    :raises DaskError: it is not a directory, or is reached over a link that others may have made.
    """
    try:
        with opened(path) as directory:
            return os.fstat(directory)
    except FileNotFoundError:
        return None


def make_directory(
    path: str, mode: int = 0o755, owner: tuple[int, int] | None = None, take: t.Container[int] | None = None
) -> list[str]:
    """Makes a directory and those above it that are missing, or gives the one that is there its mode and owner.

    :param owner: Numbers of user and group; None leaves them. Directories above are this process's.
    :param take: Numbers of the users whose directory may be taken where there is one; None for all.
    :returns: The directories that it made, the outermost first.
    :raises DaskError: as ``opened``; or the directory that is there is somebody else's.
    """
    made = []
    above = os.path.dirname(path)
    if above != path and directory_status(above) is None:
        made = make_directory(above, take=take)
    with opened_parent(path) as (parent, name), contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        made.append(path)
    with opened(path) as found:
        directory = os.open(".", _READ_DIRECTORY, dir_fd=found)
        try:
            user = os.fstat(directory).st_uid
            if take is not None and user not in take:
                raise DaskError(
                    "{0} is refused: it belongs to account number {1}. Remove it, or name another path.".format(
                        path, user
                    )
                )
            if owner is not None:
                os.fchown(directory, *owner)
            os.fchmod(directory, mode)
        finally:
            os.close(directory)
    return made


def remove_tree(path: str) -> bool:
    """Removes what is at ``path``, with all that is in it. Of a link only the link goes.

    :returns: Whether there was something.
    :raises DaskError: a file system is mounted there or below, or somebody goes on writing there.
    """
    refuse_mounted(path)
    try:
        with opened_parent(path) as (parent, name):
            _remove(parent, name, path)
    except FileNotFoundError:
        return False
    return True


def refuse_mounted(path: str) -> None:
    """:raises DaskError: file systems are mounted at a path or below, so that removing it would empty them."""
    try:
        with opened_parent(path) as (parent, name):
            real = os.path.join(os.readlink("/proc/self/fd/{0}".format(parent)), name)  # as mounts are listed
    except OSError:
        real = path
    mounted = [each for each in _mount_points() if each == real or each.startswith(real.rstrip("/") + "/")]
    if mounted:
        raise DaskError(
            "{0} is not removed, as file systems are mounted in it: {1}. Unmount them, and run this again.".format(
                path, ", ".join(mounted)
            )
        )


def rename(old: str, new: str) -> None:
    """Gives what is at a path another name in the same directory. :raises OSError: something is there already."""
    with opened_parent(old) as (parent, name):
        os.rename(name, os.path.basename(new), src_dir_fd=parent, dst_dir_fd=parent)


def is_mount_point(path: str) -> bool:
    """Whether another file system, or another directory, is mounted at ``path``."""
    return path in _mount_points()


def _mount_points() -> list[str]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4]) for line in lines]


def names_in(path: str) -> list[str]:
    """Returns the names in a directory, none where there is no directory."""
    try:
        with opened(path) as found:
            directory = os.open(".", _READ_DIRECTORY, dir_fd=found)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(directory))
    finally:
        os.close(directory)


def _walk(path: str) -> int:
    if not os.path.isabs(path):
        path = os.path.abspath(path)
    left = path.split("/")[::-1]
    links = 0
    current = os.open("/", _SEARCH)
    try:
        while left:
            name = left.pop()
            if name in ("", "."):
                continue
            try:
                following = os.open(name, _SEARCH, dir_fd=current)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                    raise
                links += 1
                target = _link_target(current, name, path) if links < _MOST_LINKS else ""
                if not target:
                    raise DaskError("{0} is refused: {1} is a link that leads to itself.".format(path, name)) from error
                left += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                following = os.open("/", _SEARCH)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def _link_target(parent: int, name: str, path: str) -> str:
    """Returns where a link leads that may be followed.

    :raises DaskError: it is not a link, or others may have made it.
    """
    if not stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        raise DaskError(
            "{0} is refused: {1!r} in it is not a directory. Move it away, or choose another path.".format(path, name)
        )
    above = os.fstat(parent)
    if os.geteuid() == 0 and (above.st_uid != 0 or above.st_mode & 0o022):
        raise DaskError(
            "{0} is refused: {1!r} in it is a link, in a directory that others than root can write to. Root follows no "
            "link that others may have made. Remove the link, or name the path that it leads to.".format(path, name)
        )
    return os.readlink(name, dir_fd=parent)


def _open_file(parent: int, name: str) -> int | None:
    """Returns the descriptor of a file, None for a link. A FIFO without a writer does not block."""
    try:
        return os.open(name, _READ_FILE, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            return None
        raise


def _remove(parent: int, name: str, path: str) -> None:
    """Removes a name with all that is below it. :raises DaskError: somebody goes on writing there."""
    if not _is_directory(parent, name):
        os.unlink(name, dir_fd=parent)
        return
    directory = os.open(name, _READ_DIRECTORY, dir_fd=parent)
    try:
        for _round in range(_MOST_ROUNDS):
            while _flatten(directory):
                pass
            if _is_removed(parent, name):
                return
    finally:
        os.close(directory)
    raise DaskError(
        "{0} cannot be removed, as something goes on writing there. End it, and run this again.".format(path)
    )


def _flatten(directory: int) -> bool:
    """Removes what is in a directory, and moves what is in the directories below it up, to be removed next.

    Few directories are open at a time, and no long path is made, whatever somebody has put there.

    :returns: Whether there was something.
    """
    names = os.listdir(directory)
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # somebody else was faster
            if not _is_directory(directory, name):
                os.unlink(name, dir_fd=directory)
                continue
            below = os.open(name, _READ_DIRECTORY, dir_fd=directory)
            try:
                for each in os.listdir(below):
                    if not _is_directory(below, each):
                        os.unlink(each, dir_fd=below)
                    elif not _is_removed(below, each):
                        new = ".flotilla-removing-" + os.urandom(8).hex()
                        os.rename(each, new, src_dir_fd=below, dst_dir_fd=directory)
            finally:
                os.close(below)
            _is_removed(directory, name)
    return bool(names)


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _is_removed(parent: int, name: str) -> bool:
    """Removes a directory if nothing is in it."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
