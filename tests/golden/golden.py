"""What the scripts that make golden files share: `python3 SCRIPT` writes the file, `python3 SCRIPT --check` says whether it is up to date."""
import sys
from pathlib import Path

# Another processor may round the last digit that is printed otherwise.
TOLERANCE = 2e-6


def same(old, new):
    """Whether two words are the same, or two numbers nearly."""
    if old == new:
        return True
    try:
        return abs(float(old) - float(new)) <= TOLERANCE * max(1.0, abs(float(new)))
    except ValueError:
        return False


def write_or_check(path, lines):
    """Writes `lines`, or with `--check` compares them with the file and exits with 1 where they differ."""
    path, arguments = Path(path), sys.argv[1:]
    if arguments not in ([], ["--check"]):
        sys.exit(f"usage: {sys.argv[0]} [--check]")
    if not arguments:
        path.write_text("\n".join(lines) + "\n")
        return print(f"wrote {path}")
    old = path.read_text().splitlines()
    different = [
        f"line {number}: {new[:60]}" for number, (before, new) in enumerate(zip(old, lines), 1)
        if len(before.split()) != len(new.split()) or not all(map(same, before.split(), new.split()))]
    if len(old) != len(lines):
        different.append(f"{len(old)} lines, not {len(lines)}")
    if different:
        sys.exit(f"{path} is not up to date:\n" + "\n".join(different))
    print(f"{path} is up to date")
