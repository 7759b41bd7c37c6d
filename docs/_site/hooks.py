"""What the site shows beside docs/: pages of the repository's other folders, and generated ones.

Files keep the links that work on a code host. Here a link that leaves `docs/` brings its target
along, under the path that it has in the repository; a link to what no site shows (a folder, a
module) becomes plain text.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"<!-- table (\S+) (\S+) -->")
GENERATED = re.compile(r"<!-- generated (\w+) -->")
MADE: Mapping[str, Callable[[], str]] = {
    "root_keys": reference.root_keys,
    "groups": reference.groups,
    "commands": reference.commands,
}
SHOWN = (".md", ".png", ".svg", ".csv", ".json")
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md")


def on_config(config: MkDocsConfig) -> None:
    """Put generated pages and the results of all studies into the navigation."""
    pages = {"reference/keys": sorted(reference.key_pages()), "results": studies()}
    for section in config.nav or []:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict):
                    entry.update({t: pages[v] for t, v in entry.items() if str(v) in pages})


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Add generated pages, and what pages outside `docs/` are linked to."""
    for name, text in reference.key_pages().items():
        files.append(File.generated(config, name, content=text))
    waiting = [*ALWAYS, *studies()]
    for file in files.documentation_pages():
        waiting += outside(f"docs/{file.src_uri}", file.content_string)
        for page, name in TABLE.findall(file.content_string):
            waiting += outside(page, block(page, name))
    while waiting:
        name = waiting.pop()
        if files.get_file_from_path(name):
            continue
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
        if name.endswith(".md"):
            waiting += outside(name, (ROOT / name).read_text())


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fit links to the site, and put in what a page asks for: tables of results, generated text."""
    here = page.file.src_uri
    mounted = page.file.generated_by and (ROOT / here).exists()
    known = {file.src_uri for file in files}

    def fit(text: str, home: str) -> str:
        """Links of a file of the repository, as this page needs them."""

        def fitted(match: re.Match[str]) -> str:
            target = site_path(resolved(home, match[1]))
            if target not in known:
                return "]()"
            return f"]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{match[2]})"

        parts = FENCE.split(text)
        shown = [part if FENCE.match(part) else LINK.sub(fitted, part) for part in parts]
        return re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\)", r"\1", "".join(shown))

    text = reference.anchored(markdown) if here == "DEVIATIONS.md" else markdown
    text = fit(text, here if mounted else f"docs/{here}")
    text = TABLE.sub(lambda match: fit(block(match[1], match[2]), match[1]), text)
    return GENERATED.sub(lambda match: fit(MADE[match[1]](), f"docs/{here}"), text)


def studies() -> list[str]:
    """The page of each study, its parts, and each trained network."""
    return sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("results/*/**/README.md"))


def outside(page: str, text: str) -> Iterator[str]:
    """Files outside `docs/` that a page of the repository links to and the site can show."""
    prose = FENCE.sub("", text)
    for link, _ in LINK.findall(prose):
        target = resolved(page, link)
        if site_path(target) == target and target.endswith(SHOWN) and (ROOT / target).is_file():
            yield target


def resolved(page: str, link: str) -> str:
    """The path in the repository that a page's link leads to; of a folder, its README."""
    if link.startswith("/"):
        return f"docs{link}"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return f"{target}/README.md" if (ROOT / target).is_dir() else target


def site_path(target: str) -> str:
    """Where a file of the repository lies in the site."""
    return "index.md" if target == "README.md" else target.removeprefix("docs/")


def block(file: str, name: str) -> str:
    """The table between the marks of that name in a file of results.

    Raises:
        LookupError: it has none, or several.
    """
    found = re.findall(rf"<!-- {name} -->(.*?)<!-- /{name} -->", (ROOT / file).read_text(), re.S)
    if len(found) != 1:
        raise LookupError(f"{file} has {len(found)} tables named {name}")
    return str(found[0])
