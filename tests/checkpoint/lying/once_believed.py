"""The lies that the proof once believed (commit 311f282), each with the reason: where to look first."""

_KEY = "two names became one key when a single file was split, and the tensor read later hid the other"
_PICKLE = "only one state dict of a pickle was compared, and `patch` writes no pickle at all"
_NO_HEADER = "where A was a pickle, nothing was compared with B's header"
_HEADER = "of a header only metadata, names and offsets were compared, not its bytes"
_LINK = "links were followed wherever they led"
_MANIFEST = "the manifest was not looked at"

ONCE_BELIEVED = {
    "the layer added under its diffusers name": _KEY,
    "the layer added under its single file name": _KEY,
    "the layer added under its prefixless name": _KEY,
    "the layer added under its denoiser inside denoiser name": _KEY,
    "other numbers added under a tensor's second name": _KEY,
    "a planned layer reshaped": "[r, c, 1, 1] counted as [r, c] where a planned row differed",
    "pickled: originals at the top, the patched state_dict within": _PICKLE,
    "pickled: a further state dict beside": _PICKLE,
    "pickled: a list of originals beside": _PICKLE,
    "pickled: originals deep within": _PICKLE,
    "pickled: state dicts within state dicts": _PICKLE,
    "pickled: originals as bytes": _PICKLE,
    "pickled: a prompt beside": _PICKLE,
    "pickled: a row in a tensor's storage behind its end": _PICKLE,
    "the layer in the file's metadata": _NO_HEADER,
    "metadata added": _NO_HEADER,
    "metadata changed or removed": _NO_HEADER,
    "the order of the data changed": _NO_HEADER,
    "the header padded further": _NO_HEADER,
    "bits written in the header's padding": _NO_HEADER,
    "a further field in a tensor's entry": _NO_HEADER,
    "white space within the header": _HEADER,
    "a name written with escapes": _HEADER,
    "numbers written differently in the header": _HEADER,
    "the entries' fields in another order": _HEADER,
    "the header's order changed": _HEADER,
    "a link to the same content elsewhere": _LINK,
    "a folder linked to the same content elsewhere": _LINK,
    "manifest: other rows": _MANIFEST,
    "manifest: a layer added": _MANIFEST,
    "manifest: other zeroed rows of a file": _MANIFEST,
    "manifest: the hash of a file changed": _MANIFEST,
    "manifest: the hash of the neurons changed": _MANIFEST,
    "manifest: a number changed": _MANIFEST,
    "manifest: a field added that holds a prompt": _MANIFEST,
    "manifest: a field removed": _MANIFEST,
    "manifest: another format": _MANIFEST,
    "manifest: versions that are none": _MANIFEST,
    "manifest: a prompt in a known field": _MANIFEST,
    "manifest: the list of files changed": _MANIFEST,
    "manifest: the list of copies changed": _MANIFEST,
    "manifest: the list of what was left out changed": _MANIFEST,
    "manifest: not one JSON value": _MANIFEST,
    "manifest: a name that stands twice": _MANIFEST,
    "manifest: of another output": _MANIFEST,
    "manifest: a link, a folder or weights in its place": _MANIFEST,
}
