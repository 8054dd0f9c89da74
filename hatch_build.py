"""The addresses in a release's metadata: those of the repository that releases it.

Whoever builds says where that is, ``MRRAG_REPOSITORY=https://host/owner/name``; without it a
package names no address, rather than somebody else's.
"""

from __future__ import annotations

import os
import re
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RepositoryUrls(MetadataHookInterface):
    """Fill ``project.urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the addresses below the repository's."""
        repository = os.environ.get("MRRAG_REPOSITORY", "").strip().rstrip("/")
        if not repository:
            return
        # An address with a token before its host, as clones have it, would publish the token.
        if not re.fullmatch(r"https://[^\s/@]+/[^\s@]+", repository):
            raise ValueError("MRRAG_REPOSITORY is no address like https://host/owner/name")
        metadata["urls"] = {
            "Repository": repository,
            "Documentation": f"{repository}/blob/main/docs/index.md",
            "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }
