"""Every relative link in a page of Markdown leads to a file that is there, and to a heading if it names one."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(page: pathlib.Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def main() -> int:
    broken = 0
    for page in sorted(ROOT.rglob("*.md")):
        name = page.relative_to(ROOT)
        if "target" in name.parts:
            continue
        for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            missing = not target.exists()
            if missing or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                print(f"{name}: {link} leads nowhere")
                broken += 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
