"""Documents held against the fields that describe them, both ways."""

from surgery.formats import FormatField

NOT_HERE = ("fell_back", "evaluations_saved", "image_unlike")
# what no document here has: it takes a contradiction in a search, an attribution, a wrong image, or weights
# of one's own
RARE = {f"{where}{name}" for where in ("", "prompts[].") for name in NOT_HERE} | {
    f"ordinary.quality.{name}" for name in ("clip_score.*", "distances.*", "distances.*.*")
}


class Described:
    """Holds documents against the fields that describe them; `seen` collects the fields that occurred."""

    def __init__(self, described: tuple[FormatField, ...]) -> None:
        self.fields = {one.path: one for one in described}
        assert len(self.fields) == len(described), "a path stands twice"
        self.seen: set[str] = set()

    def check(self, value, path: str = "") -> None:
        known = self.fields.get(path)
        if known is not None:
            self.seen.add(path)
            assert _has_type(value, known.type), f"{path} is {value!r}, not {known.type}"
            if known.type == "any":
                return
        elif not any(other.startswith((f"{path}.", f"{path}[]")) for other in self.fields) and path:
            raise AssertionError(f"{path} is not described in surgery/formats")
        if isinstance(value, dict):
            for name, inner in value.items():
                exact, star = (f"{path}.{last}".lstrip(".") for last in (name, "*"))
                self.check(inner, exact if self._leads_on(exact) or not self._leads_on(star) else star)
        elif isinstance(value, list) and self._leads_on(f"{path}[]"):
            for inner in value:
                self.check(inner, f"{path}[]")

    def _leads_on(self, path: str) -> bool:
        return path in self.fields or any(
            other.startswith((f"{path}.", f"{path}[]")) for other in self.fields
        )

    def assert_complete(self) -> None:
        unseen = set(self.fields) - self.seen - RARE
        assert not unseen, f"described in surgery/formats, but in no document: {sorted(unseen)}"
        always = {path for path in RARE & set(self.fields) if not self.fields[path].only}
        assert not always, f"not marked as optional: {sorted(always)}"


def _has_type(value, kind: str) -> bool:
    if kind.endswith(" or null"):
        return value is None or _has_type(value, kind.removesuffix(" or null"))
    if kind.startswith("list"):
        inner = kind.removeprefix("list").removeprefix(" of ")
        return isinstance(value, list) and (not inner or all(_has_type(one, inner) for one in value))
    if kind in ("integer", "number"):
        allowed = int if kind == "integer" else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return kind == "any" or isinstance(value, {"text": str, "boolean": bool, "object": dict}[kind])


def held_against(format_, *documents) -> Described:
    described = Described(format_.fields)
    for document in documents:
        assert not format_.tag or document["format"] == format_.tag
        described.check(document)
    return described
