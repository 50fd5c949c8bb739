"""The config files that come with the package, wherever it is installed."""

import pathlib

# In a checkout a link to `configs/` beside the package; in an installed package a folder of its own.
_FOLDER = pathlib.Path(__file__).parent.parent / "configs"


def find_config(path: str) -> str | None:
    """The file of what `--config` names, or None: the path itself, or a shipped file by its name.

    `configs/quickstart.py`, `quickstart.py` and `quickstart` are the shipped file where there is none of that path.
    """
    wanted = pathlib.Path(path)
    try:
        if wanted.is_file():
            return path
        if (
            wanted.parent.name in ("", "configs")
            and len(wanted.parts) <= 2
            and wanted.stem in shipped_configs()
        ):
            return str(_FOLDER / f"{wanted.stem}.py") if wanted.suffix in ("", ".py") else None
    except (OSError, ValueError):  # a name that no file can have
        return None
    return None


def shipped_configs() -> list[str]:
    """Their names, without `.py`."""
    return sorted(path.stem for path in _FOLDER.glob("*.py"))
