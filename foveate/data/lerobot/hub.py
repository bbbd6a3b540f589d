"""Where a LeRobot data set lies: a folder, lerobot's own cache, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from foveate.data.lerobot.episodes import load_episodes
from foveate.data.lerobot.info import load_info
from foveate.errors import FoveateError

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_dataset(source: str | Path, episodes: Sequence[int] | None = None, revision: str | None = None) -> Path:
    """The folder of a data set; what is not on this machine is fetched from the hub, an interrupted fetch goes on.

    Args:
        source: a folder, or `owner/name`; that is looked for in lerobot's cache (`HF_LEROBOT_HOME`) before the hub.
        episodes: whose files are needed; None: all.
    Raises:
        FoveateError: neither a folder nor a repository that can be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not REPO_ID.fullmatch(str(source)):
        raise FoveateError(f"{source}: no such folder; name one that holds meta/info.json, or OWNER/NAME of the hub")
    cache = os.environ.get("HF_LEROBOT_HOME") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "lerobot"
    local = Path(cache).expanduser() / str(source)
    if (local / "meta" / "info.json").exists():
        return local
    return _fetch(str(source), episodes, revision)


def _fetch(repo_id: str, episodes: Sequence[int] | None, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise FoveateError(
            f"{repo_id}: no such folder, and the hub needs huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        root = Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns="meta/**"))
        files: list[str] | None = None
        if episodes is not None:
            wanted = set(episodes)
            chosen = [episode for episode in load_episodes(root, load_info(root)) if episode.index in wanted]
            files = sorted({f for e in chosen for f in (e.data_file, *(clip.file for clip in e.clips.values()))})
            files.append("meta/**")
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=files))
    except FoveateError:
        raise
    except Exception as error:  # no network, no such repository, no permission
        raise FoveateError(
            f"{repo_id}: no such folder, and it cannot be fetched from the hub ({error}); run the same command again "
            "to go on with the download, or name a local folder"
        ) from error
