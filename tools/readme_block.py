"""Print one shell block of README.md, so that what the README says is what gets run.

bash -euo pipefail -c "$(python3 tools/readme_block.py build)"
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(text: str) -> dict[str, str]:
    """Return name -> shell text of every block marked ``<!-- block: name -->``."""
    found = re.findall(r"<!-- block: ([\w-]+) -->\s*```bash\n(.*?)```", text, flags=re.DOTALL)
    return {str(name): str(body) for name, body in found}


if __name__ == "__main__":
    known = blocks(README.read_text(encoding="utf-8"))
    if len(sys.argv) != 2 or sys.argv[1] not in known:
        sys.exit(f"usage: readme_block.py {'|'.join(known)}")
    print(known[sys.argv[1]])
