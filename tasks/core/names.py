"""Relative file names from outside, before they become paths: one rule for hosts and stores."""

from __future__ import annotations


def name_fault(path: object, max_bytes: int) -> tuple[str, str] | None:
    """Say why a relative file name could leave its folder, or confuse a shell, a terminal or a log.

    Args:
        path: What is said to be a name.
        max_bytes: It may have, as UTF-8.

    Returns:
        The name as it can be shown, and the reason; None: it may be used.
    """
    if not isinstance(path, str) or not path:
        return str(path), "it is empty or no text"
    if path.startswith("/"):
        return path, "it is absolute"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return path, "a part of it is empty, '.' or '..'"
    if "\\" in path or not path.isprintable():
        return path, "it has a backslash or a character that cannot be shown"
    if len(path.encode("utf-8", "surrogatepass")) > max_bytes:
        return path[:80] + "...", f"it is longer than {max_bytes} bytes"
    return None
