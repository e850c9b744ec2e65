"""The traces that come with the package, so that the main job needs neither training nor network."""

from pathlib import Path

from traces.errors import UserError

_DATA = Path(__file__).parent / "data"


def embedded_names() -> tuple[str, ...]:
    """Names of the traces in the package."""
    return tuple(sorted(path.stem for path in _DATA.glob("*.safetensors")))


def embedded_trace_path(name: str = "demo") -> Path:
    """File of the embedded trace `name`.

    Raises: UserError if the package has no such trace.
    """
    if name not in embedded_names():
        raise UserError(f"trace={name!r} is not embedded; embedded are {', '.join(embedded_names()) or 'none'}")
    return _DATA / f"{name}.safetensors"


def trace_path(name: str) -> Path:
    """A file of this name, else the embedded trace of this name."""
    path = Path(name)
    return embedded_trace_path(name) if not path.exists() and name in embedded_names() else path
