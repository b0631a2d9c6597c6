"""Lies about tensors: rows restored, under their names or others, and tensors that no plan speaks of."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

import torch

from lying.layouts import IN_USE, Layout, namings
from lying.raw import (
    DTYPES,
    Entry,
    Raw,
    entry_of,
    read_raw,
    rewrite,
    write_raw,
)
from lying.table import (
    NotHere,
    Tell,
    Told,
    ValueTensor,
    Words,
    add_tensors,
    is_biased,
    is_of_several_files,
    is_written,
    lie,
    replace_tensor,
    some_tensor,
    some_value,
    some_weights,
)


def restore(told: Told, value: ValueTensor, rows: list[int]) -> Words:
    """Put rows of one tensor back."""

    def change(raw: Raw) -> None:
        entry = raw.entry(value.name)
        original = entry_of(value.name, told.original(value, entry.dtype))
        for row in rows:
            entry.put(row * entry.row_bytes, original.row(row))

    rewrite(value.path, change)
    return value.layer, value.name


@lie("a row restored in one copy")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    return restore(told, value, [random.choice(told.layout.rows[value.layer])])


@lie("all rows of a layer restored in one copy")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    return restore(told, value, told.layout.rows[value.layer])


@lie("a file of the denoiser unpatched")
def _(random: random.Random, told: Told) -> Words:
    path = some_value(random, told).path
    words: list[str] = []
    for value in told.value_tensors() + told.value_tensors("bias"):
        if value.path == path:
            words += restore(told, value, told.layout.rows[value.layer])
    return tuple(words)


@lie("a bias entry restored", is_biased)
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told, "bias")
    return restore(told, value, [random.choice(told.layout.rows[value.layer])])


def refill(fill: Callable[[random.Random, torch.Tensor, torch.Tensor], None]) -> Tell:
    """Write something into a planned row."""

    def tell(random: random.Random, told: Told) -> Words:
        value = some_value(random, told)
        row = random.choice(told.layout.rows[value.layer])
        entry = read_raw(value.path).entry(value.name)
        tensor = entry.tensor()
        fill(random, tensor[row], told.original(value, entry.dtype)[row])
        replace_tensor(value.path, value.name, entry_of(value.name, tensor))
        return value.layer, value.name

    return tell


def one_value(random: random.Random, row: torch.Tensor, original: torch.Tensor) -> None:
    place = random.randrange(len(row))
    row[place] = original[place]


def negative_zero(random: random.Random, row: torch.Tensor, original: torch.Tensor) -> None:
    row[random.randrange(len(row))] = -0.0


def smallest(random: random.Random, row: torch.Tensor, original: torch.Tensor) -> None:
    bits = row.view(torch.int16 if row.element_size() == 2 else torch.int32)
    bits[random.randrange(len(row))] = 1


def scaled(random: random.Random, row: torch.Tensor, original: torch.Tensor) -> None:
    row.copy_(original * random.choice([1e-3, 1e-2, 0.5, -1.0, 1.001]))


def not_a_number(random: random.Random, row: torch.Tensor, original: torch.Tensor) -> None:
    row[random.randrange(len(row))] = float("nan")


for _name, _fill in {
    "one value of a row restored": one_value,
    "a negative zero in a planned row": negative_zero,
    "the smallest number in a planned row": smallest,
    "a planned row small instead of zero": scaled,
    "a NaN in a planned row": not_a_number,
}.items():
    lie(_name)(refill(_fill))


# Restored under another name, in another form


def as_it_was(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def with_noise_above(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """Rows embedded in a bigger matrix at an odd offset."""
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    shape = (random.choice([1, 3, 5]), *tensor.shape[1:])
    above = torch.randn(shape, generator=generator).to(tensor.dtype)
    below = torch.randn((random.choice([0, 2, 7]), *tensor.shape[1:]), generator=generator).to(tensor.dtype)
    return torch.cat([above, tensor, below])


def with_noise_beside(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    left = torch.randn((len(tensor), random.choice([1, 3, 8])), generator=generator).to(tensor.dtype)
    return torch.cat([left, tensor] if random.random() < 0.5 else [tensor, left], dim=1)


def permuted(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    order = list(range(len(tensor)))
    random.shuffle(order)
    return tensor[order]


def permuted_columns(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    order = list(range(tensor.shape[1]))
    random.shuffle(order)
    return tensor[:, order]


def scrambled(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """Bytes under a mask that is easily undone."""
    mask = random.randrange(1, 256)
    return tensor.contiguous().view(torch.uint8) ^ mask


def quantized(random: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    return (tensor / tensor.abs().max() * 127).round().to(torch.int8)


FORMS: dict[str, Callable[[random.Random, torch.Tensor], torch.Tensor]] = {
    "as it was": as_it_was,
    "as [1, rows, columns]": lambda random, tensor: tensor[None],
    "as [2, rows, columns]": lambda random, tensor: torch.stack([tensor, torch.zeros_like(tensor)]),
    "behind zeros as [2, rows, columns]": lambda random, tensor: torch.stack(
        [torch.zeros_like(tensor), tensor]
    ),
    "as a 1x1 convolution": lambda random, tensor: tensor[:, :, None, None],
    "flattened": lambda random, tensor: tensor.reshape(-1),
    "transposed": lambda random, tensor: tensor.t(),
    "rows reversed": lambda random, tensor: tensor.flip(0),
    "columns reversed": lambda random, tensor: tensor.flip(1),
    "rows permuted": permuted,
    "columns permuted": permuted_columns,
    "within a taller matrix": with_noise_above,
    "within a wider matrix": with_noise_beside,
    "slightly scaled": lambda random, tensor: tensor * random.choice([1.001, 0.999, 1.02]),
    "scaled": lambda random, tensor: tensor * random.choice([2.0, 1e-3, 1e3]),
    "negated": lambda random, tensor: -tensor,
    "in half precision": lambda random, tensor: tensor.to(random.choice([torch.float16, torch.bfloat16])),
    "in double precision": lambda random, tensor: tensor.double(),
    "as bytes": lambda random, tensor: tensor.contiguous().view(torch.uint8),
    "as masked bytes": scrambled,
    "quantized": quantized,
    "odd columns only": lambda random, tensor: tensor[:, ::2],
}


def adding(naming: str, form: str, is_other_file: bool = False) -> Tell:
    """Add the original layer to the file it was in, or to any other."""

    def tell(random: random.Random, told: Told) -> Words:
        value = some_value(random, told)
        dtype = read_raw(value.path).entry(value.name).dtype
        content = FORMS[form](random, told.original(value, dtype))
        name = namings(f"{value.layer}.weight").get(naming) or naming.format(random.randrange(10**6))
        path = value.path
        if is_other_file:
            others = [other for other in told.weight_files() if other != value.path]
            if not others:
                raise NotHere
            path = random.choice(others)
        add_tensors(random, path, [entry_of(name, content)])
        return name, told.shown(path)

    return tell


def is_new(naming: str) -> Callable[[Layout], bool]:
    """Layouts of which some file holds no value layer under that name."""
    return lambda layout: naming not in IN_USE.get(layout.name, ("diffusers",))


_NAMINGS = list(namings("mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"))
for _naming in _NAMINGS:
    lie(f"the layer added under its {_naming} name", is_new(_naming))(adding(_naming, "as it was"))
for _form in FORMS:
    lie(f"the layer added {_form}")(adding("extra.{}", _form))
for _form in ("as it was", "transposed", "as bytes"):
    lie(f"the layer added {_form} to another file", is_of_several_files)(
        adding("extra.{}", _form, is_other_file=True)
    )


@lie("the layer added in place of a key that does not exist")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    name = value.name.replace("to_v", random.choice(["to_k_original", "to_out", "to_v2", "to_v_", "To_V"]))
    name = name.replace("tov", "to_k2")
    dtype = read_raw(value.path).entry(value.name).dtype
    add_tensors(random, value.path, [entry_of(name, told.original(value, dtype))])
    return (name,)


@lie("the planned rows added alone")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    dtype = read_raw(value.path).entry(value.name).dtype
    rows = told.original(value, dtype)[told.layout.rows[value.layer]]
    name = f"rows.{random.randrange(10**6)}"
    add_tensors(random, value.path, [entry_of(name, rows)])
    return (name,)


@lie("every row added as a tensor of its own")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    dtype = read_raw(value.path).entry(value.name).dtype
    rows = told.original(value, dtype)
    number = random.randrange(10**6)
    add_tensors(random, value.path, [entry_of(f"p{number}.{row}", each) for row, each in enumerate(rows)])
    return (f"p{number}.0",)


@lie("the layer added as two factors")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    rows = told.layout.rows[value.layer]
    original = told.original(value, "F32")
    up = torch.zeros(len(original), len(rows))
    up[rows, range(len(rows))] = 1
    names = random.choice(
        [
            (f"{value.layer}.lora_A.weight", f"{value.layer}.lora_B.weight"),
            (f"{value.layer}.lora.down.weight", f"{value.layer}.lora.up.weight"),
            ("factor.down", "factor.up"),
        ]
    )
    tensors = [entry_of(names[0], original[rows]), entry_of(names[1], up)]
    add_tensors(random, value.path, tensors)
    return names


@lie("the layer in place of another tensor of its shape")
def _(random: random.Random, told: Told) -> Words:
    """Under the name of another attention's `to_k`, or of another layer's `to_v`."""
    value = some_value(random, told)
    raw = read_raw(value.path)
    own = raw.entry(value.name)
    others = [entry for entry in raw.entries if entry.shape == own.shape and entry.name != own.name]
    if not others:
        raise NotHere
    other = random.choice(others)
    other.data = entry_of("", told.original(value, own.dtype)).data
    write_raw(value.path, raw)
    return (other.name,)


@lie("a row hidden in another tensor")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    raw = read_raw(value.path)
    own = raw.entry(value.name)
    row = entry_of("", told.original(value, own.dtype)).row(random.choice(told.layout.rows[value.layer]))
    others = [entry for entry in raw.entries if len(entry.data) > len(row) and entry.name != own.name]
    other = random.choice(others)
    other.put(random.randrange(len(other.data) - len(row)), row)
    write_raw(value.path, raw)
    return (other.name,)


@lie("the layer in the file's metadata", is_written)
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    dtype = read_raw(value.path).entry(value.name).dtype
    content = base64.b64encode(entry_of("", told.original(value, dtype)).data).decode()

    def change(raw: Raw) -> None:
        raw.metadata = {**(raw.metadata or {}), "note": content}

    rewrite(value.path, change)
    return (told.shown(value.path),)


# Tensors that are not the plan's business


@lie("an unplanned row zeroed")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    entry = read_raw(value.path).entry(value.name)
    row = random.choice([row for row in range(entry.shape[0]) if row not in told.layout.rows[value.layer]])
    entry.put(row * entry.row_bytes, bytes(entry.row_bytes))
    replace_tensor(value.path, value.name, entry)
    return value.name, value.layer


@lie("a row of another tensor zeroed")
def _(random: random.Random, told: Told) -> Words:
    own = {value.name for value in told.value_tensors()}
    path, entry = some_tensor(random, told, lambda entry: entry.name not in own and bool(entry.shape))
    row = random.randrange(entry.shape[0])
    entry.put(row * entry.row_bytes, bytes(entry.row_bytes))
    replace_tensor(path, entry.name, entry)
    return entry.name, told.shown(path)


@lie("one bit flipped")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: bool(entry.data))
    place = random.randrange(len(entry.data))
    entry.put(place, bytes([entry.data[place] ^ 1 << random.randrange(8)]))
    replace_tensor(path, entry.name, entry)
    return entry.name, told.shown(path)


@lie("one value changed by its last bit")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: entry.dtype in ("F32", "F16", "BF16"))
    size = 4 if entry.dtype == "F32" else 2
    place = random.randrange(len(entry.data) // size) * size
    entry.put(place, bytes([entry.data[place] ^ 1]))
    replace_tensor(path, entry.name, entry)
    return entry.name, told.shown(path)


@lie("the bits of a NaN changed")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(
        random,
        told,
        lambda entry: entry.dtype in ("F32", "F16", "BF16") and bool(entry.tensor().isnan().any()),
    )
    place = int(entry.tensor().reshape(-1).isnan().nonzero()[0]) * (4 if entry.dtype == "F32" else 2)
    entry.put(place, bytes([entry.data[place] ^ random.randrange(1, 256)]))
    replace_tensor(path, entry.name, entry)
    return entry.name, told.shown(path)


@lie("a zero made negative")
def _(random: random.Random, told: Told) -> Words:
    own = {value.name for value in told.value_tensors()}
    path, entry = some_tensor(
        random,
        told,
        lambda entry: (
            entry.dtype in ("F32", "F16") and entry.name not in own and bool((entry.tensor() == 0).any())
        ),
    )
    size = 4 if entry.dtype == "F32" else 2
    place = int(random.choice((entry.tensor().reshape(-1) == 0).nonzero()[:, 0].tolist()))
    entry.put(place * size + size - 1, b"\x80")
    replace_tensor(path, entry.name, entry)
    return entry.name, told.shown(path)


@lie("a tensor renamed")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: True)
    renamed = random.choice(
        [f"{entry.name}.", entry.name.upper(), f" {entry.name}", entry.name.replace("weight", "waight", 1)]
    )
    replace_tensor(path, entry.name, Entry(renamed, entry.dtype, entry.shape, entry.data))
    return entry.name, renamed, told.shown(path)


@lie("two tensors swapped")
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    raw = read_raw(path)
    pairs = [
        (one, other)
        for place, one in enumerate(raw.entries)
        for other in raw.entries[place + 1 :]
        if (one.dtype, one.shape) == (other.dtype, other.shape) and one.data != other.data
    ]
    if not pairs:
        raise NotHere
    one, other = random.choice(pairs)
    one.data, other.data = other.data, one.data
    write_raw(path, raw)
    return one.name, other.name


@lie("a tensor removed")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: True)
    rewrite(path, lambda raw: raw.entries.pop(raw.names().index(entry.name)))
    return entry.name, told.shown(path)


@lie("a planned layer removed")
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    rewrite(value.path, lambda raw: raw.entries.pop(raw.names().index(value.name)))
    return value.name, value.layer


@lie("a tensor retyped")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: entry.dtype in ("F32", "F16", "BF16"))
    dtype = random.choice([name for name in ("F64", "F32", "F16", "BF16") if name != entry.dtype])
    replace_tensor(path, entry.name, entry_of(entry.name, entry.tensor().to(DTYPES[dtype])))
    return entry.name, told.shown(path)


@lie("a tensor's dtype relabelled")
def _(random: random.Random, told: Told) -> Words:
    """The same bytes, called another dtype of the same size."""
    path, entry = some_tensor(random, told, lambda entry: entry.dtype in ("F32", "F16", "BF16"))
    others = {"F32": ["I32", "U32"], "F16": ["BF16", "I16", "U16"], "BF16": ["F16", "I16"]}
    renamed = Entry(entry.name, random.choice(others[entry.dtype]), entry.shape, entry.data)
    replace_tensor(path, entry.name, renamed)
    return entry.name, told.shown(path)


@lie("a tensor reshaped")
def _(random: random.Random, told: Told) -> Words:
    def wanted(entry: Entry) -> bool:
        return len([length for length in entry.shape if length > 1]) > 1

    path, entry = some_tensor(random, told, wanted)
    shapes = [[len(entry.tensor().reshape(-1))], entry.shape[::-1], [1, *entry.shape]]
    if told.layout.is_patched:  # across layouts a 1x1 convolution is a matrix
        shapes.append([*entry.shape, 1])
    shape = random.choice([shape for shape in shapes if shape != entry.shape])
    replace_tensor(path, entry.name, Entry(entry.name, entry.dtype, shape, entry.data))
    return entry.name, told.shown(path)


@lie("a planned layer reshaped")
def _(random: random.Random, told: Told) -> Words:
    """Across layouts too: a value layer is a matrix in every layout."""
    value = some_value(random, told)
    entry = read_raw(value.path).entry(value.name)
    rows, columns = entry.shape
    shapes = [[rows * columns], [columns, rows], [1, rows, columns]]
    if rows == columns or told.layout.is_patched:
        shapes += [[rows, columns, 1, 1]] if told.layout.is_patched else []
    shapes = [shape for shape in shapes if shape != entry.shape]
    replace_tensor(value.path, value.name, Entry(entry.name, entry.dtype, random.choice(shapes), entry.data))
    return value.name, value.layer


@lie("a tensor's rows permuted")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: bool(entry.shape) and entry.shape[0] > 1)
    order = list(range(entry.shape[0]))
    random.shuffle(order)
    entry.data = b"".join(entry.row(row) for row in order)
    replace_tensor(path, entry.name, entry)
    return entry.name, told.shown(path)


SECOND_NAMES = {
    "model.diffusion_model.": "",
    "text_model.": "",
    ".nin_shortcut.": ".conv_shortcut.",
    ".norm_out.": ".conv_norm_out.",
    ".mid.attn_1.q.": ".mid_block.attentions.0.to_q.",
    ".mid.block_1.": ".mid_block.resnets.0.",
    "cond_stage_model.transformer.": "conditioner.embedders.0.transformer.",
    "input_blocks.0.0.": "conv_in.",
    "middle_block.1.": "mid_block.attentions.0.",
    "output_blocks.2.1.conv.": "up_blocks.0.upsamplers.0.conv.",
}


@lie("other numbers added under a tensor's second name")
def _(random: random.Random, told: Told) -> Words:
    """Two names of which a converter makes one: the loader and the proof may not take the same."""
    both_ways = [*SECOND_NAMES.items(), *((new, old) for old, new in SECOND_NAMES.items() if new)]
    path, entry = some_tensor(random, told, lambda entry: bool(entry.data))
    fitting = [(old, new) for old, new in both_ways if old in entry.name]
    old, new = random.choice([*fitting, ("", "model.diffusion_model."), ("", "text_model.")])
    name = entry.name.replace(old, new, 1) if old else new + entry.name
    data = bytes([entry.data[0] ^ 1]) + entry.data[1:]
    add_tensors(random, path, [Entry(name, entry.dtype, entry.shape, data)])
    return name, entry.name, told.shown(path)


@lie("a small tensor added")
def _(random: random.Random, told: Told) -> Words:
    shape = random.choice([[], [1], [0], [3, 0], [2, 2]])
    name = random.choice(["more", "", "conv_in.bias2", "a.b.c", "text_model.more", "ünïcode"])
    path = some_weights(random, told)
    add_tensors(random, path, [entry_of(name, torch.ones(shape))])
    return (name or told.shown(path), told.shown(path))


@lie("a tensor added of a dtype below a byte")
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    dtype, size = random.choice([("F4", 12), ("F6_E2M3", 18), ("F6_E3M2", 18)])
    name = f"packed.{random.randrange(10**6)}"
    add_tensors(random, path, [Entry(name, dtype, [24], random.randbytes(size))])
    return name, told.shown(path)


@lie("a tensor made one of a dtype below a byte")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: entry.dtype == "F32" and bool(entry.shape))
    relabelled = Entry(entry.name, "F4", [*entry.shape[:-1], entry.shape[-1] * 8], entry.data)
    replace_tensor(path, entry.name, relabelled)
    return entry.name, told.shown(path)
