"""The addresses in a release's metadata: those of the repository that releases it.

Whoever builds says where that is, ``MRRAG_REPOSITORY=https://host/owner/name``; without it a
package names no address, rather than somebody else's.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RepositoryUrls(MetadataHookInterface):
    """Fill ``project.urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the addresses below the repository's."""
        repository = os.environ.get("MRRAG_REPOSITORY", "").rstrip("/")
        if not repository:
            return
        if not repository.startswith("https://"):
            raise ValueError(f"MRRAG_REPOSITORY is not an https address: {repository!r}")
        metadata["urls"] = {
            "Repository": repository,
            "Documentation": f"{repository}/blob/main/docs/index.md",
            "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }
