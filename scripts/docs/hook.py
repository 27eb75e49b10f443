"""What mkdocs calls (`hooks` in mkdocs.yml): adds the generated pages, completes the navigation, moves links."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.docs import site


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of `@tasks`, `@methods`, ... into the navigation."""
    groups = site.groups()

    def filled(items: list[Any]) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if isinstance(item, str) and item.startswith("@"):
                found += groups[item[1:]]
            elif isinstance(item, dict):
                found += [{name: filled(value) if isinstance(value, list) else value for name, value in item.items()}]
            else:
                found.append(item)
        return found

    config.nav = filled(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/."""
    for path, text in site.pages().items():
        files.append(File.generated(config, path, content=text))
    for path, source in site.assets().items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the checkout lead to their pages, on pages that are written by hand."""
    path = page.file.src_uri
    return markdown if path in site.pages() else site.written(markdown, path)
