"""Builds the compiled engine where there is a C compiler. An install without one works, with the NumPy engine.

LOWMEM_BUILD in the environment: "require" makes a failure an error, "forbid" builds nothing. CC names the compiler,
LOWMEM_CFLAGS adds flags (the sanitizers of `make sanitize`).
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("lowmem/runtime/engines/native")
POSIX_FLAGS = (
    "-std=gnu11 -O3 -fPIC -shared -pthread -fvisibility=hidden "
    # Neither assumes finite numbers: NaN and infinity travel.
    "-fno-math-errno -fno-trapping-math -ffp-contract=fast"
)


class CompiledEngine(BuildHookInterface):  # type: ignore[type-arg]
    """Compile the C sources to one library that knows no Python, so that one wheel serves every Python version."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before files are gathered; an editable install leaves the library in the tree."""
        if self.target_name == "sdist":  # the sources alone
            return
        wish = os.environ.get("LOWMEM_BUILD", "")
        if wish not in ("", "require", "forbid"):
            raise ValueError(f'LOWMEM_BUILD={wish!r}: give "require" or "forbid", or leave it unset.')
        folder = Path(self.root) / FOLDER
        library = folder / ("_native.dll" if os.name == "nt" else "_native.so")
        library.unlink(missing_ok=True)
        if wish == "forbid":
            return
        try:
            compile_library(sorted((folder / "src").glob("*.c")), library)
        except (OSError, subprocess.CalledProcessError) as problem:
            told = getattr(problem, "stderr", None) or problem
            if wish == "require":
                raise RuntimeError(f"the compiled engine could not be built: {told}") from None
            self.app.display_warning(f"lowmem is installed without its compiled engine, as it did not build: {told}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        build_data["artifacts"].append(str(FOLDER / library.name))


def compile_library(sources: list[Path], library: Path) -> None:
    """Run the compiler. Raises `OSError` where there is none, `CalledProcessError` where it fails."""
    named = shlex.split(os.environ.get("CC", ""))
    compiler = named or [found for name in ("cc", "gcc", "clang", "cl") if (found := shutil.which(name))][:1]
    if not compiler:
        raise OSError("no C compiler was found (cc, gcc, clang, cl, or one that CC names)")
    extra = shlex.split(os.environ.get("LOWMEM_CFLAGS", ""))
    if Path(compiler[0]).stem.lower() == "cl":
        command = [*compiler, "/nologo", "/O2", "/std:c11", "/experimental:c11atomics", "/LD", *extra]
        command += [*map(str, sources), f"/Fe:{library}"]
    else:
        command = [*compiler, *POSIX_FLAGS.split(), *extra, *map(str, sources), "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=library.parent)


def platform_tag() -> str:
    """Return the platform part of a wheel's name."""
    if sys.platform == "darwin":
        from packaging.tags import sys_tags

        return next(sys_tags()).platform
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
